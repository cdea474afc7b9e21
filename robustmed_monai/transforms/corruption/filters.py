"""Linear filters: Gaussian blur, short motion blur, sharpening, and loss of resolution.

Filters that act along each axis by itself are matrices: two products filter a whole batch, whatever the
length of the kernel, and each image may have its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robustmed_monai.transforms.blur import kernel_of_size, reflected
from robustmed_monai.transforms.corruption.core import Corruption, sample_uniform
from robustmed_monai.transforms.params import Params, Shape, per_image
from robustmed_monai.utils.errors import ConfigError

# OpenCV's kernels for sigma "0": up to seven pixels they are tables and not its formula for sigma.
_OPENCV = {3: (0.25, 0.5), 5: (0.0625, 0.25, 0.375), 7: (0.03125, 0.109375, 0.21875, 0.28125)}
_LINES = (3, 5, 7)  # kernel sizes of the short motion blur


def gaussian_blur(
    kernel_size: int | Sequence[int], weights: Sequence[float] | None = None, opencv: bool = False
) -> Corruption:
    """Blur with a Gaussian of a given size, border mirrored without repeating the edge.

    Args:
        kernel_size: odd size in pixels, or several to choose from; sigma is 0.3 ((k - 1) / 2 - 1) + 0.8, as
            torchvision has it.
        weights: chances of the sizes; equal by default.
        opencv: take the fixed kernels that OpenCV has for 3, 5 and 7 pixels when no sigma is given.

    Raises:
        ConfigError: when a size is even or below 1.
    """
    sizes = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
    if any(k < 1 or k % 2 == 0 for k in sizes):
        raise ConfigError(f"gaussian_blur: kernel_size={kernel_size}; give odd sizes, 1 or more.")
    chances = tuple(weights or [1.0] * len(sizes))
    return Corruption("gaussian_blur", partial(_sample_size, sizes, chances), partial(_blur, opencv))


def _sample_size(
    sizes: Sequence[int], chances: Sequence[float], shape: Shape, generator: torch.Generator
) -> Params:
    bounds = torch.tensor(chances).cumsum(0) / sum(chances)
    chosen = torch.bucketize(torch.rand(shape[0], generator=generator), bounds[:-1], right=True)
    return {"size": torch.tensor(sizes)[chosen]}


def _blur(opencv: bool, images: Tensor, params: Params) -> Tensor:
    matrices = (
        _chosen(params["size"], partial(_gaussian_matrix, opencv, side), images) for side in images.shape[2:]
    )
    return along_axes(images, *matrices) if len(images) else images.clone()


def _chosen(sizes: Tensor, make: Callable[[int], Tensor], images: Tensor) -> Tensor:
    """Matrices (B, side, side) for (B,) sizes, or one (1, side, side) where all are the same."""
    known, place = sizes.unique(return_inverse=True)
    matrices = [make(size).to(images) for size in known.tolist()]
    return torch.stack(matrices) if len(matrices) == 1 else torch.stack(matrices)[place]


def along_axes(images: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Filter both axes by matrices.

    Args:
        images: (B, C, X, Y).
        first: (B, X', X), or (1, X', X) for all.
        second: (B, Y', Y), or (1, Y', Y).

    Returns:
        Images (B, C, X', Y').
    """
    return first[:, None] @ images @ second[:, None].mT


@lru_cache(maxsize=256)
def _gaussian_matrix(opencv: bool, side: int, size: int) -> Tensor:
    if opencv and size in _OPENCV:
        half = _OPENCV[size]
        return reflected(side, np.array([*half, *half[-2::-1]]))
    return reflected(side, kernel_of_size(size))


def sharpen(
    low: float = 0.2, high: float = 0.5, low_lightness: float = 0.5, high_lightness: float = 1.0
) -> Corruption:
    """Blend with a Laplacian-sharpened image whose centre weight is 8 + lightness (Sharpen).

    The gain is 1 - a + a l, so it darkens as well where the lightness l is below 1.

    Args:
        low: smallest share a of the sharpened image.
        high: largest share.
        low_lightness: smallest lightness.
        high_lightness: largest lightness.
    """
    ranges = {"share": (low, high), "lightness": (low_lightness, high_lightness)}
    return Corruption("sharpen", partial(sample_uniform, ranges), _sharpen)


def _sharpen(images: Tensor, params: Params) -> Tensor:
    share, lightness = per_image(params["share"], images), per_image(params["lightness"], images)
    ones = [_ones_matrix(side).to(images)[None] for side in images.shape[2:]]
    around = along_axes(images, *ones)
    return images * (1 - share + share * (9 + lightness)) - share * around


