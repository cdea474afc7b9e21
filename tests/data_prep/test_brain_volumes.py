"""IXI, BraTS and ATLAS: volumes in their official layouts."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from robustmed_monai.data_prep import atlas, brats, ixi
from robustmed_monai.utils.errors import DataError

Array = NDArray[Any]
Head = Callable[[int], Array]
SITES = ("Guys", "HH", "IOP")
# Pictures for volumes of 10 and of 5 mm voxels, which this small need not be resampled.
COARSE: dict[str, Any] = {"size": 40, "spacing_mm": 10.0}
MORE: dict[str, Any] = {**COARSE, "slices": 3, "gap_mm": 20}
FINER: dict[str, Any] = {"size": 40, "spacing_mm": 5.0}


@pytest.fixture
def ixi_folder(tmp_path: Path, write_nifti: Any, head: Head) -> Path:
    """Twelve scans as IXI stores them (10 mm voxels, top of the head 140 mm up), one file of another kind."""
    for number in range(12):
        name = f"IXI{number + 2:03d}-{SITES[number % 3]}-0{800 + number}-T1.nii.gz"
        write_nifti(tmp_path / "IXI-T1" / name, head(number), 10.0, "PSR")
    (tmp_path / "IXI-T1/IXI.xls").write_text("ages")
    write_nifti(tmp_path / "IXI-T1/IXI002-Guys-0800-T2.nii.gz", head(0), 10.0)
    return tmp_path / "IXI-T1"


def problems(datalist: Path) -> list[Any]:
    report = json.loads((datalist.parent / "prepare_report.json").read_text())
    found: list[Any] = report["problems"]
    return found


def test_ixi_folder(ixi_folder: Path, tmp_path: Path, load: Any, pixels: Any) -> None:
    path = ixi.prepare(ixi_folder, tmp_path / "out", **COARSE)
    content = load(path)
    items = [item for section in ("training", "validation", "test") for item in content[section]]
    assert len(items) == 12
    assert all(item["healthy"] for item in items)
    assert content["training"]
    # The top slice of the ball that is wide enough lies at 140 mm: 60 mm below it is slice 8.
    assert {item["level"] for item in items} == {8}
    first = next(item for item in items if item["subject"] == "IXI002")
    # The ball, 240 mm wide as its volume, lies in the middle of 400 mm, brighter than the air around it.
    shown = pixels(tmp_path / "out" / first["image"])
    inside = np.hypot(*((np.indices(shown.shape) - 19.5) / np.reshape((11, 9), (2, 1, 1)))) < 0.8
    assert shown[inside].min() > 100
    assert problems(path) == []


def test_ixi_archive_gives_what_its_folder_gives(ixi_folder: Path, tmp_path: Path, snapshot: Any) -> None:
    archive = tmp_path / "IXI-T1.tar"
    with tarfile.open(archive, "w") as tar:
        for file in sorted(ixi_folder.iterdir()):
            tar.add(file, file.name)
    from_folder = json.loads(ixi.prepare(ixi_folder, tmp_path / "folder", **MORE).read_text())
    assert sum(len(from_folder[section]) for section in ("training", "validation", "test")) == 36
    assert json.loads(ixi.prepare(archive, tmp_path / "tar", **MORE).read_text()) == from_folder
    before = snapshot(tmp_path / "tar")
    ixi.prepare(archive, tmp_path / "tar", **MORE)
    assert snapshot(tmp_path / "tar") == before


def test_ixi_archive_that_is_cut_off(ixi_folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "IXI-T1.tar"
    with tarfile.open(archive, "w") as tar:
        for file in sorted(ixi_folder.glob("*T1.nii.gz")):
            tar.add(file, file.name)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    path = ixi.prepare(archive, tmp_path / "out", **COARSE)
    content = json.loads(path.read_text())
    assert 3 < sum(len(content[section]) for section in ("training", "validation", "test")) < 12
    assert problems(path)[0]["file"] == str(archive)
    with pytest.raises(DataError, match="damaged or incomplete"):
        ixi.prepare(archive, tmp_path / "strict", strict=True)
    archive.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"IXI-T1\.tar"):
        ixi.prepare(archive, tmp_path / "none")


def test_ixi_corrupt_file_and_registered_names(
    ixi_folder: Path, tmp_path: Path, write_nifti: Any, head: Head, damage: Any, load: Any
) -> None:
    # A second scan of one subject in MNI space: the same section as the first.
    again = "sub-IXI003_ses-M00_space-MNI152NLin2009cSym_res-1x1x1_T1w.nii.gz"
    write_nifti(ixi_folder / "registered" / again, head(90), 10.0)
    broken = ixi_folder / "IXI005-Guys-0803-T1.nii.gz"
    damage(broken)
    path = ixi.prepare(ixi_folder, tmp_path / "out", **COARSE)
    content = load(path)
    items = [item for section in ("training", "validation", "test") for item in content[section]]
    assert len(items) == 12
    assert [item["subject"] for item in items].count("IXI003") == 2
    assert "IXI005" not in {item["subject"] for item in items}
    assert [entry["file"] for entry in problems(path)] == [str(broken)]


def test_ixi_missing_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file or folder; give the official tar"):
        ixi.prepare(tmp_path / "nowhere", tmp_path / "out")
    assert ixi.main(["--source", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]) == 1


def lesion(level: int, side: int = 5) -> Array:
    """A square lesion on one axial slice, on the patient's left front (RAS+), label 4."""
    mask = np.zeros((24, 28, 20), dtype=np.uint8)
    mask[4 : 4 + side, 20 : 20 + side, level] = 4
    return mask


