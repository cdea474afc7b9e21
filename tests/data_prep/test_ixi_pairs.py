"""IXI pairs: both contrasts on one grid, whatever the grids they were scanned on."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustmed_monai.data_prep import ixi_pairs
from robustmed_monai.utils.errors import ConfigError, DataError

SETTINGS: dict[str, Any] = {"spacing_mm": 10.0, "size": 40, "slices": 2, "gap_mm": 20.0}


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing every small file to a disk takes the time of the test and proves nothing here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def source(tmp_path: Path, write_nifti: Any, head: Any) -> Path:
    """Six subjects; T2 is T1's negative on another grid: stored otherwise, every second voxel."""
    root = tmp_path / "ixi"
    for number in range(6):
        volume = head(number)
        stem = f"IXI{number + 2:03d}-Guys-0{800 + number}"
        write_nifti(root / "IXI-T1" / f"{stem}-T1.nii.gz", volume, 10.0, "PSR")
        negative = np.where(volume > 0, 700 - volume, 0).astype(np.int16)
        write_nifti(root / "IXI-T2" / f"{stem}-T2.nii.gz", negative[::2, ::2, ::2], 20.0, "RAS")
    (root / "IXI-T2" / "IXI007-Guys-0805-T2.nii.gz").unlink()
    return root


def items_of(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text())
    return [item for section in ("training", "validation", "test") for item in content[section]]


def test_pairs_show_the_same_place(source: Path, tmp_path: Path, load: Any, pixels: Any) -> None:
    path = ixi_pairs.prepare(source, tmp_path / "out", **SETTINGS)
    load(path)
    items = items_of(path)
    assert len(items) == 5 * 2 * 2
    pairs: dict[Any, dict[str, Any]] = {}
    for item in items:
        pairs.setdefault((item["subject"], item["level"]), {})[item["contrast"]] = item
    assert len(pairs) == 10
    for pair in pairs.values():
        first, second = (pixels(tmp_path / "out" / pair[c]["image"]).astype(float) for c in ("T1", "T2"))
        assert first.shape == second.shape == (40, 40)
        inside, outside = first > 100, first == 0
        # Half the voxels, blurred by the interpolation, but at the same place.
        assert second[inside].mean() > 4 * second[outside].mean()
    report = json.loads((tmp_path / "out/prepare_report.json").read_text())
    assert report["skipped"] == {"subject with one contrast only": 1}


def test_tars_give_what_their_folders_give(source: Path, tmp_path: Path, snapshot: Any) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    for contrast in ("T1", "T2"):
        with tarfile.open(packed / f"IXI-{contrast}.tar", "w") as tar:
            for file in sorted((source / f"IXI-{contrast}").iterdir()):
                tar.add(file, file.name)
    unpacked = json.loads(ixi_pairs.prepare(source, tmp_path / "a", **SETTINGS).read_text())
    assert json.loads(ixi_pairs.prepare(packed, tmp_path / "b", **SETTINGS).read_text()) == unpacked
    before = snapshot(tmp_path / "b")
    words = ["--source", str(packed), "--output", str(tmp_path / "b"), "--spacing_mm", "10", "--size", "40"]
    assert ixi_pairs.main([*words, "--slices", "2", "--gap_mm", "20"]) == 0
    assert snapshot(tmp_path / "b") == before


def test_a_damaged_file_is_named(source: Path, tmp_path: Path, damage: Any) -> None:
    broken = source / "IXI-T2" / "IXI003-Guys-0801-T2.nii.gz"
    damage(broken)
    path = ixi_pairs.prepare(source, tmp_path / "out", **SETTINGS)
    assert "IXI003" not in {item["subject"] for item in items_of(path)}
    (problem,) = json.loads((path.parent / "prepare_report.json").read_text())["problems"]
    assert str(broken) in problem["file"]


def test_errors(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"spacing_mm: got 0\.0"):
        ixi_pairs.prepare(source, tmp_path / "out", spacing_mm=0.0)
    with pytest.raises(DataError, match=r"holds neither IXI-T1\.tar nor IXI-T1"):
        ixi_pairs.prepare(tmp_path, tmp_path / "out")
    for file in (source / "IXI-T2").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"holds no IXI<n>-\.\.\.-T2"):
        ixi_pairs.prepare(source, tmp_path / "out")
