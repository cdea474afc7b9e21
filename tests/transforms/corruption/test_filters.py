"""Filters against SciPy and against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate, correlate1d

from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.filters import (
    area_down,
    area_up,
    downscale,
    gaussian_blur,
    line_blur,
    sharpen,
)
from robustmed_monai.utils.errors import ConfigError

IMAGES = torch.rand(40, 2, 28, 21, generator=torch.Generator().manual_seed(1))


def _run(corruption: Corruption, seed: int = 3) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    params = corruption.sample(IMAGES.shape, torch.Generator().manual_seed(seed))
    return corrupt(IMAGES, corruption, params).numpy(), {k: v.numpy() for k, v in params.items()}


@pytest.mark.parametrize("opencv", [False, True])
def test_gaussian_blur(opencv: bool) -> None:
    tables = {3: [1, 2, 1], 5: [1, 4, 6, 4, 1], 7: [2, 7, 14, 18, 14, 7, 2]}  # OpenCV's, up to their sums
    result, params = _run(gaussian_blur((3, 5, 7), (0.2, 0.4, 0.4), opencv))
    assert set(params["size"]) == {3, 5, 7}
    for ours, image, size in zip(result, IMAGES.numpy(), params["size"], strict=True):
        sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
        kernel = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
        kernel = np.array(tables[size]) if opencv else kernel
        reference = image.astype(float)
        for axis in (1, 2):
            reference = correlate1d(reference, kernel / kernel.sum(), axis, mode="mirror")
        np.testing.assert_allclose(ours, reference, atol=1e-6)


def test_kernel_sizes_have_their_chances() -> None:
    corruption = gaussian_blur((3, 5, 7), (0.2, 0.4, 0.4))
    sizes = corruption.sample((20000, 1, 8, 8), torch.Generator().manual_seed(0))["size"]
    shares = [(sizes == k).float().mean().item() for k in (3, 5, 7)]
    assert shares == pytest.approx([0.2, 0.4, 0.4], abs=0.015)


def test_one_wide_kernel_at_a_small_image_mirrors_more_than_once() -> None:
    image = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    corruption = gaussian_blur(21)
    ours = corrupt(image, corruption, corruption.sample(image.shape, torch.Generator()))
    kernel = np.exp(-((np.arange(21) - 10) ** 2) / (2 * 3.5**2))
    reference = image[0, 0].double().numpy()
    for axis in (0, 1):
        reference = correlate1d(reference, kernel / kernel.sum(), axis, mode="mirror")
    np.testing.assert_allclose(ours[0, 0].numpy(), reference, atol=1e-6)


def test_sharpen_is_a_blend_with_a_laplacian() -> None:
    result, params = _run(sharpen())
    for ours, image, a, light in zip(
        result, IMAGES.numpy(), params["share"], params["lightness"], strict=True
    ):
        kernel = -np.ones((3, 3)) * a
        kernel[1, 1] = (8 + light) * a + 1 - a
        reference = np.stack([correlate(c.astype(float), kernel, mode="mirror") for c in image]).clip(0, 1)
        np.testing.assert_allclose(ours, reference, atol=1e-5)


def _area(row: np.ndarray, size: int) -> np.ndarray:
    """Means over equal parts of a row of pixels, by its integral."""
    integral = np.concatenate([[0.0], row.cumsum()])
    edges = np.interp(np.linspace(0, len(row), size + 1), np.arange(len(row) + 1), integral)
    means: np.ndarray = np.diff(edges) * size / len(row)
    return means


def _enlarge(row: np.ndarray, size: int) -> np.ndarray:
    """OpenCV's INTER_AREA enlargement, pixel by pixel."""
    result = np.empty(size)
    for x in range(size):
        left = x * len(row) // size
        part = (x + 1) - (left + 1) * size / len(row)
        part = 0 if part <= 0 else part - int(part)
        result[x] = row[left] * (1 - part) + row[min(left + 1, len(row) - 1)] * part
    return result


@pytest.mark.parametrize("size", [10, 14, 17, 25, 28])
def test_area_matrices(size: int) -> None:
    row = np.random.default_rng(0).random(28)
    np.testing.assert_allclose(area_down(28, size) @ row, _area(row, size), atol=1e-12)
    small = _area(row, size)
    np.testing.assert_allclose(area_up(size, 28) @ small, _enlarge(small, 28), atol=1e-12)


def test_downscale_shrinks_and_enlarges() -> None:
    result, params = _run(downscale())
    assert np.all((params["scale"] >= 0.5) & (params["scale"] < 0.9))
    for ours, image, scale in zip(result, IMAGES.numpy(), params["scale"], strict=True):
        reference = image.astype(float)
        for axis in (1, 2):
            side = reference.shape[axis]
            small = np.apply_along_axis(_area, axis, reference, round(float(scale) * side))
            reference = np.apply_along_axis(_enlarge, axis, small, side)
        np.testing.assert_allclose(ours, reference, atol=1e-6)


def _bresenham(start: tuple[int, int], end: tuple[int, int]) -> set[tuple[int, int]]:
    """Pixels of OpenCV's 8-connected line iterator, step by step."""
    (x, y), (x1, y1) = sorted([start, end]) if start[0] != end[0] else (start, end)
    dx, dy, step = x1 - x, abs(y1 - y), 1 if y1 >= y else -1
    steep = dy > dx
    major, minor = (dy, dx) if steep else (dx, dy)
    error, pixels = major - 2 * minor, set()
    for _ in range(major + 1):
        pixels.add((x, y))
        aside = error < 0
        error += -2 * minor + (2 * major if aside else 0)
        x += 1 if not steep or aside else 0
        y += step if steep or aside else 0
    return pixels


def test_line_kernels_are_lines_of_equal_weights() -> None:
    kernels = line_blur().sample((3000, 1, 8, 8), torch.Generator().manual_seed(0))["kernel"].numpy()
    lines = {
        frozenset((x + m, y + m) for x, y in _bresenham((x0, y0), (x1, y1)))
        for k, m in ((3, 2), (5, 1), (7, 0))
        for x0 in range(k)
        for y0 in range(k)
        for x1 in range(k)
        for y1 in range(k)
    }
    for kernel in kernels:
        pixels = frozenset(map(tuple, np.argwhere(kernel > 0).tolist()))
        assert pixels in lines
        assert len(pixels) > 1
        np.testing.assert_allclose(kernel[kernel > 0], 1 / len(pixels), rtol=1e-6)


def test_line_blur_is_a_correlation() -> None:
    result, params = _run(line_blur())
    for ours, image, kernel in zip(result, IMAGES.numpy(), params["kernel"], strict=True):
        reference = np.stack([correlate(c.astype(float), kernel.astype(float), mode="mirror") for c in image])
        np.testing.assert_allclose(ours, reference, atol=1e-6)


@pytest.mark.parametrize("size", [4, 0, (3, 6)])
def test_even_kernels_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="odd"):
        gaussian_blur(size)
