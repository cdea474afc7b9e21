from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustmed_monai.data_prep.oasis_slab import prepare
from robustmed_monai.transforms.align_to_template import HEAD_BOX
from robustmed_monai.transforms.image_readers.picture import SCALED_AS_VOLUME
from robustmed_monai.utils.errors import ConfigError, DataError


def head(side: int) -> np.ndarray:
    """Rows x columns: an ellipse that is longer along the columns, a bright spot at its right end."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    image = 60.0 * (np.hypot(x / 0.7, y / 0.55) < 1)
    image[(np.abs(x - 0.55) < 0.1) & (np.abs(y) < 0.1)] = 250
    pixels: np.ndarray = image.astype(np.uint8)
    return pixels


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three subjects, one of them for validation, at two heights."""
    path = tmp_path / "slab.npz"
    subject, level = np.repeat(np.arange(3, dtype=np.uint16), 2), np.tile(np.array([0, 2], np.uint8), 3)
    images = np.stack([head(64)] * 6)
    np.savez(path, image=images, subject=subject, slice=level, validation=subject == 2)
    return path


def test_heads_lie_in_the_frame_nose_up(source: Path, tmp_path: Path) -> None:
    path = prepare(source, tmp_path / "out", percentile=100)
    content = json.loads(path.read_text())
    assert [len(content[s]) for s in ("training", "validation", "test")] == [4, 2, 0]
    item = content["training"][0]
    picture = Image.open(path.parent / item["image"])
    assert SCALED_AS_VOLUME[0] in picture.info
    image = np.asarray(picture).astype(float)
    assert image.shape == (128, 128)
    spacing = 233 / 128
    for axis, ends in enumerate(HEAD_BOX):
        # The first axis of the frame is that of the columns.
        filled = np.flatnonzero((image > 25).any(axis=axis))
        assert (filled[[0, -1]] - 63.5) * spacing == pytest.approx(ends, abs=6)
    # The spot at the nose is up, that is in the first rows, and in the middle.
    up, down = image[:40, 54:74], image[-40:, 54:74]
    assert (up == 255).sum() > (down == 255).sum() == 0


def test_beside_another_datalist_they_only_train(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for section in ("train", "val", "test"):
        (other / section).mkdir(parents=True)
        Image.fromarray(head(32)).save(other / section / "a.png")
    path = prepare(source, tmp_path / "out", beside=other, levels=[2])
    content = json.loads(path.read_text())
    assert [len(content[s]) for s in ("training", "validation", "test")] == [1 + 2, 1, 1]
    assert {i["level"] for i in content["training"] if "level" in i} == {2}
    assert "oasis_002" not in {i["subject"] for i in content["training"]}
    assert content["test"][0]["image"] == str(other / "test" / "a.png")


def test_what_does_not_fit_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"levels: \[7\] are not in"):
        prepare(source, tmp_path / "out", levels=[2, 7])
    data = dict(np.load(source))
    np.savez(tmp_path / "short.npz", **{**data, "slice": data["slice"][:2]})
    with pytest.raises(DataError, match="one row a slice"):
        prepare(tmp_path / "short.npz", tmp_path / "out")
