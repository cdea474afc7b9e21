"""OASIS with segmentations: neurite's download packed and unpacked, FreeSurfer's folders, tissues, grids."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from robustmed_monai.data_prep import oasis
from robustmed_monai.utils.errors import ConfigError, DataError

SHAPE = (16, 20, 24)  # x, y, z
COUNT = 9


def brain(seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """An image and its four labels (neurite's numbers) in RAS+; a shell of each label around the last."""
    x, y, z = (np.linspace(-1, 1, n) for n in SHAPE)
    radius = np.sqrt(x[:, None, None] ** 2 + (y[:, None] * 0.9) ** 2 + (z + 0.1) ** 2)
    labels = np.digitize(-radius, [-0.9, -0.7, -0.5, -0.3]).astype(np.uint8)
    noise = np.random.default_rng(seed).random(SHAPE)
    return ((labels * 0.2 + 0.05 * noise) * (labels > 0)).astype(np.float32), labels


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing every small file to a disk takes the time of the test and proves nothing here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def raised(labels: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """Other numbers for all but the background."""
    return np.where(labels > 0, labels + by, 0).astype(np.uint8)


@pytest.fixture
def neurite(tmp_path: Path, write_nifti: Any) -> Path:
    """What the tar unpacks to: coronal slices one voxel thick and aligned volumes, stored "LIA"."""
    root = tmp_path / "neurite-oasis.v1.0"
    for number in range(1, COUNT + 1):
        folder = root / f"OASIS_OAS1_{number:04d}_MR1"
        image, labels = brain(number)
        for name, volume in (
            ("norm", image),
            ("seg4", labels),
            ("seg35", (labels + 30 * (labels > 0)).astype(np.uint8)),
        ):
            write_nifti(folder / f"aligned_{name}.nii.gz", volume, 1.0, "LIA")
        for name, volume in (
            ("norm", image),
            ("seg4", labels),
            ("seg24", raised(labels, 20)),
        ):
            write_nifti(folder / f"slice_{name}.nii.gz", volume[:, 9:10], 1.0, "LIA")
        write_nifti(folder / "slice_orig.nii.gz", image[:, 9:10], 1.0, "LIA")
    (root / "subjects.txt").write_text("all")
    return root


@pytest.fixture
def archive(neurite: Path, tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "neurite-oasis.v1.0.tar", "w") as tar:
        tar.add(neurite, neurite.name)
    return tmp_path / "neurite-oasis.v1.0.tar"


def items_of(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text())
    return [item for section in ("training", "validation", "test") for item in content[section]]


def test_slices(neurite: Path, tmp_path: Path, load: Any, pixels: Any) -> None:
    path = oasis.prepare(neurite, tmp_path / "out")
    load(path)
    items = items_of(path)
    assert len(items) == COUNT
    item = next(i for i in items if i["subject"] == "OASIS_OAS1_0003_MR1")
    image, labels = brain(3)
    # Rows run down from the top of the head, columns to the patient's right.
    expected = labels[:, 9, ::-1].T
    tissue = np.array([0, 2, 2, 3, 1])[expected]
    np.testing.assert_array_equal(pixels(tmp_path / "out" / item["label"]), tissue)
    top = np.percentile(image[:, 9], 99.9)
    flat = np.clip(image[:, 9, ::-1].T / top, 0, 1) * 255
    np.testing.assert_allclose(pixels(tmp_path / "out" / item["image"]), flat, atol=0.51)


def test_the_tar_gives_what_its_folder_gives(
    neurite: Path, archive: Path, tmp_path: Path, snapshot: Any
) -> None:
    unpacked = json.loads(oasis.prepare(neurite, tmp_path / "a", labels="seg24").read_text())
    assert json.loads(oasis.prepare(archive, tmp_path / "b", labels="seg24").read_text()) == unpacked
    before = snapshot(tmp_path / "b")
    words = ["--source", str(archive), "--output", str(tmp_path / "b"), "--labels", "seg24"]
    assert oasis.main(words) == 0
    assert snapshot(tmp_path / "b") == before
    cut = archive.with_name("cut.tar")
    cut.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    path = oasis.prepare(cut, tmp_path / "cut", labels="seg24")
    assert 0 < len(items_of(path)) < COUNT
    problems = json.loads((path.parent / "prepare_report.json").read_text())["problems"]
    assert "damaged or incomplete" in problems[0]["problem"]


def test_volumes_keep_their_numbers_and_place(neurite: Path, tmp_path: Path, load: Any) -> None:
    path = oasis.prepare(neurite, tmp_path / "out", form="volume", labels="seg35")
    load(path)
    item = next(i for i in items_of(path) if i["subject"] == "OASIS_OAS1_0002_MR1")
    image, labels = brain(2)
    found: Any = nib.as_closest_canonical(nib.load(tmp_path / "out" / item["label"]))
    np.testing.assert_array_equal(np.asarray(found.dataobj), raised(labels, 30))
    np.testing.assert_allclose(found.affine, np.eye(4))
    found = nib.as_closest_canonical(nib.load(tmp_path / "out" / item["image"]))
    np.testing.assert_allclose(found.get_fdata() / 255, np.clip(image / image.max(), 0, 1), atol=0.01)


def test_freesurfer_folders(tmp_path: Path, pixels: Any) -> None:
    image, labels = brain(0)
    aseg = np.array([0, 3, 10, 41, 4], dtype=np.int32)[labels]
    for number in range(4):
        folder = tmp_path / "subjects" / f"sub-{number}" / "mri"
        folder.mkdir(parents=True)
        for name, volume in (("norm", image * 110), ("aseg", aseg)):
            stored = nib.MGHImage(volume.astype(np.float32), np.eye(4))
            nib.save(stored, folder / f"{name}.mgz")
    (tmp_path / "subjects/sub-3/mri/aseg.mgz").unlink()
    path = oasis.prepare(tmp_path / "subjects", tmp_path / "out", splits=(0, 0, 1))
    items = items_of(path)
    assert [i["subject"] for i in items] == ["sub-0", "sub-1", "sub-2"]
    # The slice in the middle of the segmentation, not of the volume.
    filled = np.nonzero(labels.any((0, 2)))[0]
    expected = np.array([0, 2, 2, 3, 1])[labels[:, (filled[0] + filled[-1]) // 2, ::-1].T]
    written = pixels(tmp_path / "out" / items[0]["label"])
    assert (written == expected).mean() > 0.9
    assert np.unique(written).tolist() == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="FreeSurfer subjects have tissue only"):
        oasis.prepare(tmp_path / "subjects", tmp_path / "other", labels="seg24")


def test_what_cannot_be_used_is_named(neurite: Path, tmp_path: Path, write_nifti: Any, damage: Any) -> None:
    folders = sorted(neurite.glob("OASIS*"))
    damage(folders[0] / "slice_norm.nii.gz")
    (folders[1] / "slice_seg4.nii.gz").unlink()
    write_nifti(folders[2] / "slice_seg4.nii.gz", np.ones((8, 1, 8), np.uint8), 1.0, "LIA")
    write_nifti(folders[3] / "slice_seg4.nii.gz", np.zeros((16, 1, 24), np.uint8), 1.0, "LIA")
    path = oasis.prepare(neurite, tmp_path / "out")
    assert len(items_of(path)) == COUNT - 4
    problems = json.loads((path.parent / "prepare_report.json").read_text())["problems"]
    assert len(problems) == 4
    assert "missing" in problems[1]["problem"]
    assert "is not that of its image" in problems[2]["problem"]
    assert "has none of the labels" in problems[3]["problem"]


def test_errors(neurite: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="form='volume', labels='seg24'"):
        oasis.prepare(neurite, tmp_path / "out", form="volume", labels="seg24")
    with pytest.raises(DataError, match="no such file or folder"):
        oasis.prepare(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds neither OASIS_OAS1"):
        oasis.prepare(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "no.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match="is no tar with files"):
        oasis.prepare(tmp_path / "no.tar", tmp_path / "out")
