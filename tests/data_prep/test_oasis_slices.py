"""OASIS slices: who is trained, chosen and tested on, what becomes of the pixels, and running again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustmed_monai.data_prep import oasis_slices
from robustmed_monai.utils.errors import ConfigError, DataError

GREYS = np.array([0, 85, 170, 255], dtype=np.uint8)


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing every small file to a disk takes the time of the test and proves nothing here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def source(tmp_path: Path, write_png: Any, rng: np.random.Generator) -> Path:
    """Ten subjects to train on and two others, two slices each, 32 x 32; everything else differs."""
    root = tmp_path / "oasis"
    for number in range(12):
        part = "train" if number < 10 else "val"
        for level in (10, 16):
            name = f"case_{number:03d}_slice_{level}.png"
            labels = GREYS[rng.integers(0, 4, (16, 16))].repeat(2, 0).repeat(2, 1)
            write_png(root / part / "images" / name, rng.integers(0, 256, (32, 32)).astype(np.uint8))
            write_png(root / part / "labels" / name, labels)
    (root / "train" / "images" / "notes.txt").write_text("not an image")
    return root


def test_sections_and_pixels(source: Path, tmp_path: Path, load: Any, pixels: Any, snapshot: Any) -> None:
    out = tmp_path / "out"
    content = load(oasis_slices.prepare(source, out, size=16, validation=3))
    subjects = {k: {i["subject"] for i in content[k]} for k in ("training", "validation", "test")}
    assert {k: len(v) for k, v in subjects.items()} == {"training": 7, "validation": 3, "test": 2}
    assert subjects["test"] == {"case_010", "case_011"}
    item = content["test"][1]
    assert (item["subject"], item["level"]) == ("case_010", 16)
    given = pixels(source / "val/images/case_010_slice_16.png").astype(float)
    # The nose, at the right, comes up; then two by two pixels are averaged.
    turned = np.rot90(given).reshape(16, 2, 16, 2).mean((1, 3))
    np.testing.assert_allclose(pixels(out / item["image"]), turned, atol=0.51)
    labels = np.rot90(pixels(source / "val/labels/case_010_slice_16.png"))[::2, ::2] // 85
    np.testing.assert_array_equal(pixels(out / item["label"]), labels)
    before = snapshot(out)
    words = ["--source", str(source), "--output", str(out), "--size", "16", "--validation", "3"]
    assert oasis_slices.main(words) == 0
    assert snapshot(out) == before


def test_the_choosing_subjects_depend_on_the_seed_alone(source: Path, tmp_path: Path) -> None:
    def chosen(folder: str, **settings: Any) -> set[str]:
        path = oasis_slices.prepare(source, tmp_path / folder, size=None, validation=3, **settings)
        return {item["subject"] for item in json.loads(path.read_text())["validation"]}

    first = chosen("a")
    assert first != chosen("b", seed=1)
    for file in (source / "train").rglob(f"{sorted(first)[0]}_*"):
        file.rename(file.with_name("gone"))
    assert first - chosen("c") == {min(first)}


def test_what_cannot_be_used_is_named(source: Path, tmp_path: Path, write_png: Any, damage: Any) -> None:
    images, labels = source / "train/images", source / "train/labels"
    damage(images / "case_000_slice_10.png")
    (labels / "case_001_slice_10.png").unlink()
    write_png(labels / "case_002_slice_10.png", np.full((32, 32), 90, np.uint8))
    write_png(labels / "case_003_slice_10.png", np.zeros((32, 16), np.uint8))
    path = oasis_slices.prepare(source, tmp_path / "out", size=16, validation=3)
    problems = json.loads((path.parent / "prepare_report.json").read_text())["problems"]
    assert [Path(p["file"]).name for p in problems] == [f"case_00{i}_slice_10.png" for i in range(4)]
    assert "missing" in problems[1]["problem"]
    assert "grey values [90.0]" in problems[2]["problem"]
    content = json.loads(path.read_text())
    assert sum(len(content[k]) for k in ("training", "validation")) == 16
    with pytest.raises(DataError, match="--strict"):
        oasis_slices.prepare(source, tmp_path / "strict", size=16, validation=3, strict=True)


def test_errors(source: Path, tmp_path: Path) -> None:
    for validation in (0, 10):
        with pytest.raises(ConfigError, match=f"validation: got {validation} of 10 subjects"):
            oasis_slices.prepare(source, tmp_path / "out", validation=validation)
    with pytest.raises(ConfigError, match="size: got 4"):
        oasis_slices.prepare(source, tmp_path / "out", size=4)
    for part in ("images", "labels"):
        file = source / "val" / part / "case_010_slice_10.png"
        file.rename(file.with_name("case_001_slice_10.png"))
    with pytest.raises(DataError, match=r"in both \['case_001'\]"):
        oasis_slices.prepare(source, tmp_path / "out")
