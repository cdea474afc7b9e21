"""ImageNet-C's blurs against transcriptions of their definitions in NumPy and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from robustmed_monai.transforms.corruption import optics
from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.optics import defocus_blur, motion_blur, zoom_blur
from robustmed_monai.utils.errors import ConfigError

DEFOCUS = [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5), (0.5, 0.6), (2.5, 0.1)]
MOTION = [(10, 3.0), (15, 12.0), (3, 3.0)]


def images(rng: np.random.Generator, shape: tuple[int, ...] = (2, 3, 37, 44)) -> np.ndarray:
    return rng.random(shape, dtype=np.float32)


def run(corruption: Corruption, array: np.ndarray, seed: int = 0) -> np.ndarray:
    batch = torch.from_numpy(array)
    params = corruption.sample(batch.shape, torch.Generator().manual_seed(seed))
    return np.asarray(corrupt(batch, corruption, params).numpy())


def soft_disc(radius: float, alias: float) -> np.ndarray:
    reach, half = (8, 1) if radius <= 8 else (int(radius), 2)
    x, y = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.asarray((x**2 + y**2 <= radius**2) * 1.0)
    gauss = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * alias**2))
    for axis in (0, 1):
        disc = ndimage.correlate1d(disc, gauss / gauss.sum(), axis, mode="mirror")
    return np.asarray(disc / (x**2 + y**2 <= radius**2).sum())


@pytest.mark.parametrize(("radius", "alias"), DEFOCUS)
def test_defocus_is_a_softened_disc(radius: float, alias: float, rng: np.random.Generator) -> None:
    x = images(rng)
    expected = ndimage.correlate(x.astype(float), soft_disc(radius, alias)[None, None], mode="mirror")
    np.testing.assert_allclose(run(defocus_blur(radius, alias), x), expected.clip(0, 1), atol=2e-6)


def spread(kernel: np.ndarray, scale: float) -> np.ndarray:
    """Each weight goes to the four pixels around its scaled place."""
    reach = len(kernel) // 2
    small = np.zeros((2 * reach + 1, 2 * reach + 1))
    for i, j in np.ndindex(*kernel.shape):
        x, y = (i - reach) * scale, (j - reach) * scale
        for u in (math.floor(x), math.floor(x) + 1):
            for v in (math.floor(y), math.floor(y) + 1):
                share = max(0.0, 1 - abs(x - u)) * max(0.0, 1 - abs(y - v))
                if share:
                    small[u + reach, v + reach] += kernel[i, j] * share
    return small


@pytest.mark.parametrize("sides", [(28, 28), (50, 37)])
def test_defocus_shrinks_with_the_image(sides: tuple[int, int], rng: np.random.Generator) -> None:
    x = images(rng, (2, 1, *sides))
    kernel = spread(soft_disc(8, 0.5), min(sides) / 224)
    expected = ndimage.correlate(x.astype(float), kernel[None, None], mode="mirror")
    np.testing.assert_allclose(run(defocus_blur(8, 0.5, reference=224), x), expected.clip(0, 1), atol=2e-6)


@pytest.mark.parametrize("corruption", [defocus_blur(4, 0.5, reference=30), motion_blur(5, 3, reference=30)])
def test_kernels_do_not_grow(corruption: Corruption, rng: np.random.Generator) -> None:
    x = images(rng)
    plain = {"defocus_blur": defocus_blur(4, 0.5), "motion_blur": motion_blur(5, 3)}[corruption.name]
    np.testing.assert_array_equal(run(corruption, x), run(plain, x))


def smeared(x: np.ndarray, angle: float, weights: np.ndarray) -> np.ndarray:
    """ImageMagick's line: pixel i lies at i (cos, sin), rounded; outside the border repeats."""
    total = np.zeros(x.shape)
    sides = x.shape[1:]
    for i, weight in enumerate(weights):
        dx = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        dy = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        columns = np.clip(np.arange(sides[0]) + dx, 0, sides[0] - 1)
        rows = np.clip(np.arange(sides[1]) + dy, 0, sides[1] - 1)
        total += weight * x[:, columns][:, :, rows]
    return total


