"""Pairs for registration: tissue images, random and fixed pairs, lists of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from robustmed_monai.data.pair_list import list_pairs
from robustmed_monai.data.pairs import RandomPairs, fixed_pairs, keep_images, tissue_images
from robustmed_monai.data.slice_dataset import identity_collate
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError


def made() -> TensorDataset:
    """Four subjects at two levels; the image says which is which."""
    subject, group = torch.arange(4).repeat_interleave(2), torch.tensor([3, 7] * 4)
    image = (10 * subject + group).float()[:, None, None, None].expand(-1, 1, 4, 4)
    return TensorDataset({"image": image, "label": image.byte(), "subject": subject, "group": group})


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Pictures with labels as grey levels, as OASIS's are, of two subjects."""
    for kind in ("images", "labels"):
        (tmp_path / "train" / kind).mkdir(parents=True)
    for subject in (1, 2):
        for level in (10, 16):
            name = f"case_{subject}_slice_{level}.png"
            label = rng.integers(0, 4, (16, 16)).astype(np.uint8)
            Image.fromarray(label * 85).save(tmp_path / "train" / "labels" / name)
            Image.fromarray(label * 60 + subject).save(tmp_path / "train" / "images" / name)
    return tmp_path


class TestTissueImages:
    def test_grey_levels_become_classes_and_names_levels(self, folder: Path) -> None:
        data = tissue_images("training", folder, 16).tensors
        assert data["image"].shape == data["label"].shape == (4, 1, 16, 16)
        assert data["label"].unique().tolist() == [0, 1, 2, 3]
        assert data["group"].tolist() == [10, 16, 10, 16]
        assert data["subject"].tolist() == [0, 0, 1, 1]
        # Brightness follows the class: image and label lie on each other.
        assert (
            torch.corrcoef(torch.stack([data["image"].flatten(), data["label"].flatten().float()]))[0, 1]
            > 0.99
        )

    def test_volumes_as_slices_and_whole(self, tmp_path: Path, rng: np.random.Generator) -> None:
        items = []
        for i in range(2):
            label = np.zeros((12, 14, 6), np.uint8)
            label[3:9, 3:11, 1:5] = rng.integers(1, 4, (6, 8, 4))
            for kind, values in (("image", label * 50.0), ("label", label)):
                nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 4, 1])), tmp_path / f"{kind}{i}.nii.gz")
            items.append({"image": f"image{i}.nii.gz", "label": f"label{i}.nii.gz", "subject": str(i)})
        (tmp_path / "datalist.json").write_text(json.dumps({"training": items}))
        slices = tissue_images("training", tmp_path, 16).tensors
        assert slices["group"].tolist() == [1, 2, 3, 4] * 2
        # 14 x 2 mm in 16 pixels, or pixels of 2 mm with the foreground in the middle.
        fine = tissue_images("training", tmp_path, 16, spacing=2.0).tensors
        for data, area in ((slices, (6 * 8) * (16 / 14) ** 2), (fine, 6 * 8)):
            inside = data["label"] > 0
            assert inside.flatten(1).sum(1).float().mean() == pytest.approx(area, rel=0.1)
        assert torch.equal((fine["label"] > 0)[0, 0], torch.outer(*(_middle(16, n) for n in (6, 8))))
        with pytest.raises(ConfigError, match="a voxel size above 0"):
            tissue_images("training", tmp_path, (8, 8, 8), spatial_dims=3)
        whole = tissue_images("training", tmp_path, (8, 8, 8), spatial_dims=3, spacing=4.0).tensors
        assert whole["image"].shape == (2, 1, 8, 8, 8)
        assert whole["label"].unique().numel() == 4

    @pytest.mark.parametrize("values", [[0, 100], [0, 7]])
    def test_labels_that_are_no_classes(self, folder: Path, values: list[int]) -> None:
        path = folder / "train" / "labels" / "case_1_slice_10.png"
        Image.fromarray(np.full((16, 16), values[1], np.uint8)).save(path)
        with pytest.raises(DataError, match="neither the classes 0 to 3 nor grey levels 85 apart"):
            tissue_images("training", folder, 16)

    def test_labels_missing_or_of_another_size(self, folder: Path) -> None:
        path = folder / "train" / "labels" / "case_1_slice_10.png"
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
        with pytest.raises(ImageShapeError, match="label of"):
            tissue_images("training", folder, 16)
        path.unlink()
        with pytest.raises(DataError, match="has no label"):
            tissue_images("training", folder, 16)
        with pytest.raises(ConfigError):
            tissue_images("training", folder, 16, spatial_dims=4)


def _middle(size: int, count: int) -> torch.Tensor:
    first = (size - count) // 2
    return (torch.arange(size) >= first) & (torch.arange(size) < first + count)