@pytest.fixture
def brats_folder(tmp_path: Path, write_nifti: Any, head: Head) -> Path:
    root = tmp_path / "BraTS2021_Training_Data"
    for number in range(8):
        name = f"BraTS2021_{number:05d}"
        for part in ("t1", "flair"):
            write_nifti(root / name / f"{name}_{part}.nii.gz", head(number), 5.0, "LPS")
        write_nifti(root / name / f"{name}_seg.nii.gz", lesion(10), 5.0, "LPS")
    return root


def test_brats(brats_folder: Path, tmp_path: Path, load: Any, pixels: Any, snapshot: Any) -> None:
    path = brats.prepare(brats_folder, tmp_path / "out", slices=3, splits=(0, 0, 1), **FINER)
    content = load(path)
    assert json.loads((tmp_path / "out/prepare_report.json").read_text())["skipped"] == {}
    assert not content["training"]
    assert len(content["test"]) == 24
    ill = [item for item in content["test"] if not item["healthy"]]
    assert len(ill) == 8
    assert {item["level"] for item in ill} == {10}
    assert {item["kind"] for item in ill} == {"glioma"}
    assert not any("mask" in item for item in content["test"] if item["healthy"])
    mask = pixels(tmp_path / "out" / ill[0]["mask"])
    # Rows are y (backwards), columns are x (right): left front is top left of the head in the middle.
    assert np.unique(mask).tolist() == [0, 255]
    assert (mask > 0).sum() == pytest.approx(25, abs=5)
    y, x = (axis.mean() for axis in np.nonzero(mask))
    assert (x - 19.5, y - 19.5) == pytest.approx((6 - 12, 14 - 22), abs=1)
    before = snapshot(tmp_path / "out")
    brats.prepare(brats_folder, tmp_path / "out", slices=3, splits=(0, 0, 1), **FINER)
    assert snapshot(tmp_path / "out") == before


def test_brats_sections_hold_no_tumour_but_the_test(brats_folder: Path, tmp_path: Path, load: Any) -> None:
    content = load(
        brats.prepare(
            brats_folder, tmp_path / "out", splits=(0.5, 0.2, 0.3), seed=1, **{**FINER, "slices": 3}
        )
    )
    assert content["training"]
    assert all(item["level"] != 10 for item in content["training"] + content["validation"])
    assert {item["level"] for item in content["test"]} == {9, 10, 11}


def test_brats_problems_file_by_file(
    brats_folder: Path, tmp_path: Path, write_nifti: Any, damage: Any
) -> None:
    def file(number: int, part: str) -> Path:
        return brats_folder / f"BraTS2021_{number:05d}/BraTS2021_{number:05d}_{part}.nii.gz"

    file(1, "seg").unlink()
    damage(file(2, "t1"))
    write_nifti(file(3, "seg"), np.zeros((24, 28, 19), dtype=np.uint8), 5.0, "LPS")
    path = brats.prepare(brats_folder, tmp_path / "out", splits=(0, 0, 1), **FINER)
    found = {entry["file"]: entry["problem"] for entry in problems(path)}
    assert list(found) == [str(file(1, "seg")), str(file(2, "t1")), str(file(3, "seg"))]
    assert found[str(file(1, "seg"))] == "missing"
    assert "the mask's grid (24, 28, 19) is not that of its image" in found[str(file(3, "seg"))]
    assert {item["subject"][-1] for item in json.loads(path.read_text())["test"]} == set("04567")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="BraTS2021_00000"):
        brats.prepare(tmp_path / "empty", tmp_path / "none")


