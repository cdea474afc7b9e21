"""MedMNIST's files, made up: layout, splits, labels, digests; one function for these and datalists."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from robustmed_monai.data.medmnist import image_channels, image_dataset, medmnist_dataset, medmnist_info
from robustmed_monai.data.slice_dataset import identity_collate
from robustmed_monai.data.tensor_dataset import TensorDataset, with_corrupted
from robustmed_monai.transforms.corruption.core import identity
from robustmed_monai.transforms.corruption.unoranic import unoranic_chain
from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.files import write_json

Make = Callable[..., Path]


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`official(name, ...)` writes an npz that the installed medmnist takes for the official one."""
    import medmnist

    def make(name: str, pixels: tuple[int, ...] = (28, 28), labels: int = 1, suffix: str = "") -> Path:
        rng = np.random.default_rng(0)
        arrays: dict[str, Any] = {}
        for part, count in (("train", 6), ("val", 4), ("test", 5)):
            arrays[f"{part}_images"] = rng.integers(0, 256, (count, *pixels)).astype(np.uint8)
            arrays[f"{part}_labels"] = rng.integers(0, 2, (count, labels)).astype(np.uint8)
        path = tmp_path / f"{name}{suffix}.npz"
        np.savez_compressed(path, **arrays)
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(medmnist.INFO, name, medmnist.INFO[name] | {f"MD5{suffix}": digest})
        return path

    return make


class TestFiles:
    def test_grey_pictures_are_turned_to_x_first(self, official: Make) -> None:
        path = official("pneumoniamnist")
        with np.load(path) as arrays:
            for section, split in (("training", "train"), ("validation", "val"), ("test", "test")):
                data = medmnist_dataset("pneumoniamnist", path.parent, section)
                pixels = arrays[f"{split}_images"]
                assert data.tensors["image"].shape == (len(pixels), 1, 28, 28)
                assert data.tensors["image"].dtype == torch.float32
                # Row r and column c of the file are y and x.
                assert data.tensors["image"][1, 0, 3, 7].item() == pytest.approx(pixels[1, 7, 3] / 255)
                assert data.tensors["label"].tolist() == arrays[f"{split}_labels"][:, 0].tolist()
                assert data.data == [{"image": str(path)}]

    def test_colours_come_first(self, official: Make) -> None:
        path = official("retinamnist", (28, 28, 3))
        data = medmnist_dataset("retinamnist", path, "test")
        with np.load(path) as arrays:
            expected = torch.from_numpy(arrays["test_images"][2].transpose(2, 1, 0)) / 255
        torch.testing.assert_close(data.tensors["image"][2], expected)

    def test_several_labels_are_kept(self, official: Make) -> None:
        path = official("chestmnist", labels=14)
        assert medmnist_dataset("chestmnist", path.parent, "test").tensors["label"].shape == (5, 14)

    def test_larger_editions_have_their_own_file(self, official: Make) -> None:
        path = official("pneumoniamnist", (64, 64), suffix="_64")
        data = medmnist_dataset("pneumoniamnist", path.parent, "training", image_size=64)
        assert data.tensors["image"].shape == (6, 1, 64, 64)

    def test_a_changed_file_is_refused(self, official: Make) -> None:
        path = official("pneumoniamnist")
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(
            DataError, match=r"pneumoniamnist.npz: md5 \w{32} is not that of the official file"
        ):
            medmnist_dataset("pneumoniamnist", path.parent, "training")

    def test_a_missing_file_is_not_fetched_unasked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import medmnist

        monkeypatch.setattr(medmnist, "PneumoniaMNIST", lambda **_: pytest.fail("fetched"))
        with pytest.raises(DataError, match=r"no such file; .* with --download True"):
            medmnist_dataset("pneumoniamnist", tmp_path, "training")
        with pytest.raises(DataError, match=r"give --dataset_dir, the folder that holds pneumoniamnist\.npz"):
            medmnist_dataset("pneumoniamnist", None, "training")

    def test_a_download_is_by_the_package_and_verified(
        self, official: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import medmnist

        content = official("pneumoniamnist").read_bytes()
        folder = tmp_path / "new" / "folder"

        def fetch(split: str, root: str, size: int, download: bool) -> None:
            assert (Path(root), size, download) == (folder, 28, True)
            (folder / "pneumoniamnist.npz").write_bytes(content)

        monkeypatch.setattr(medmnist, "PneumoniaMNIST", fetch)
        data = medmnist_dataset("pneumoniamnist", folder, "training", download=True)
        assert len(data) == 6
        monkeypatch.setattr(medmnist, "PneumoniaMNIST", lambda **_: pytest.fail("fetched again"))
        assert len(medmnist_dataset("pneumoniamnist", folder, "test", download=True)) == 5

    def test_offline_a_download_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import medmnist

        def refuse(**_: Any) -> None:
            raise RuntimeError("no network")

        monkeypatch.setattr(medmnist, "PneumoniaMNIST", refuse)
        with pytest.raises(DataError, match=r"zenodo.* could not be fetched; without a network"):
            medmnist_dataset("pneumoniamnist", tmp_path, "training", download=True)

    def test_what_does_not_exist_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"'pneumonia' is none of .*; pneumoniamnist\?"):
            medmnist_info("pneumonia")
        with pytest.raises(ConfigError, match="'organmnist3d' is none of"):
            medmnist_info("organmnist3d")
        with pytest.raises(ConfigError, match="image_size=32: pneumoniamnist has 28, 64, 128 and 224"):
            medmnist_dataset("pneumoniamnist", tmp_path, "training", image_size=32)
        with pytest.raises(ConfigError, match="section: found 'train'"):
            medmnist_dataset("pneumoniamnist", tmp_path, "train")

    def test_channels(self) -> None:
        names = (None, "pneumoniamnist", "breastmnist", "retinamnist", "bloodmnist", "dermamnist")
        assert [image_channels(name) for name in names] == [1, 1, 1, 3, 3, 3]