def check(pairs: dict[str, torch.Tensor]) -> None:
    moving, fixed = (pairs[k][:, 0, 0, 0] for k in ("moving", "fixed"))
    assert torch.equal(moving % 10, fixed % 10), "same level"
    assert (moving // 10 != fixed // 10).all(), "other subject"
    assert torch.equal(pairs["moving_label"].float(), pairs["moving"])


class TestPairs:
    def test_random_ones_are_of_one_level_and_two_subjects(self) -> None:
        pairs = RandomPairs(keep_images(made()), seed=1)
        first = pairs.__getitems__(list(range(8)))
        check(first)
        assert torch.equal(first["fixed_target"], first["fixed"])
        assert not torch.equal(first["fixed"], pairs.__getitems__(list(range(8)))["fixed"])
        again = RandomPairs(made(), seed=1).__getitems__(list(range(8)))
        assert torch.equal(first["fixed"], again["fixed"])

    def test_workers_are_refused_since_they_would_all_draw_alike(self) -> None:
        collate: Any = identity_collate
        loader = DataLoader(RandomPairs(made()), 2, num_workers=1, collate_fn=collate)
        with pytest.raises(ConfigError, match="give num_workers=0"):
            list(loader)

    def test_all_partners_come_up(self) -> None:
        pairs = RandomPairs(made())
        assert len({int(pairs[0]["fixed"][0, 0, 0]) for _ in range(60)}) == 3

    def test_fixed_ones_are_always_the_same_and_none_twice(self) -> None:
        first, again = fixed_pairs(made(), 12, seed=3).tensors, fixed_pairs(made(), 12, seed=3).tensors
        check(first)
        assert all(torch.equal(first[k], again[k]) for k in first)
        values = {
            (int(a), int(b))
            for a, b in zip(*(first[k][:, 0, 0, 0] for k in ("moving", "fixed")), strict=True)
        }
        assert len(values) == 12
        assert len(fixed_pairs(made(), 1000)) == 4 * 3 * 2
        with pytest.raises(ConfigError):
            fixed_pairs(made(), 0)

    def test_no_partner(self) -> None:
        alone = TensorDataset({k: v[:2] for k, v in made().tensors.items()})
        with pytest.raises(DataError, match="another subject at its level"):
            RandomPairs(alone)


class TestLists:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        for side in ("moving", "fixed"):
            (tmp_path / side).mkdir()
            for name in ("a.nii.gz", "b.nii.gz"):
                (tmp_path / side / name).write_bytes(b"x")
        return tmp_path

    def test_two_files_a_folder_against_one_and_two_folders(self, place: Path) -> None:
        (one,) = list_pairs(place / "moving" / "a.nii.gz", place / "fixed" / "b.nii.gz")
        assert one["image"] == one["moving"] == str(place / "moving" / "a.nii.gz")
        many = list_pairs(place / "moving", place / "fixed" / "b.nii.gz")
        assert [Path(p["moving"]).name for p in many] == ["a.nii.gz", "b.nii.gz"]
        both = list_pairs(pairs=place)
        assert [Path(p["fixed"]).name for p in both] == ["a.nii.gz", "b.nii.gz"]

    def test_a_list(self, place: Path) -> None:
        content = {"pairs": [{"moving": "moving/a.nii.gz", "fixed": "fixed/b.nii.gz"}]}
        (place / "list.json").write_text(json.dumps(content))
        (one,) = list_pairs(pairs=place / "list.json")
        assert one["fixed"] == str(place / "fixed" / "b.nii.gz")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({}, "lists no pairs"),
            ({"pairs": [{"moving": "a"}]}, 'pair 0 lacks "moving" or "fixed"'),
            (
                {"pairs": [{"moving": "a", "fixed": "b"}, {"moving": "a", "fixed": "c"}]},
                "moving image of two",
            ),
        ],
    )
    def test_lists_that_make_no_sense(self, place: Path, content: Any, message: str) -> None:
        (place / "list.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            list_pairs(pairs=place / "list.json")

    def test_what_is_missing(self, place: Path) -> None:
        with pytest.raises(DataError, match="no pair: give --moving and --fixed"):
            list_pairs(place / "moving")
        with pytest.raises(DataError, match="holds 2 images"):
            list_pairs(place / "moving", place / "fixed")
        for option in ("moving", "fixed"):
            given = {side: place / side / "a.nii.gz" for side in ("moving", "fixed")}
            with pytest.raises(DataError, match=f"^--{option} .*/gone: no such file or folder"):
                list_pairs(**{**given, option: place / "gone"})

    def test_files_of_one_name_in_two_folders_are_two_pairs(self, place: Path) -> None:
        for side in ("moving", "fixed"):
            (place / side / "more").mkdir()
            (place / side / "more" / "a.nii.gz").write_bytes(b"x")
        found = [Path(p["fixed"]).relative_to(place / "fixed") for p in list_pairs(pairs=place)]
        assert sorted(map(str, found)) == ["a.nii.gz", "b.nii.gz", "more/a.nii.gz"]
        (place / "fixed" / "more" / "a.nii.gz").unlink()
        with pytest.raises(DataError, match=r"'more/a\.nii\.gz' is in only one of moving and fixed"):
            list_pairs(pairs=place)
        with pytest.raises(DataError, match="give one or the other"):
            list_pairs(place, place, place)
        (place / "fixed" / "b.nii.gz").rename(place / "fixed" / "c.nii.gz")
        with pytest.raises(DataError, match="in only one of moving and fixed"):
            list_pairs(pairs=place)