def test_brats_tiny_lesions_are_neither(brats_folder: Path, tmp_path: Path, write_nifti: Any) -> None:
    seg = brats_folder / "BraTS2021_00000/BraTS2021_00000_seg.nii.gz"
    write_nifti(seg, lesion(10, side=3), 5.0, "LPS")
    path = brats.prepare(brats_folder, tmp_path / "out", slices=1, splits=(0, 0, 1), **FINER)
    assert len(json.loads(path.read_text())["test"]) == 7
    assert json.loads((tmp_path / "out/prepare_report.json").read_text())["skipped"] == {"tiny lesion": 1}


def test_atlas(tmp_path: Path, write_nifti: Any, head: Head, load: Any) -> None:
    stem = "{0}_ses-1_space-MNI152NLin2009aSym"
    for number in range(3):
        subject = f"sub-r00{number}s001"
        folder = tmp_path / f"ATLAS_2/Training/R00{number}/{subject}/ses-1/anat"
        write_nifti(folder / f"{stem.format(subject)}_T1w.nii.gz", head(number), 5.0)
        name = f"{stem.format(subject)}_label-L_desc-T1lesion_mask.nii.gz"
        write_nifti(folder / name, lesion(10), 5.0)
    hidden = tmp_path / "ATLAS_2/Testing/R009/sub-r009s001/ses-1/anat"
    write_nifti(hidden / f"{stem.format('sub-r009s001')}_T1w.nii.gz", head(9), 5.0)
    without = tmp_path / "ATLAS_2/Training/R003/sub-r003s001/ses-1/anat"
    write_nifti(without / f"{stem.format('sub-r003s001')}_T1w.nii.gz", head(9), 5.0)
    path = atlas.prepare(tmp_path / "ATLAS_2", tmp_path / "out", slices=3, splits=(0, 0, 1), **FINER)
    content = load(path)
    assert len(content["test"]) == 9
    assert {item["kind"] for item in content["test"] if not item["healthy"]} == {"stroke"}
    assert [Path(entry["file"]).parent for entry in problems(path)] == [without]
    assert problems(path)[0]["problem"] == "missing"
    report = json.loads((tmp_path / "out/prepare_report.json").read_text())
    assert report["skipped"] == {"hidden test set without masks": 1}
    with pytest.raises(DataError, match="unpack"):
        atlas.prepare(hidden, tmp_path / "none")


@pytest.mark.parametrize("count", [3, 5, 10])
def test_no_section_of_ixi_is_empty(
    ixi_folder: Path, tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in sorted(ixi_folder.glob("*T1.nii.gz"))[count:]:
        file.unlink()
    for seed in range(4):
        words = ["--source", str(ixi_folder), "--output", str(tmp_path / str(seed)), "--seed", str(seed)]
        assert ixi.main(words) == 0
        shown = capsys.readouterr()
        assert " 0 images" not in shown.out
        assert "is empty" not in shown.err
        assert "2 left out" in shown.out


def test_ixi_slices_have_square_pixels(tmp_path: Path, write_nifti: Any, load: Any, pixels: Any) -> None:
    """IXI is stored as 150 sagittal slices of 1.2 mm with 0.94 mm within: a ball becomes a disc."""
    spacing = np.asarray([1.2, 0.94, 4.0])
    axes = [(np.arange(n) - n / 2) * side for n, side in zip((130, 160, 40), spacing, strict=True)]
    ball = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))) < 65
    for number in range(3):
        name = f"IXI00{number}-Guys-0800-T1.nii.gz"
        write_nifti(tmp_path / "in" / name, (300 * ball).astype(np.int16), spacing, "PSR")
    content = load(ixi.prepare(tmp_path / "in", tmp_path / "out", depth_mm=65))
    (item,) = content["test"]
    assert item["pixel_mm"] == 1.0
    shown = pixels(tmp_path / "out" / item["image"]) > 127
    wide, high = (shown.any(axis).sum() for axis in (0, 1))
    assert wide / high == pytest.approx(1, abs=0.02)
    assert wide == pytest.approx(130, rel=0.03)