@lru_cache(maxsize=16)
def _ones_matrix(side: int) -> Tensor:
    return reflected(side, np.ones(3))


def downscale(low: float = 0.5, high: float = 0.9) -> Corruption:
    """Shrink by area to a share of the size and enlarge again, both as OpenCV's INTER_AREA (Downscale).

    The share is taken to the nearest whole number of pixels.

    Args:
        low: smallest share of the side.
        high: largest share, at most 1.
    """
    return Corruption("downscale", partial(sample_uniform, {"scale": (low, high)}), _downscale)


def _downscale(images: Tensor, params: Params) -> Tensor:
    matrices = (
        _chosen((params["scale"] * side).round().long(), partial(_there_and_back, side), images)
        for side in images.shape[2:]
    )
    return along_axes(images, *matrices) if len(images) else images.clone()


@lru_cache(maxsize=256)
def _there_and_back(side: int, size: int) -> Tensor:
    """Matrix (side, side) that goes through ``size`` pixels."""
    return torch.from_numpy((area_up(size, side) @ area_down(side, size)).astype(np.float32))


def area_down(source: int, target: int) -> np.ndarray:
    """Matrix (target, source) of a mean over the area that a target pixel covers."""
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(overlap.clip(0) * target / source)


def area_up(source: int, target: int) -> np.ndarray:
    """Matrix (target, source) of OpenCV's enlargement by INTER_AREA: linear, but only across pixel edges."""
    target_pixels = np.arange(target)
    left = target_pixels * source // target
    weight = (target_pixels + 1) - (left + 1) * target / source
    weight = np.where(weight <= 0, 0.0, weight - np.floor(weight))
    matrix = np.zeros((target, source))
    np.add.at(matrix, (target_pixels, left), 1 - weight)
    np.add.at(matrix, (target_pixels, np.minimum(left + 1, source - 1)), weight)
    return matrix


def line_blur() -> Corruption:
    """Average along a line between two random pixels of a 3, 5 or 7 pixel square (MotionBlur).

    The line may lie off the centre and then shifts the image as well; the border is mirrored.
    """
    return Corruption("line_blur", _sample_line, _line_blur)


def _sample_line(shape: Shape, generator: torch.Generator) -> Params:
    u = torch.rand(shape[0], 5, generator=generator)
    sizes = torch.tensor(_LINES)[(u[:, 0] * len(_LINES)).long()]
    x0, y0, x1, y1 = (u[:, 1:] * sizes[:, None]).long().unbind(1)
    # Both ends in one column: the second is one of the other rows.
    other = (u[:, 4] * (sizes - 1)).long()
    y1 = torch.where(x0 == x1, other + (other >= y0), y1)
    return {"kernel": _line_kernels()[sizes // 2 - 1, x0, y0, x1, y1]}


def _line_blur(images: Tensor, params: Params) -> Tensor:
    rows, channels = images.shape[:2]
    radius = _LINES[-1] // 2
    padded = F.pad(images, [radius] * 4, mode="reflect").flatten(0, 1)[None]
    kernels = params["kernel"].to(images).repeat_interleave(channels, 0)[:, None]
    return F.conv2d(padded, kernels, groups=rows * channels).view(images.shape)


@lru_cache(maxsize=1)
def _line_kernels() -> Tensor:
    """All kernels: (size, x0, y0, x1, y1, 7, 7), each centred in the square and of sum 1."""
    largest = _LINES[-1]
    table = np.zeros((len(_LINES), *[largest] * 4, largest, largest), np.float32)
    for index, size in enumerate(_LINES):
        margin = (largest - size) // 2
        for x0, y0, x1, y1 in product(range(size), repeat=4):
            x, y = _line(x0, y0, x1, y1)
            table[index, x0, y0, x1, y1, x + margin, y + margin] = 1 / len(x)
    return torch.from_numpy(table)


def _line(x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a line one pixel wide, from left to right, as OpenCV draws it (Bresenham)."""
    if x1 < x0:
        x0, y0, x1, y1 = x1, y1, x0, y0
    dx, dy = x1 - x0, abs(y1 - y0)
    steps = np.arange(max(dx, dy) + 1)
    minor, major = min(dx, dy), max(dx, dy, 1)
    # The error starts at major - 2 minor and falls by 2 minor a step; below 0 the short side moves on.
    moved = (2 * minor * steps + major - 1) // (2 * major)
    x, y = (steps, moved) if dx >= dy else (moved, steps)
    return x0 + x, y0 + (y if y1 >= y0 else -y)
