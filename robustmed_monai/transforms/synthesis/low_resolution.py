"""Thick slices: averages over slabs along one axis, interpolated back to the grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustmed_monai.transforms.synthesis.noise import uniform_rows


def sample_factors(
    rows: int, axes: int, prob: float, thickness: Sequence[float], generator: torch.Generator
) -> Tensor:
    """Draw the thickness of slices: (B, d) voxels, 1 but for one axis of a share ``prob`` of the images."""
    drawn = uniform_rows((rows, 1), thickness[0], thickness[1], generator)
    axis = torch.randint(axes, (rows, 1), generator=generator, device=generator.device)
    chosen = torch.rand(rows, 1, generator=generator, device=generator.device) < prob
    return torch.where(
        chosen & (torch.arange(axes, device=generator.device) == axis), drawn, torch.ones_like(drawn)
    )


def thick_slices(images: Tensor, thickness: Tensor) -> Tensor:
    """Average over slabs of voxels and interpolate linearly between their centres.

    Args:
        images: (B, C, *spatial) float.
        thickness: (B, d) voxels per slab along each axis, >= 1, need not be whole; 1 changes nothing.

    Returns:
        Images of the same shape.
    """
    for axis in range(images.ndim - 2):
        moved = images.movedim(axis + 2, -1)
        matrix = _slabs(images.shape[axis + 2], thickness[:, axis]).view(
            len(images), *[1] * (images.ndim - 3), *[images.shape[axis + 2]] * 2
        )
        images = torch.matmul(moved, matrix.mT).movedim(-1, axis + 2)
    return images.contiguous()


def _slabs(side: int, thickness: Tensor) -> Tensor:
    """Matrices (B, side, side) that average voxels over slabs and interpolate the slabs' values."""
    place = torch.arange(side, device=thickness.device)
    of_voxel = (place / thickness[:, None]).floor().long()
    member = (of_voxel[:, None, :] == place[:, None]).to(thickness.dtype)
    count = member.sum(2, keepdim=True)
    average = member / count.clamp_min(1)
    number = of_voxel[:, -1:]
    # Position of each voxel in units of slabs, slab k's centre at k.
    position = ((place + 0.5) / thickness[:, None] - 0.5).clamp_min(0).minimum(number.to(thickness.dtype))
    low = position.floor()
    weight = (position - low)[..., None]
    near = (low[..., None] == place).to(thickness.dtype)
    far = ((low[..., None] + 1).minimum(number[..., None]) == place).to(thickness.dtype)
    return (near * (1 - weight) + far * weight) @ average
