"""Gaussian blur of batches of images, and the matrices of small filters with a mirrored border."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmed_monai.utils.errors import ConfigError


def gaussian_blur(images: Tensor, sigma: float | Sequence[float], truncate: float = 4.0) -> Tensor:
    """Blur along the two last axes, as ``scipy.ndimage.gaussian_filter`` does.

    The border is mirrored with the edge pixel doubled. Sums of shifted images stay exact float32 under
    autocast and TF32, do not depend on the batch, and are faster on a CPU than a convolution with one
    channel.

    Args:
        images: shape (..., X, Y), at least float32 is used.
        sigma: standard deviation in pixels, not negative, one number or one per axis; 0 changes nothing.
        truncate: the kernel ends at this many standard deviations.

    Returns:
        Blurred images, same shape.

    Raises:
        ConfigError: if `sigma` is negative or not finite.
    """
    sigmas = (sigma, sigma) if isinstance(sigma, int | float) else tuple(sigma)
    if not all(0 <= s < math.inf for s in sigmas):
        raise ConfigError(f"sigma must be a number of pixels >= 0, got {sigma!r}.")
    blurred = images if images.dtype == torch.float64 else images.float()
    for axis, width in zip((-2, -1), sigmas, strict=True):
        radius = int(truncate * width + 0.5)
        if radius == 0:
            continue
        half = gaussian_kernel(width, radius)[radius:]
        size = images.shape[axis]
        mirror = torch.as_tensor(np.pad(np.arange(size), radius, mode="symmetric"), device=images.device)
        padded = blurred.index_select(axis, mirror)
        blurred = padded.narrow(axis, radius, size) * float(half[0])
        for distance in range(1, radius + 1):
            for start in (radius - distance, radius + distance):
                blurred.add_(padded.narrow(axis, start, size), alpha=float(half[distance]))
    return blurred


def mean_and_spread(images: Tensor, sigma: float, floor: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of images at each pixel, smoothed.

    Args:
        images: shape (N, C, X, Y), in one frame.
        sigma: standard deviation in pixels of the Gaussian that smooths mean and variance.
        floor: lowest spread, in units of the images: in air all agree.

    Returns:
        Mean and spread, (1, C, X, Y).
    """
    mean = gaussian_blur(images.mean(0, keepdim=True), sigma)
    variance = gaussian_blur((images - mean).square().mean(0, keepdim=True), sigma)
    return mean, variance.sqrt().clamp_min(floor)


def gaussian_kernel(sigma: float, radius: int) -> NDArray[np.float64]:
    """Weights at -radius to radius, of sum 1."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


def kernel_of_size(size: int) -> NDArray[np.float64]:
    """The Gaussian of an odd number of pixels whose sigma is 0.3 ((size - 1) / 2 - 1) + 0.8, as in OpenCV."""
    return gaussian_kernel(0.3 * ((size - 1) * 0.5 - 1) + 0.8, size // 2)


def reflected(side: int, kernel: NDArray[np.float64]) -> Tensor:
    """Matrix (side, side) of a correlation with ``kernel``, mirrored at the border without the edge."""
    radius = len(kernel) // 2
    source = np.pad(np.arange(side), radius, mode="reflect")
    matrix = np.zeros((side, side))
    for step, weight in enumerate(kernel):
        np.add.at(matrix, (np.arange(side), source[step : step + side]), weight)
    return torch.from_numpy(matrix.astype(np.float32))
