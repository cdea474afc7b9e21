"""Smooth random fields: the raw material of lesion shapes, textures, warps and bias fields."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


def smooth_noise(shape: Sequence[int], scale: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw Gaussian noise with a Gaussian correlation of a given length.

    The noise is drawn and smoothed on a lattice, three points to two ``scale``, and interpolated linearly, so
    a long correlation costs no more than a short one.

    Args:
        shape: shape of the field, one to three axes.
        scale: standard deviation of the smoothing kernel, in voxels, > 0.
        rng: source of randomness.

    Returns:
        Field of ``shape`` with zero mean and unit variance in expectation.

    Example:
        >>> smooth_noise((32, 32), 4.0, np.random.default_rng(0)).shape
        (32, 32)
    """
    from scipy.ndimage import gaussian_filter

    step = max(1.0, scale / 1.5)
    sigma = scale / step
    lattice = tuple(math.ceil(size / step) + 1 for size in shape)
    margin = math.ceil(3 * sigma)
    white = rng.standard_normal([size + 2 * margin for size in lattice], dtype=np.float32)
    coarse = gaussian_filter(white, sigma, mode="constant", truncate=3.0)
    coarse = coarse[tuple(slice(margin, margin + size) for size in lattice)]
    # A kernel leaves of the variance of white noise, along each axis, the sum of its squared weights.
    offsets = np.arange(-margin, margin + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    kept = float(((weights / weights.sum()) ** 2).sum())
    return enlarge(coarse / np.float32(kept ** (len(shape) / 2)), [step] * len(shape), shape)


def enlarge(coarse: NDArray[np.float32], step: Sequence[float], shape: Sequence[int]) -> NDArray[np.float32]:
    """Interpolate a lattice linearly: voxel ``i`` of the result lies at lattice coordinate ``i / step``.

    Args:
        coarse: lattice with one to three axes, at least ``ceil(shape / step) + 1`` points along each.
        step: voxels between two lattice points, per axis.
        shape: shape of the result.

    Returns:
        Array of ``shape``, float32.
    """
    result = torch.from_numpy(np.ascontiguousarray(coarse))
    # The last axis first, while the array is small: its gather is the slow one.
    for axis, (spacing, size) in reversed(list(enumerate(zip(step, shape, strict=True)))):
        position = torch.arange(size, dtype=torch.float64) / spacing
        low = position.floor().long().clamp_(max=result.shape[axis] - 2)
        view = [1] * result.ndim
        view[axis] = size
        weight = (position - low).to(torch.float32).reshape(view)
        result = torch.lerp(result.index_select(axis, low), result.index_select(axis, low + 1), weight)
    field: NDArray[np.float32] = result.numpy()
    return field
