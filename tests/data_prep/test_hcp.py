"""HCP: volumes in their official layout stay where they are and are checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from robustmed_monai.data_prep import hcp
from robustmed_monai.utils.errors import ConfigError, DataError

Head = Callable[[int], NDArray[Any]]


@pytest.fixture
def subjects(tmp_path: Path, write_nifti: Any, head: Head) -> Path:
    for number in range(12):
        folder = tmp_path / "HCP" / f"{100307 + 100 * number}" / "T1w"
        write_nifti(folder / hcp.FILES["t2"], head(number), 0.7)
    write_nifti(tmp_path / "HCP" / "template" / "T1w" / hcp.FILES["t2"], head(0), 0.7)
    return tmp_path / "HCP"


def test_hcp(subjects: Path, tmp_path: Path, load: Any, snapshot: Any) -> None:
    content = load(hcp.prepare(subjects, tmp_path / "out", splits=(0.5, 0.2, 0.3)))
    items = [item for k in ("training", "validation", "test") for item in content[k]]
    assert len(items) == 12, "a folder that is no subject is not taken"
    assert all(item["healthy"] and Path(item["image"]).is_absolute() for item in items)
    assert all(item["subject"] in item["image"] for item in items)
    before = snapshot(tmp_path / "out")
    words = ["--source", str(subjects), "--output", str(tmp_path / "out")]
    assert hcp.main([*words, "--splits", ".5", ".2", ".3"]) == 0
    assert snapshot(tmp_path / "out") == before


def test_problems_are_named(subjects: Path, tmp_path: Path, damage: Any) -> None:
    files = sorted(subjects.rglob("1*/T1w/*.nii.gz"))
    damage(files[0])
    files[1].unlink()
    path = hcp.prepare(subjects, tmp_path / "out", splits=(0, 0, 1))
    assert len(json.loads(path.read_text())["test"]) == 10
    problems = json.loads((tmp_path / "out/prepare_report.json").read_text())["problems"]
    assert [entry["file"] for entry in problems] == [str(file) for file in files[:2]]
    with pytest.raises(DataError, match="--strict"):
        hcp.prepare(subjects, tmp_path / "strict", strict=True)
    with pytest.raises(DataError, match="no folder like 100307/T1w"):
        hcp.prepare(tmp_path / "out", tmp_path / "other")
    with pytest.raises(ConfigError, match="sequence='flair'"):
        hcp.prepare(subjects, tmp_path / "other", sequence="flair")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="nothing usable"):
        hcp.prepare(subjects, tmp_path / "t1", sequence="t1")
