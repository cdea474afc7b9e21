"""MedMNIST, LGG and the plain folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from robustmed_monai.data_prep import folder, lgg, medmnist
from robustmed_monai.utils.errors import ConfigError, DataError, ImageError

Array = NDArray[Any]


@pytest.fixture
def pneumonia(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up pneumoniamnist.npz that the installed medmnist takes for the official one."""
    import medmnist as official

    arrays: dict[str, Any] = {}
    for part, count in (("train", 6), ("val", 4), ("test", 5)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 7, 9)).astype(np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    path = tmp_path / "pneumoniamnist.npz"
    np.savez_compressed(path, **arrays)
    info = official.INFO["pneumoniamnist"] | {"MD5": hashlib.md5(path.read_bytes()).hexdigest()}
    monkeypatch.setitem(official.INFO, "pneumoniamnist", info)
    return path


def test_medmnist(pneumonia: Path, tmp_path: Path, load: Any, pixels: Any, snapshot: Any) -> None:
    content = load(medmnist.prepare(pneumonia, tmp_path / "out"))
    assert [len(content[section]) for section in ("training", "validation", "test")] == [3, 2, 5]
    assert [item.get("kind", "") for item in content["test"]] == ["", "pneumonia", "", "pneumonia", ""]
    assert content["license"].startswith("CC BY 4.0")
    with np.load(pneumonia) as arrays:
        for item, index in zip(content["training"], (0, 2, 4), strict=True):
            shown = pixels(tmp_path / "out" / item["image"])
            np.testing.assert_array_equal(shown, arrays["train_images"][index])
    before = snapshot(tmp_path / "out")
    assert medmnist.main(["--source", str(pneumonia), "--output", str(tmp_path / "out")]) == 0
    assert snapshot(tmp_path / "out") == before


def test_medmnist_refuses_what_is_not_official(pneumonia: Path, tmp_path: Path, damage: Any) -> None:
    with pytest.raises(ConfigError, match="--normal as one of"):
        medmnist.prepare(pneumonia, tmp_path / "out", normal=7)
    with pytest.raises(ConfigError, match="bloodmnist"):
        medmnist.prepare(tmp_path / "bloodmnist.npz", tmp_path / "out")
    with pytest.raises(DataError, match="no such file"):
        medmnist.prepare(tmp_path / "breastmnist_64.npz", tmp_path / "out")
    with pytest.raises(ConfigError, match="pneumoniamnist"):
        medmnist.prepare(tmp_path / "pneumonmnist.npz", tmp_path / "out")
    with pytest.raises(DataError, match="not named like"):
        medmnist.prepare(tmp_path / "mine.npz", tmp_path / "out")
    damage(pneumonia)
    with pytest.raises(DataError, match="md5"):
        medmnist.prepare(pneumonia, tmp_path / "out")


LGG_CASES = 6
LGG_DEPTH = 21


@pytest.fixture
def tumours(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Six patients of 21 slices; tumours of 4 slices (5 % of each other in place) around the middle."""
    count = LGG_CASES * LGG_DEPTH
    case = np.repeat(np.arange(LGG_CASES), LGG_DEPTH)
    number = np.tile(np.arange(1, LGG_DEPTH + 1), LGG_CASES)
    mask = np.zeros((count, 10, 12), dtype=np.uint8)
    start = np.asarray([8, 10, 12, 9, 11, 10])[case]
    mask[(number >= start) & (number < start + 4), 2:6, 1:9] = 1
    # One tiny tumour: neither.
    tiny = (case == 0) & (number == 12)
    mask[tiny, 0, :10] = 1
    arrays = {
        "t1pre": rng.integers(0, 200, (count, 10, 12)).astype(np.uint8),
        "flair": np.zeros((count, 10, 12), dtype=np.uint8),
        "mask": mask,
        "pre_is_flair": case == 5,
        "case_index": case.astype(np.uint8),
        "slice_number": number.astype(np.uint8),
        "cases": np.asarray([f"TCGA_CS_{i}" for i in range(LGG_CASES)]),
    }
    np.savez_compressed(tmp_path / "lgg_slices_128.npz", **arrays)
    return tmp_path / "lgg_slices_128.npz"


def test_lgg(tumours: Path, tmp_path: Path, load: Any, pixels: Any, snapshot: Any) -> None:
    content = load(lgg.prepare(tumours, tmp_path / "out", low=0.35, high=0.65, head_height=0))
    ill = [item for item in content["test"] if not item["healthy"]]
    well = [item for item in content["test"] if item["healthy"]]
    assert not content["training"]
    assert not content["validation"]
    assert len(ill) == len(well) > 5
    # All volumes have as many slices, so pairs at one relative position are pairs of one slice number.
    assert sorted(item["level"] for item in ill) == sorted(item["level"] for item in well)
    assert all(8 <= item["level"] <= 14 for item in content["test"])
    assert "TCGA_CS_5" not in {item["subject"] for item in content["test"]}
    assert ("TCGA_CS_0", 12) not in {(item["subject"], item["level"]) for item in content["test"]}
    notes = json.loads((tmp_path / "out/prepare_report.json").read_text())["notes"]
    assert notes["pairs"] == len(ill)
    assert notes["auroc_position"] == notes["auroc_distance_from_mean"] == 0.5
    with np.load(tumours) as arrays:
        item = ill[0]
        case = int(item["subject"][-1])
        index = case * LGG_DEPTH + item["level"] - 1
        own = arrays["t1pre"][arrays["case_index"] == case]
        expected = np.clip(arrays["t1pre"][index] / np.percentile(own, 99.5), 0, 1) * 255
        np.testing.assert_allclose(pixels(tmp_path / "out" / item["image"]), expected, atol=0.5001)
        shown = pixels(tmp_path / "out" / item["mask"])
        np.testing.assert_array_equal(shown, arrays["mask"][index] * 255)
    before = snapshot(tmp_path / "out")
    arguments = ["--source", str(tumours), "--output", str(tmp_path / "out")]
    assert lgg.main([*arguments, "--low", ".35", "--high", ".65", "--head_height", "0"]) == 0
    assert snapshot(tmp_path / "out") == before


def test_lgg_errors(tumours: Path, tmp_path: Path, damage: Any) -> None:
    with pytest.raises(ConfigError, match="low"):
        lgg.prepare(tumours, tmp_path / "out", low=0.7, high=0.6)
    with pytest.raises(ConfigError, match="head_height"):
        lgg.prepare(tumours, tmp_path / "out", head_height=1.5)
    with pytest.raises(DataError, match="partner"):
        lgg.prepare(tumours, tmp_path / "out", low=0.0, high=0.1)
    np.savez(tmp_path / "other.npz", mask=np.zeros(3))
    with pytest.raises(ImageError, match="t1pre"):
        lgg.prepare(tmp_path / "other.npz", tmp_path / "out")
    damage(tumours)
    with pytest.raises(ImageError, match="lgg_slices_128"):
        lgg.prepare(tumours, tmp_path / "out")


def test_pairs_are_one_to_one_and_within_the_caliper(rng: np.random.Generator) -> None:
    position = rng.random(60)
    tumour, free = lgg.pair(position, np.arange(20), np.arange(20, 60), 0.02)
    assert len(tumour) == len(set(tumour)) == len(set(free)) > 0
    assert np.abs(position[tumour] - position[free]).max() <= 0.02
    # One tumour slice between two free ones takes the nearer; a greedy pass from the left would not.
    both = lgg.pair(np.asarray([0.50, 0.52, 0.49, 0.505]), np.arange(2), np.arange(2, 4), 0.05)
    assert both[1].tolist() == [2, 3]


def test_folder_with_sections(tmp_path: Path, write_png: Any, load: Any, damage: Any, snapshot: Any) -> None:
    root = tmp_path / "mine"
    grey = np.full((6, 5), 90, dtype=np.uint8)
    for name in ("train/a.png", "train/b.png", "val/c.png", "test/good/d.png", "test/crack/e.png"):
        write_png(root / name, grey)
    for name in (
        "test/images/bump/f.png",
        "test/masks/bump/f.png",
        "train/images/g.png",
        "train/labels/g.png",
    ):
        write_png(root / name, grey)
    damage(write_png(root / "train/h.png", grey))
    path = folder.prepare(root, tmp_path / "out", name="mine", license="mine")
    content = load(path)
    names = {s: [Path(i["image"]).stem for i in content[s]] for s in ("training", "validation", "test")}
    assert names == {"training": ["a", "b", "g"], "validation": ["c"], "test": ["e", "d", "f"]}
    assert content["training"][2]["label"] == str(root / "train/labels/g.png")
    assert [item.get("kind", "") for item in content["test"]] == ["crack", "", "bump"]
    assert content["test"][2]["mask"] == str(root / "test/masks/bump/f.png")
    report = json.loads((tmp_path / "out/prepare_report.json").read_text())
    assert [Path(entry["file"]).name for entry in report["problems"]] == ["h.png"]
    before = snapshot(tmp_path / "out")
    folder.prepare(root, tmp_path / "out", name="mine", license="mine")
    assert snapshot(tmp_path / "out") == before


def test_folder_without_sections(tmp_path: Path, write_png: Any, load: Any) -> None:
    for number in range(30):
        for view in "ab":
            grey = np.full((6, 5), number, dtype=np.uint8)
            write_png(tmp_path / f"in/images/sub-{number:02d}_{view}.png", grey)
    write_png(tmp_path / "in/masks/sub-03_a.png", grey)
    content = load(folder.prepare(tmp_path / "in", tmp_path / "out", splits=(0, 0, 1)))
    assert len(content["test"]) == 60
    assert content["test"][6]["mask"] == str(tmp_path / "in/masks/sub-03_a.png")
    assert sum(not item["healthy"] for item in content["test"]) == 1
    split = json.loads(
        folder.prepare(tmp_path / "in", tmp_path / "split", splits=(0.6, 0.2, 0.2)).read_text()
    )
    by_section = [{item["subject"] for item in split[s]} for s in ("training", "validation")]
    assert all(by_section)
    assert not by_section[0] & by_section[1]
    with pytest.raises(ConfigError, match="inside the source"):
        folder.prepare(tmp_path / "in", tmp_path / "in/out")


def test_folder_val_as_test(tmp_path: Path, write_png: Any, load: Any) -> None:
    for number in range(40):
        write_png(tmp_path / f"in/train/sub-IXI{number:03d}_T1w.png", np.full((4, 4), 9, dtype=np.uint8))
    write_png(tmp_path / "in/val/sub-IXI900_T1w.png", np.full((4, 4), 9, dtype=np.uint8))
    argv = ["--source", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--val_is_test"]
    assert folder.main([*argv, "--splits", "0.7", "0.3", "0"]) == 0
    content = load(tmp_path / "out/datalist.json")
    assert [item["subject"] for item in content["test"]] == ["sub-IXI900"]
    assert 5 < len(content["validation"]) < 20
    assert len(content["training"]) + len(content["validation"]) == 40


def test_folder_of_volumes(tmp_path: Path, write_nifti: Any, head: Any, load: Any, pixels: Any) -> None:
    lesion = np.zeros((24, 28, 20), dtype=np.uint8)
    lesion[4:9, 20:25, 10] = 1
    write_nifti(tmp_path / "in/images/sub-1_T1w.nii.gz", head(0), 1.0, "LPS")
    write_nifti(tmp_path / "in/masks/sub-1_T1w.nii.gz", lesion, 1.0, "LPS")
    write_nifti(tmp_path / "in/images/sub-2_T1w.nii.gz", head(1))
    content = load(folder.prepare(tmp_path / "in", tmp_path / "out", slices=3, gap_mm=2, splits=(1, 0, 0)))
    assert [(item["level"], item["healthy"]) for item in content["test"]] == [
        (8, True),
        (10, False),
        (12, True),
    ]
    assert [item["level"] for item in content["training"]] == [8, 10, 12]
    assert (pixels(tmp_path / "out" / content["test"][1]["mask"]) > 0).sum() == 25


def test_folder_refuses_what_is_not_laid_out(tmp_path: Path, write_png: Any) -> None:
    grey = np.full((6, 5), 90, dtype=np.uint8)
    write_png(tmp_path / "in/train/images/a.png", grey)
    write_png(tmp_path / "in/train/masks/a.png", grey)
    with pytest.raises(DataError, match="healthy images only"):
        folder.prepare(tmp_path / "in", tmp_path / "out")
    write_png(tmp_path / "other/test/b.png", grey)
    write_png(tmp_path / "other/test/masks/b.png", grey)
    with pytest.raises(DataError, match="there is no image of that name"):
        folder.prepare(tmp_path / "other", tmp_path / "out")


def test_folder_checks_masks(tmp_path: Path, write_png: Any) -> None:
    grey = np.full((6, 5), 90, dtype=np.uint8)
    for name, mask in (("test/crack/{}/a.png", grey[:3]), ("test/crack/{}/b.png", 0 * grey)):
        write_png(tmp_path / "in" / name.format("images"), grey)
        write_png(tmp_path / "in" / name.format("masks"), mask)
    for kind, mask in (("good", grey), ("healthy", 0 * grey)):
        write_png(tmp_path / f"in/test/images/{kind}/c.png", grey)
        write_png(tmp_path / f"in/test/masks/{kind}/c.png", mask)
    write_png(tmp_path / "in/notes/d.png", grey)
    content = json.loads(folder.prepare(tmp_path / "in", tmp_path / "out").read_text())
    assert [(item["healthy"], "mask" in item, "kind" in item) for item in content["test"]] == [
        (True, False, False)
    ] * 2
    report = json.loads((tmp_path / "out/prepare_report.json").read_text())
    texts = [problem["problem"] for problem in report["problems"]]
    assert any("another size than its image" in text for text in texts)
    assert any("lies in a folder of healthy images, but its mask" in text for text in texts)
    assert len(texts) == 2
    assert report["skipped"] == {"outside of train, val and test": 1}


def test_a_volume_with_long_voxels_is_written_with_square_pixels(
    tmp_path: Path, write_nifti: Any, load: Any, pixels: Any
) -> None:
    spacing = np.asarray([0.94, 1.2, 3.0])
    axes = [(np.arange(n) - n / 2) * side for n, side in zip((90, 80, 20), spacing, strict=True)]
    distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    write_nifti(
        tmp_path / "in/test/x/images/a.nii.gz", 100 * (distance < 35).astype(np.int16), spacing, "PSR"
    )
    write_nifti(tmp_path / "in/test/x/masks/a.nii.gz", (distance < 20).astype(np.uint8), spacing, "PSR")
    (item,) = load(folder.prepare(tmp_path / "in", tmp_path / "out"))["test"]
    assert item["pixel_mm"] == 1.0
    for key, radius in (("image", 35), ("mask", 20)):
        shown = pixels(tmp_path / "out" / item[key]) > 127
        wide, high = (shown.any(axis).sum() for axis in (0, 1))
        # A mask's edge is as coarse as the voxels that it was drawn in.
        assert wide / high == pytest.approx(1, abs=max(0.02, 2.4 / high))
        assert shown.sum() == pytest.approx(np.pi * radius**2, rel=0.03)
