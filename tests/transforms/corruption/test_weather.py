"""Fog and snow against NumPy transcriptions of ImageNet-C's recipes, frost against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.weather import fog, frost, plasma, snow
from robustmed_monai.transforms.params import Params

SNOW = [(0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)]


def run(corruption: Corruption, x: np.ndarray, seed: int = 0) -> tuple[np.ndarray, Params]:
    batch = torch.from_numpy(x)
    params = corruption.sample(batch.shape, torch.Generator().manual_seed(seed))
    return np.asarray(corrupt(batch, corruption, params).numpy()), params


def diamond_square(noise: np.ndarray, decay: float) -> np.ndarray:
    """Point by point, corners wrapped round; the amplitude starts at 100, counted twice."""
    side = len(noise)
    height = np.zeros((side, side))
    step, wibble = side, 100.0
    while step >= 2:
        half = step // 2
        for i in range(half, side, step):
            for j in range(half, side, step):
                four = [height[(i + a) % side, (j + b) % side] for a in (-half, half) for b in (-half, half)]
                height[i, j] = sum(four) / 4 + wibble * wibble * noise[i, j]
        for i in range(0, side, half):
            for j in range((i // half + 1) % 2 * half, side, step):
                ends = [(i - half, j), (i + half, j), (i, j - half), (i, j + half)]
                four = [height[a % side, b % side] for a, b in ends]
                height[i, j] = sum(four) / 4 + wibble * wibble * noise[i, j]
        step //= 2
        wibble /= decay
    return np.asarray((height - height.min()) / np.ptp(height))


@pytest.mark.parametrize("decay", [2.0, 1.4])
@pytest.mark.parametrize("side", [2, 8, 32])
def test_plasma_is_diamond_square(decay: float, side: int, rng: np.random.Generator) -> None:
    noise = rng.uniform(-1, 1, (3, side, side))
    found = plasma(torch.from_numpy(noise), decay).numpy()
    for field, cloud in zip(noise, found, strict=True):
        np.testing.assert_allclose(cloud, diamond_square(field, decay), atol=1e-9)


@pytest.mark.parametrize(("shape", "side"), [((2, 3, 28, 24), 32), ((2, 1, 33, 64), 64)])
def test_fog_is_imagenet_cs(shape: tuple[int, ...], side: int, rng: np.random.Generator) -> None:
    x = (0.8 * rng.random(shape)).astype(np.float32)
    result, params = run(fog(2.5, 1.7), x)
    assert params["noise"].shape == (2, side, side)
    for image, noise, found in zip(x, params["noise"].numpy(), result, strict=True):
        cloud = diamond_square(noise, 1.7)[: shape[2], : shape[3]]
        expected = (image + 2.5 * cloud) * image.max() / (image.max() + 2.5)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def snowed(
    image: np.ndarray, noise: np.ndarray, angle: float, settings: tuple[float, ...], weights: np.ndarray
) -> np.ndarray:
    """One image (C, X, Y), from unit noise (X, Y)."""
    mean, std, size, threshold, _, _, mix = settings
    sides = image.shape[1:]
    parts = [math.ceil(side / size) for side in sides]
    start = [(side - part) // 2 for side, part in zip(sides, parts, strict=True)]
    centre = (mean + std * noise)[start[0] : start[0] + parts[0], start[1] : start[1] + parts[1]]
    layer = ndimage.zoom(centre, size, order=1)
    layer = np.where(layer < threshold, 0, layer).clip(0, 1)
    traces = np.zeros_like(layer)
    for i, weight in enumerate(weights):
        dx, dy = (math.ceil(i * f(math.radians(angle)) - 0.5) for f in (math.cos, math.sin))
        columns = np.clip(np.arange(layer.shape[0]) + dx, 0, layer.shape[0] - 1)
        rows = np.clip(np.arange(layer.shape[1]) + dy, 0, layer.shape[1] - 1)
        traces += weight * layer[columns][:, rows]
    traces = np.round(traces * 255)[: sides[0], : sides[1]] / 255
    tone = np.tensordot([0.299, 0.587, 0.114], image, 1) if len(image) == 3 else image[0]
    white = np.maximum(image, tone * 1.5 + 0.5)
    return np.asarray((mix * image + (1 - mix) * white + traces + traces[::-1, ::-1]).clip(0, 1))


def half_gaussian(radius: float, sigma: float) -> np.ndarray:
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize("settings", SNOW)
@pytest.mark.parametrize("channels", [1, 3])
def test_snow_is_imagenet_cs(settings: tuple[float, ...], channels: int, rng: np.random.Generator) -> None:
    x = (0.6 * rng.random((3, channels, 41, 50))).astype(np.float32)
    mean, std, size, threshold, radius, sigma, mix = settings
    result, params = run(snow(mean, std, size, threshold, int(radius), sigma, mix), x, seed=4)
    angles = -135 + 90 * torch.rand(3, generator=torch.Generator().manual_seed(4))
    for image, noise, angle, found in zip(x, params["noise"], angles.tolist(), result, strict=True):
        weights = half_gaussian(radius, sigma)
        expected = snowed(image, noise[0].numpy(), angle, settings, weights)
        # A trace on the edge between two of 256 levels may fall to either side.
        difference = np.abs(found - expected)
        assert difference.max() < 2.01 / 255
        assert (difference > 1e-5).mean() < 1e-3


def test_snow_shrinks_with_the_image(rng: np.random.Generator) -> None:
    x = (0.6 * rng.random((1, 1, 28, 28))).astype(np.float32)
    result, params = run(snow(0.1, 0.3, 3, 0.5, 8, 4, 0.8, reference=224), x, seed=4)
    angle = -135 + 90 * float(torch.rand(1, generator=torch.Generator().manual_seed(4)))
    weights = np.zeros(3)
    for i, weight in enumerate(half_gaussian(8, 4)):
        weights[i // 8] += weight * (1 - i % 8 / 8)
        weights[min(i // 8 + 1, 2)] += weight * (i % 8 / 8)
    noise = params["noise"][0, 0].numpy()
    expected = snowed(x[0], noise, angle, (0.1, 0.3, 1, 0.5, 0, 0, 0.8), weights)
    assert (np.abs(result[0] - expected) > 1e-5).mean() < 2e-3


@pytest.mark.parametrize("shape", [(6, 1, 28, 28), (3, 3, 96, 64), (2, 1, 5, 7)])
def test_frost_mixes_in_a_texture_of_its_own(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = (0.9 * rng.random(shape)).astype(np.float32)
    black = np.zeros_like(x)
    ice, _ = run(frost(1, 1), black, seed=2)
    np.testing.assert_allclose(ice.mean((1, 2, 3)), 0.5, atol=0.02)
    np.testing.assert_allclose(ice.std((1, 2, 3)), 0.2, atol=0.03)
    assert (ice == ice[:, :1]).all()  # grey
    assert np.abs(ice[0] - ice[1]).mean() > 0.05  # every image has another texture
    result, _ = run(frost(0.7, 0.6), x, seed=2)
    np.testing.assert_allclose(result, (0.7 * x + 0.6 * ice).clip(0, 1), atol=1e-6)
