from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustmed_monai.data.labelled import SquareImages, class_weights, labelled_images
from robustmed_monai.transforms.rotation import to_square
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError
from robustmed_monai.utils.files import write_json


def write_png(path: Path, value: int, shape: tuple[int, int] = (20, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(shape, value, dtype=np.uint8)
    pixels[:, : shape[1] // 2] //= 2
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """train, val and test with the classes a and b; the names of test files tell their class."""
    for section, count in (("train", 3), ("val", 1), ("test", 2)):
        for number, name in enumerate("ab"):
            for i in range(count):
                write_png(tmp_path / section / name / f"{name}{i}.png", 100 + 100 * number)
    return tmp_path


@pytest.fixture
def npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up retinamnist.npz that medmnist takes for the official one; grade 4 is absent from training."""
    import medmnist

    rng = np.random.default_rng(0)
    arrays = {}
    for split, labels in (("train", [0, 1, 2, 3, 0]), ("val", [0, 1, 4]), ("test", [0, 1, 2])):
        arrays[f"{split}_images"] = rng.integers(0, 255, (len(labels), 28, 28, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.array(labels)[:, None]
    path = tmp_path / "retinamnist.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(medmnist.INFO, "retinamnist", medmnist.INFO["retinamnist"] | {"MD5": digest})
    return path


class TestFolders:
    def test_classes_are_numbered_by_name(self, folders: Path) -> None:
        data = labelled_images("training", dataset_dir=folders, num_classes=2, upper_percentile=None)
        assert data.tensors["label"].tolist() == [0, 0, 0, 1, 1, 1]
        assert data.tensors["image"].shape == (6, 1, 32, 32)
        right = data.tensors["image"][:, 0, 24, 16]
        torch.testing.assert_close(right, torch.tensor([100.0] * 3 + [200.0] * 3) / 255, atol=0.01, rtol=0)

    def test_a_class_without_a_training_image_is_refused(self, folders: Path) -> None:
        for path in (folders / "train" / "b").iterdir():
            path.unlink()
        with pytest.raises(DataError, match="b: holds no image; add images of this class"):
            labelled_images("training", dataset_dir=folders, num_classes=2)

    def test_more_classes_than_the_network_knows(self, folders: Path) -> None:
        write_png(folders / "train" / "c" / "0.png", 50)
        with pytest.raises(DataError, match=r"class\(es\) \[2\].*--num_classes 3"):
            labelled_images("training", dataset_dir=folders, num_classes=2)

    def test_fewer_classes_than_the_network_knows(self, folders: Path) -> None:
        with pytest.raises(DataError, match=r"no training image of class\(es\) \[2\]"):
            labelled_images("training", dataset_dir=folders, num_classes=3)

    def test_a_missing_section(self, folders: Path) -> None:
        (folders / "val").rename(folders / "other")
        with pytest.raises(DataError, match="no folder val or valid or validation"):
            labelled_images("validation", dataset_dir=folders)

    def test_sections_are_named_as_in_datalists_and_hidden_files_skipped(self, folders: Path) -> None:
        (folders / "val").rename(folders / "valid")
        (folders / "test").rename(folders / "testing")
        (folders / "train" / "a" / "._a0.png").write_bytes(b"not an image")
        (folders / "train" / ".cache").mkdir()
        counts = [len(labelled_images(s, dataset_dir=folders)) for s in ("training", "validation", "test")]
        assert counts == [6, 2, 4]

    def test_masks_are_no_images_of_a_class(self, folders: Path) -> None:
        for name in ("images", "masks"):
            write_png(folders / "train" / "c" / name / "0.png", 50)
        assert labelled_images("training", dataset_dir=folders).tensors["label"].tolist() == [0] * 3 + [
            1
        ] * 3 + [2]

    def test_a_class_that_is_not_trained_is_named(self, folders: Path) -> None:
        write_png(folders / "test" / "c" / "0.png", 50)
        with pytest.raises(DataError, match=r"test/c: is no class of .*train \(\['a', 'b'\]\)"):
            labelled_images("test", dataset_dir=folders)

    def test_a_class_may_be_missing_from_the_test(self, folders: Path) -> None:
        write_png(folders / "test" / "a" / "0.png", 50)
        shutil.rmtree(folders / "test" / "b", ignore_errors=True)
        assert set(labelled_images("test", dataset_dir=folders).tensors["label"].tolist()) == {0}

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no images found"):
            labelled_images("training", dataset_dir=tmp_path)

    def test_an_unknown_section(self) -> None:
        with pytest.raises(ConfigError, match="section: found 'train'"):
            labelled_images("train")


class TestMedMNIST:
    def test_axes_scale_and_size(self, npz: Path) -> None:
        data = labelled_images("test", "retinamnist", npz.parent, 28, 3, 5)
        stored = np.load(npz)["test_images"]
        expected = torch.from_numpy(stored.transpose(0, 3, 2, 1).astype(np.float32) / 255)
        torch.testing.assert_close(data.tensors["image"], expected)
        larger = labelled_images("test", "retinamnist", npz.parent, 32, 3, 5).tensors["image"]
        assert larger.shape == (3, 3, 32, 32)
        torch.testing.assert_close(larger.mean((2, 3)), expected.mean((2, 3)), atol=0.02, rtol=0)

    def test_wrong_channels_are_refused_with_what_to_give(self, npz: Path) -> None:
        with pytest.raises(ImageShapeError, match=r"have 3 channel\(s\), the network takes 1.*--channels 3"):
            labelled_images("test", "retinamnist", npz.parent, 32, 1, 5)

    def test_a_class_missing_from_training_is_named(self, npz: Path) -> None:
        with pytest.raises(DataError, match=r"no training image of class\(es\) \[4\]"):
            labelled_images("training", "retinamnist", npz.parent, 32, 3, 5)
        assert len(labelled_images("validation", "retinamnist", npz.parent, 32, 3, 5)) == 3


class TestDatalist:
    def test_the_class_is_a_key_of_the_items(self, tmp_path: Path) -> None:
        write_png(tmp_path / "a.png", 200)
        items = [{"image": "a.png", "level": 1, "side": 0}, {"image": "a.png", "level": 0, "side": 0}]
        write_json(tmp_path / "datalist.json", {"training": items})
        assert labelled_images("training", dataset_dir=tmp_path).tensors["label"].tolist() == [1, 0]
        other = labelled_images("training", dataset_dir=tmp_path, label_key="side")
        assert other.tensors["label"].tolist() == [0, 0]

    def test_items_without_it_are_refused(self, tmp_path: Path) -> None:
        write_png(tmp_path / "a.png", 200)
        write_json(tmp_path / "datalist.json", {"training": [{"image": "a.png"}]})
        with pytest.raises(DataError, match=r"a\.png has no whole number 'level', the class to learn"):
            labelled_images("training", dataset_dir=tmp_path)


class TestSquareImages:
    def test_full_scale_or_percentile(self, tmp_path: Path) -> None:
        write_png(tmp_path / "a.png", 100)
        fixed, relative = (SquareImages(32, 1, p)(str(tmp_path / "a.png")) for p in (None, 99.5))
        assert float(fixed[0, 0, 24, 16]) == pytest.approx(100 / 255, abs=0.01)
        assert float(relative[0, 0, 24, 16]) == pytest.approx(1, abs=0.01)

    def test_pads_to_a_square(self, tmp_path: Path) -> None:
        write_png(tmp_path / "a.png", 200, (40, 20))
        image = SquareImages(32, 1, None)(str(tmp_path / "a.png"))
        assert image.shape == (1, 1, 32, 32)
        assert image[0, 0, :6].max() < 0.1
        assert image[0, 0, 20, 16] > 0.7

    @pytest.mark.parametrize(("pixels", "white"), [(np.bool_, 1), (np.uint8, 255), (np.uint16, 65535)])
    def test_white_is_that_of_the_type(self, tmp_path: Path, pixels: Any, white: float) -> None:
        Image.fromarray(np.ones((32, 32), pixels)).save(tmp_path / "a.png")
        assert SquareImages(32, 1, None)(str(tmp_path / "a.png")).max() == pytest.approx(1 / white)

    def test_large_images_come_down_in_two_steps(self) -> None:
        assert to_square(torch.rand(1, 1, 300, 300), 32).shape == (1, 1, 32, 32)


def test_class_weights_have_mean_one_over_the_images() -> None:
    label = torch.tensor([0] * 30 + [1] * 70)
    for power in (0.0, 0.5, 1.0):
        weights = torch.tensor(class_weights(label, 2, power))
        assert float(weights[label].mean()) == pytest.approx(1)
    assert class_weights(label, 2, 0.0) == pytest.approx([1, 1])
    assert weights[0] * 30 == pytest.approx(float(weights[1] * 70))