class TestOneDoor:
    def test_a_name_means_medmnist(self, official: Make) -> None:
        path = official("breastmnist")
        one = image_dataset("test", "breastmnist", path.parent)
        two = medmnist_dataset("breastmnist", path.parent, "test")
        assert torch.equal(one.tensors["image"], two.tensors["image"])

    @pytest.mark.parametrize("levels", [True, False])
    def test_no_name_means_a_datalist(self, tmp_path: Path, levels: bool) -> None:
        items = []
        for i in range(4):
            Image.fromarray(np.full((30, 30), 40 * i + 20, np.uint8)).save(tmp_path / f"{i}.png")
            items.append({"image": f"{i}.png", "healthy": i < 3} | ({"level": i + 2} if levels else {}))
        write_json(tmp_path / "datalist.json", {"test": items})
        data = image_dataset("test", None, tmp_path, image_size=16)
        assert data.tensors["image"].shape == (4, 1, 16, 16)
        assert data.tensors["label"].tolist() == ([2, 3, 4, 5] if levels else [0, 0, 0, 1])
        assert [Path(item["image"]).name for item in data.data] == ["0.png", "1.png", "2.png", "3.png"]


class TestTensors:
    def test_a_batch_is_one_indexing(self) -> None:
        data = TensorDataset({"image": torch.rand(7, 1, 4, 4), "label": torch.arange(7)})
        loader: Any = DataLoader(data, batch_size=3, collate_fn=identity_collate)  # type: ignore[arg-type]
        batches = list(loader)
        assert [b["label"].tolist() for b in batches] == [[0, 1, 2], [3, 4, 5], [6]]
        assert torch.equal(torch.cat([b["image"] for b in batches]), data.tensors["image"])
        assert data[2]["label"] == 2
        assert len(data) == 7

    def test_unequal_numbers_are_refused(self) -> None:
        for tensors in ({}, {"image": torch.zeros(0, 1)}, {"image": torch.zeros(2), "label": torch.zeros(3)}):
            with pytest.raises(DataError, match="give the same number, at least one, of each"):
                TensorDataset(tensors)

    def test_the_corrupted_copy_of_a_case_depends_on_its_place_only(self) -> None:
        image = torch.rand(6, 1, 28, 28)
        whole = with_corrupted(TensorDataset({"image": image}), unoranic_chain(), seed=1)
        part = with_corrupted(TensorDataset({"image": image[:3]}), unoranic_chain(), seed=1)
        other = with_corrupted(TensorDataset({"image": image}), unoranic_chain(), seed=2)
        assert torch.equal(whole.tensors["corrupted"][:3], part.tensors["corrupted"])
        assert not torch.equal(whole.tensors["corrupted"], other.tensors["corrupted"])
        same = with_corrupted(TensorDataset({"image": image}), identity())
        assert torch.equal(same.tensors["corrupted"], image)
