from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustmed_monai.data_prep import pixels as px
from robustmed_monai.utils.errors import DataError, GeometryError, ImageError


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PSR", "AIL", "RPS"])
def test_an_axial_slice_has_the_nose_up_whatever_the_storage(
    tmp_path: Path, write_nifti: Callable[..., Path], rng: np.random.Generator, axcodes: str
) -> None:
    volume = rng.integers(0, 200, (5, 6, 7)).astype(np.int16)
    read = px.read_volume(write_nifti(tmp_path / "v.nii.gz", volume, 2.0, axcodes))
    # RAS+ to x right, y back, z up.
    np.testing.assert_array_equal(np.asarray(read[0]), volume[:, ::-1, :])
    assert px.voxel_spacing(read) == pytest.approx((2.0, 2.0, 2.0))


def test_a_written_png_is_read_back_with_its_axes(tmp_path: Path, rng: np.random.Generator) -> None:
    values = (rng.integers(0, 256, (7, 5)) / 255).astype(np.float32)
    (tmp_path / "a.png").write_bytes(px.png_bytes(values))
    np.testing.assert_allclose(px.read_slice(tmp_path / "a.png") / 255, values, atol=1e-6)


def test_a_mask_on_another_grid_is_refused(tmp_path: Path, write_nifti: Callable[..., Path]) -> None:
    volume = px.read_volume(write_nifti(tmp_path / "v.nii.gz", np.ones((5, 6, 7), dtype=np.int16)))
    like = np.zeros((5, 6, 7), dtype=np.uint8)
    like[1, 2, 3] = 4
    mask = px.read_mask(write_nifti(tmp_path / "m.nii.gz", like, axcodes="PSR"), volume)
    assert mask[0, 1, 3, 3] == mask.sum() == 1
    for name, shape, spacing in (("shape", (5, 6, 8), 1.0), ("affine", (5, 6, 7), 1.1)):
        other = write_nifti(tmp_path / f"{name}.nii.gz", np.zeros(shape, dtype=np.uint8), spacing)
        with pytest.raises(GeometryError, match=name):
            px.read_mask(other, volume)


def test_nearest_keeps_a_mask_binary_and_its_axes() -> None:
    mask = np.zeros((4, 2), dtype=np.float32)
    mask[3, 0] = 7
    big = px.nearest(mask, (8, 6))
    assert big.shape == (8, 6)
    assert np.unique(big).tolist() == [0.0, 1.0]
    assert big[6:, :3].all()
    assert big.sum() == 6


@pytest.mark.parametrize("spacing", [(0.94, 1.2), (1.2, 0.94)])
@pytest.mark.parametrize("labels", [False, True])
def test_a_disc_on_long_pixels_becomes_a_disc(spacing: tuple[float, float], labels: bool) -> None:
    x, y = ((np.arange(count) - count / 2) * side for count, side in zip((200, 170), spacing, strict=True))
    disc = (np.hypot(x[:, None], y) < 70).astype(np.float32)
    squared = px.square_pixels(disc, spacing, labels)
    assert labels == (set(np.unique(squared)) == {0, 1})
    wide, high = (int((squared > 0.5).any(axis).sum()) for axis in (1, 0))
    assert wide / high == pytest.approx(1, rel=0.02)
    assert (squared > 0.5).sum() * 0.94**2 == pytest.approx(np.pi * 70**2, rel=0.02)
    # Nothing of the field of view is lost.
    assert squared.shape == pytest.approx(
        [c * s / 0.94 for c, s in zip(disc.shape, spacing, strict=True)], abs=1
    )


def test_square_pixels_stay_as_they_are(rng: np.random.Generator) -> None:
    pixels = rng.random((7, 5)).astype(np.float32)
    assert px.square_pixels(pixels, (0.7, 0.7 + 1e-5)) is pixels


def test_stretch_does_not_depend_on_the_scale_of_the_file(rng: np.random.Generator) -> None:
    image = rng.gamma(2.0, 1.0, (20, 20)).astype(np.float32)
    one = px.percentile_scale(image, 98)
    assert one.min() >= 0
    assert one.max() == 1
    assert (one == 1).mean() == pytest.approx(0.02, abs=0.005)
    np.testing.assert_allclose(px.percentile_scale(image * 65535, 98), one, rtol=1e-5)
    assert px.percentile_scale(image - 5, 99.9).min() == 0
    with pytest.raises(DataError, match="empty"):
        px.percentile_scale(np.zeros((3, 3), dtype=np.float32), 98)


@pytest.mark.parametrize(
    ("arguments", "levels"),
    [((5, 1, 3, 10), [5]), ((5, 2, 3, 10), [5, 8]), ((1, 3, 2, 10), [1, 3]), ((9, 3, 1, 10), [8, 9])],
)
def test_spread(arguments: tuple[int, int, int, int], levels: list[int]) -> None:
    assert px.evenly_spaced(*arguments) == levels


def test_boxes_are_clipped_and_one_outside_is_refused() -> None:
    assert px.clip_box(-2.0, 1.4, 3.6, 99.0, (10, 8)) == [0, 1, 4, 8]
    with pytest.raises(DataError, match="no pixel"):
        px.clip_box(10.0, 0.0, 12.0, 5.0, (10, 8))
    assert px.main_kind([[0, 0, 2, 2], [0, 0, 3, 1], [0, 0, 2, 1]], ["b", "a", "a"]) == "a"


def test_three_channels_become_their_mean_and_a_text_file_is_refused(tmp_path: Path, write_png: Any) -> None:
    colour = np.zeros((4, 6, 3), dtype=np.uint8)
    colour[..., 0] = 30
    read = px.read_slice(write_png(tmp_path / "c.png", colour))
    assert read.shape == (6, 4)
    assert np.unique(read).tolist() == [10.0]
    (tmp_path / "t.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"t\.png"):
        px.read_slice(tmp_path / "t.png")
