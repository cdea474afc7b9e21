from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustmed_monai.data_prep.controlled_lesions import main, prepare
from robustmed_monai.data_prep.lgg import fit, head_box
from robustmed_monai.utils.errors import ConfigError, DataError


def head(seed: int) -> np.ndarray:
    """A head of rows x columns with skull, brain and ventricles."""
    y, x = np.mgrid[-1:1:96j, -1:1:80j]
    r = np.hypot(x / 0.8, y / 0.92)
    image = np.select([r > 1, r > 0.93, r > 0.86, r > 0.72], [0, 190, 25, 140], 205).astype(float)
    image[(np.abs(np.abs(x) - 0.14) < 0.08) & (np.abs(y) < 0.25)] = 45
    noise = np.random.default_rng(seed).normal(0, 3, image.shape) * (r < 1)
    pixels: np.ndarray = np.clip(image + noise, 0, 255).astype(np.uint8)
    return pixels


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(8):
        folder = tmp_path / "source" / ("train" if number < 6 else "val")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(head(number)).save(folder / f"sub-{number}.png")
    return tmp_path / "source"


def test_test_set_holds_each_slice_healthy_and_with_lesions(source: Path, tmp_path: Path) -> None:
    path = prepare(source, tmp_path / "out", lesions=2, validation=2)
    content = json.loads(path.read_text())
    assert [len(content[s]) for s in ("training", "validation", "test")] == [4, 2, 6]
    assert not {i["image"] for i in content["training"]} & {i["image"] for i in content["validation"]}
    for item in content["test"]:
        if item["healthy"]:
            continue
        image, mask = (np.asarray(Image.open(path.parent / item[k])) for k in ("image", "mask"))
        before = np.asarray(Image.open(source / "val" / f"{item['subject']}.png")).astype(float)
        change = np.abs(image.astype(float) - before / before.max() * 255)
        assert mask.any()
        assert change[mask > 0].mean() > 5 * change[mask == 0].mean()


def test_the_same_command_writes_the_same_and_nothing_twice(source: Path, tmp_path: Path) -> None:
    first = prepare(source, tmp_path / "a", lesions=1, validation=2).read_text()
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*.png")}
    assert prepare(source, tmp_path / "a", lesions=1, validation=2).read_text() == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*.png")} == times
    assert prepare(source, tmp_path / "b", lesions=1, validation=2).read_text() == first
    other = prepare(source, tmp_path / "c", lesions=1, validation=2, seed=1).read_text()
    assert json.loads(other)["digests"] != json.loads(first)["digests"]


def test_bad_arguments_say_what_to_do(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        prepare(source, tmp_path / "out", lesions=0)
    with pytest.raises(DataError, match="need over 44"):
        prepare(source, tmp_path / "out")
    assert main(["--source", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 1
    assert "none" in capsys.readouterr().err


def test_fitting_a_head_fills_the_height_and_the_own_box_is_the_identity() -> None:
    stack = np.zeros((3, 64, 64), np.float32)
    stack[:, 10:42, 20:40] = 1
    box = head_box(stack)
    assert box == (25.5, 29.5, 32.0)
    moved = fit(stack[0], box, head_height=0.75, order=0)
    rows = np.nonzero(moved.any(axis=1))[0]
    assert rows[-1] - rows[0] + 1 == pytest.approx(48, abs=1)
    assert (rows[0] + rows[-1]) / 2 == pytest.approx(31.5, abs=0.5)
    centred = np.roll(stack[0], (6, 2), axis=(0, 1))
    np.testing.assert_allclose(fit(centred, head_box(centred[None]), 0.5, order=1), centred, atol=1e-6)
    assert head_box(np.zeros((2, 8, 8))) == (3.5, 3.5, 8.0)