def half_gaussian(radius: int, sigma: float) -> np.ndarray:
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize(("radius", "sigma"), MOTION)
@pytest.mark.parametrize("angles", [(-45.0, 45.0), (-135.0, -45.0)])
def test_motion_is_imagemagicks(
    radius: int, sigma: float, angles: tuple[float, float], rng: np.random.Generator
) -> None:
    x = images(rng, (3, 3, 31, 40))
    result = run(motion_blur(radius, sigma, angles=angles), x, seed=7)
    drawn = angles[0] + 90 * torch.rand(3, generator=torch.Generator().manual_seed(7))
    for image, angle, found in zip(x, drawn.tolist(), result, strict=True):
        np.testing.assert_allclose(found, smeared(image, angle, half_gaussian(radius, sigma)), atol=2e-6)


def test_motion_shrinks_with_the_image(rng: np.random.Generator) -> None:
    x = images(rng, (2, 1, 28, 31))
    weights = np.zeros(8)
    for i, weight in enumerate(half_gaussian(20, 15)):
        weights[i // 8] += weight * (1 - i % 8 / 8)
        weights[i // 8 + 1] += weight * (i % 8 / 8)
    result = run(motion_blur(20, 15, reference=224), x, seed=3)
    drawn = -45 + 90 * torch.rand(2, generator=torch.Generator().manual_seed(3))
    for image, angle, found in zip(x, drawn.tolist(), result, strict=True):
        np.testing.assert_allclose(found, smeared(image, angle, weights), atol=2e-6)


@pytest.mark.parametrize(("end", "step"), [(1.11, 0.01), (1.26, 0.02), (1.31, 0.03)])
def test_zoom_is_the_mean_of_enlarged_centres(end: float, step: float, rng: np.random.Generator) -> None:
    x = images(rng, (2, 2, 37, 28))
    factors = np.arange(1, end, step)
    total = x.astype(float)
    for factor in factors:
        parts = [math.ceil(side / factor) for side in (37, 28)]
        start = [(side - part) // 2 for side, part in zip((37, 28), parts, strict=True)]
        centre = x[:, :, start[0] : start[0] + parts[0], start[1] : start[1] + parts[1]].astype(float)
        total += ndimage.zoom(centre, (1, 1, factor, factor), order=1)[:, :, :37, :28]
    result = run(zoom_blur(factors.tolist()), x)
    np.testing.assert_allclose(result, total / (len(factors) + 1), atol=2e-6)


@pytest.mark.parametrize(
    "corruption", [defocus_blur(4, 0.5), motion_blur(6, 3), zoom_blur([1.0, 1.1])], ids=lambda c: c.name
)
def test_a_batch_may_be_cut_anywhere(corruption: Corruption, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(np.random.default_rng(0), (5, 3, 20, 24))
    whole = run(corruption, x)
    monkeypatch.setattr(optics, "_CHUNK", 2 * 3 * 20 * 24)
    np.testing.assert_array_equal(run(corruption, x), whole)


@pytest.mark.parametrize("side", [1, 2, 5])
def test_images_smaller_than_the_kernel(side: int, rng: np.random.Generator) -> None:
    x = np.full((2, 1, side, side + 1), rng.random(), np.float32)
    for corruption in (defocus_blur(6, 0.5), motion_blur(10, 3), zoom_blur([1.2])):
        np.testing.assert_allclose(run(corruption, x), x, rtol=1e-3)


def test_refuses_lengths_that_are_none() -> None:
    with pytest.raises(ConfigError, match="alias=0"):
        defocus_blur(3, 0)
    with pytest.raises(ConfigError, match="sigma=-1"):
        motion_blur(3, -1)
    with pytest.raises(ConfigError, match=r"factors=\[0.9\]"):
        zoom_blur([0.9])
