"""Pixelation, JPEG and warping against Pillow, MONAI and SciPy."""

from __future__ import annotations

import io
from itertools import product

import numpy as np
import pytest
import torch
from monai.transforms import Resize
from PIL import Image
from scipy import ndimage

from robustmed_monai.transforms.corruption import optics
from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.digital import elastic_transform, jpeg_compression, pixelate
from robustmed_monai.utils.errors import ConfigError

SIZES = [(28, 28), (32, 32), (31, 45), (64, 50), (9, 17), (100, 23)]  # rows, columns


def run(corruption: Corruption, levels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Corrupt one 8 bit picture (rows, columns[, 3]); returns levels, not rounded."""
    batch = torch.from_numpy(np.atleast_3d(levels).T.copy())[None]
    params = corruption.sample(batch.shape, torch.Generator().manual_seed(seed))
    return np.asarray(corrupt(batch, corruption, params)[0].numpy().T * 255).reshape(levels.shape)


def picture(size: tuple[int, int], colours: bool, noise: bool) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (*size, 3) if colours else size
    values = rng.random(shape)
    if not noise:
        values = ndimage.gaussian_filter(values, (3, 3, 0) if colours else 3)
        values = (values - values.min()) / np.ptp(values)
    return (values * 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("colours", [False, True])
def test_jpeg_is_pillows_to_the_bit(size: tuple[int, int], colours: bool) -> None:
    for quality, noise in product((1, 7, 10, 18, 25, 50, 75, 100), (False, True)):
        levels = picture(size, colours, noise)
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "JPEG", quality=quality)
        expected = np.asarray(Image.open(file))
        np.testing.assert_array_equal(run(jpeg_compression(quality), levels).round(), expected)


def test_jpeg_of_a_cut_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = torch.from_numpy(np.stack([picture((20, 24), True, True).T] * 3))
    coder = jpeg_compression(10)
    whole = corrupt(levels, coder, {})
    monkeypatch.setattr(optics, "_CHUNK", 1)
    assert torch.equal(corrupt(levels, coder, {}), whole)
    assert torch.equal(whole[0], whole[2])


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (45, 64), (224, 224)])
@pytest.mark.parametrize("up", [Image.Resampling.NEAREST, Image.Resampling.BOX], ids=["nearest", "box"])
def test_pixelate_is_pillows(size: tuple[int, int], up: Image.Resampling) -> None:
    levels = picture(size, False, True)
    rows, columns = size
    for factor in (0.6, 0.5, 0.4, 0.3, 0.25, 0.1):
        # Where a centre falls between two small pixels, rounding errors decide in Pillow's NEAREST.
        centres = [(2 * i + 1) * int(side * factor) / (2 * side) for side in size for i in range(side)]
        tie = any(centre.is_integer() for centre in centres)
        small = Image.fromarray(levels).resize(
            (int(columns * factor), int(rows * factor)), Image.Resampling.BOX
        )
        expected = np.asarray(small.resize((columns, rows), Image.Resampling.BOX if tie else up), float)
        # Pillow rounds after each of its two passes.
        assert np.abs(run(pixelate(factor), levels) - expected).max() <= 1.01


@pytest.mark.parametrize("factor", [0.5, 0.25])
def test_pixelate_is_monais_area_where_the_sides_divide(factor: float) -> None:
    levels = picture((32, 64), False, True)
    x = torch.from_numpy(levels.astype(np.float32))[None]
    small = Resize((int(32 * factor), int(64 * factor)), mode="area")(x)
    expected = Resize((32, 64), mode="nearest")(small)
    np.testing.assert_allclose(run(pixelate(factor), levels), np.asarray(expected)[0], atol=1e-3)


@pytest.mark.parametrize("size", [(28, 28), (224, 180), (60, 100)])
@pytest.mark.parametrize("reference", [None, 224])
def test_elastic_is_scipys_warp(size: tuple[int, int], reference: int | None) -> None:
    levels = picture(size, True, False)
    rows, columns = size
    alpha = 21.25
    result = run(elastic_transform(alpha, reference), levels, seed=5)
    u = torch.rand(1, 2, columns, rows, generator=torch.Generator().manual_seed(5)).numpy()[0]
    scale = 1.0 if reference is None else min(1, min(size) / reference)
    sigma = (0.01 * rows, 0.01 * columns)
    dx, dy = (
        ndimage.gaussian_filter((2 * noise.T - 1) * 0.005 * rows, sigma, mode="reflect", truncate=3)
        * (alpha * scale)
        for noise in u
    )
    y, x = np.mgrid[:rows, :columns]
    for channel in range(3):
        plane = levels[..., channel].astype(float)
        expected = ndimage.map_coordinates(plane, (y + dy, x + dx), order=1, mode="reflect")
        np.testing.assert_allclose(result[..., channel], expected, atol=0.02)


def test_elastic_of_strength_0_changes_nothing() -> None:
    levels = picture((28, 33), True, True)
    np.testing.assert_allclose(run(elastic_transform(0), levels), levels, atol=2e-3)


def test_refuses_what_means_nothing() -> None:
    with pytest.raises(ConfigError, match="quality=0"):
        jpeg_compression(0)
    with pytest.raises(ConfigError, match=r"factor=1.5"):
        pixelate(1.5)
    with pytest.raises(ConfigError, match="alpha=-1"):
        elastic_transform(-1)
