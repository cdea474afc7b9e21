"""Smooth noise: coarse grids of Gaussian numbers, drawn, and their sum at full size, computed.

This is SynthMorph's ``draw_perlin``. Only the grids are random and stored: a field of 128^3 voxels at scale
32 is 64 numbers. It is enlarged one axis after the other, along the first one all scales at once, by matrix
products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from robustmed_monai.transforms.params import Params
from robustmed_monai.utils.errors import ConfigError


def uniform_rows(shape: Sequence[int], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform numbers in [low, high) on the generator's device."""
    return low + (high - low) * torch.rand(*shape, generator=generator, device=generator.device)


def normal_rows(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard normal numbers on the generator's device."""
    return torch.randn(*shape, generator=generator, device=generator.device)


def sample_noise(
    rows: int,
    channels: int,
    size: Sequence[int],
    scales: Sequence[float],
    max_std: float,
    generator: torch.Generator,
    min_std: float = 0.0,
) -> Params:
    """Draw smooth noise for a batch.

    Args:
        rows: number of samples B.
        channels: number of channels C; they share the spread of a scale.
        size: spatial shape of the field, two or three axes.
        scales: distances of the grids' nodes in voxels, one grid each.
        max_std: the spread of each grid is uniform between ``min_std`` and this, one draw per sample and
            scale.
        generator: source of the draw; the grids lie on its device.
        min_std: smallest spread.

    Returns:
        One grid (B, C, ceil(size / scale)...) per scale.

    Raises:
        ConfigError: when there is no scale or one is not positive.

    Source: ``draw_perlin`` of neurite (Hoffmann et al., "SynthMorph", IEEE TMI 2022).
    """
    if not scales or min(scales) <= 0:
        raise ConfigError(f"scales={tuple(scales)}: give one or more distances in voxels, all > 0.")
    grids: Params = {}
    for number, scale in enumerate(scales):
        nodes = [math.ceil(side / scale) for side in size]
        std = uniform_rows((rows, *[1] * (len(size) + 1)), min_std, max_std, generator)
        grids[f"grid_{number}"] = normal_rows((rows, channels, *nodes), generator) * std
    return grids


def noise_field(grids: Params, size: Sequence[int]) -> Tensor:
    """Enlarge the grids linearly, corner on corner, and add them up.

    Args:
        grids: what ``sample_noise`` gave: (B, C, *nodes) each.
        size: spatial shape of the field.

    Returns:
        (B, C, *size) float32.

    Example:
        >>> grids = sample_noise(2, 1, (48, 40), (16, 32), 1.0, torch.Generator().manual_seed(0))
        >>> noise_field(grids, (48, 40)).shape
        torch.Size([2, 1, 48, 40])
    """
    matrix, columns = split_noise(grids, size)
    return torch.matmul(matrix, columns).view(*columns.shape[:2], *size)


def split_noise(grids: Params, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The matrix (X, K) and the columns (B, C, K, Y * Z) whose product is the field of ``noise_field``.

    Whoever needs a field piece by piece can multiply some columns only.
    """
    parts, matrices = [], []
    for grid in grids.values():
        matrices.append(_linear(size[0], grid.shape[2], grid.device))
        for axis in range(len(size) - 1, 0, -1):
            grid = _enlarge_axis(grid, axis, size[axis])
        parts.append(grid.flatten(3))
    return torch.cat(matrices, 1), torch.cat(parts, 2)


def enlarge(field: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, C, *spatial) linearly, corner on corner: much faster on a CPU than ``interpolate``."""
    for axis in range(len(size) - 1, -1, -1):
        nodes, side = field.shape[2 + axis], size[axis]
        if nodes == side:
            continue
        low, weight = _places(side, nodes, field.device)
        first = field.index_select(2 + axis, low)
        second = field.index_select(2 + axis, (low + 1).clamp_(max=nodes - 1))
        field = first.lerp_(second, weight.view([side if axis == k else 1 for k in range(len(size))]))
    return field


def _enlarge_axis(grid: Tensor, axis: int, side: int) -> Tensor:
    matrix = _linear(side, grid.shape[2 + axis], grid.device)
    if axis + 3 == grid.ndim:
        return torch.matmul(grid, matrix.T)
    return torch.matmul(matrix, grid)


@lru_cache(maxsize=256)
def _places(side: int, nodes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each of ``side`` places: the node below it, and how far it lies towards the next."""
    position = torch.linspace(0, nodes - 1, side, dtype=torch.float64) if side > 1 else torch.zeros(1)
    low = position.floor().clamp_(max=max(nodes - 2, 0))
    return low.long().to(device), (position - low).to(device, torch.float32)


@lru_cache(maxsize=256)
def _linear(side: int, nodes: int, device: torch.device) -> Tensor:
    """Matrix (side, nodes) of linear interpolation; the first and last node lie at the ends."""
    low, weight = _places(side, nodes, device)
    matrix = torch.zeros(side, nodes, device=device)
    matrix.scatter_add_(1, low[:, None], 1 - weight[:, None])
    return matrix.scatter_add_(1, (low[:, None] + 1).clamp_(max=nodes - 1), weight[:, None])
