"""Displacements between images of several channels by Gauss-Newton steps, without training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from torch import Tensor
from torch.nn import functional as F

from robustmed_monai.transforms.fields import integrate, warp

# Pairs of axes of a symmetric 3x3 matrix, and where its nine entries stand among the six.
_AXES = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
_ENTRIES = (0, 3, 4, 3, 1, 5, 4, 5, 2)
# Squarings while the velocity is sought; the field itself gets more.
_SQUARINGS = 5
# Longest step of a round in voxels of its grid.
_LONGEST = 1.0


def stationary_velocity(
    moving: Tensor,
    fixed: Tensor,
    spacing: float,
    grids: Sequence[float],
    rounds: int,
    damping: float = 0.1,
    smoothing: float = 1.0,
) -> Tensor:
    """Velocity whose integral carries one image to another.

    Args:
        moving: (B, C, X, Y, Z).
        fixed: the same shape.
        spacing: side of their voxels, mm.
        grids: side of a voxel of each level in mm, coarse to fine.
        rounds: Gauss-Newton steps of a level.
        damping: added to the squared gradients; more of it makes shorter steps.
        smoothing: standard deviation, in voxels of the level, of the velocity's smoothing.

    Returns:
        (B, 3, X, Y, Z) in voxels of the images.
    """
    shape = fixed.shape[2:]
    velocity = fixed.new_zeros(len(fixed), 3, *_shape(shape, spacing / grids[0]))
    for grid in grids:
        sides = _shape(shape, spacing / grid)
        velocity = _on_grid(velocity, sides)
        source, target = (_reduced(image, sides) for image in (moving, fixed))
        for _ in range(rounds):
            step = gauss_newton_step(source, target, integrate(velocity, _SQUARINGS), damping)
            velocity = blurred(velocity + step, smoothing)
    return _on_grid(velocity, shape)


def gauss_newton_step(moving: Tensor, fixed: Tensor, ddf: Tensor, damping: float) -> Tensor:
    """One Gauss-Newton step (B, 3, *S) towards the displacement between two images (B, C, *S).

    With r = fixed - warp(moving, ddf) and J the mean of the gradients of both, it is the d that minimises
    |r - J d|^2 in a Gaussian window around each voxel, damped by ``damping`` and half of |r|^2, and no longer
    than a voxel.

    Source: Lucas and Kanade, IJCAI 1981, with the symmetric gradient of Vercauteren et al., 2009.
    """
    warped = warp(moving, ddf, padding_mode="border")
    residual = fixed - warped
    slopes = torch.stack(torch.gradient(0.5 * (fixed + warped), dim=[2, 3, 4]), 1)
    squares = [(slopes[:, a] * slopes[:, b]).sum(1) for a, b in _AXES]
    errors = [(slopes[:, a] * residual).sum(1) for a in range(3)]
    window = blurred(torch.stack([*squares, *errors, residual.square().sum(1)], 1), 1.0)
    matrix = window[:, _ENTRIES].movedim(1, -1).unflatten(-1, (3, 3))
    weight = damping + 0.5 * window[:, 9]
    matrix = matrix + weight[..., None, None] * torch.eye(3).to(window)
    step: Tensor = torch.linalg.solve(matrix, window[:, 6:9].movedim(1, -1)).movedim(-1, 1)
    length = step.norm(dim=1, keepdim=True)
    short: Tensor = step * (_LONGEST / length.clamp_min(_LONGEST))
    return short


def _shape(shape: Sequence[int], share: float) -> list[int]:
    """Sides of a grid with this share of the voxels along each axis, whose corners are those of ``shape``."""
    return [max(8, round((side - 1) * share) + 1) for side in shape]


def _on_grid(field: Tensor, shape: Sequence[int]) -> Tensor:
    """A displacement in voxels of its own grid as one in voxels of another with the same corners."""
    factors = [(side - 1) / (before - 1) for side, before in zip(shape, field.shape[2:], strict=True)]
    return _resized(field, shape) * torch.tensor(factors).to(field).view(1, 3, 1, 1, 1)


def _reduced(image: Tensor, shape: Sequence[int]) -> Tensor:
    """An image on a coarser grid, blurred before it."""
    factor = image.shape[2] / shape[0]
    return _resized(blurred(image, 0.45 * (factor**2 - 1) ** 0.5) if factor > 1 else image, shape)


def _resized(image: Tensor, shape: Sequence[int]) -> Tensor:
    return F.interpolate(image, size=list(shape), mode="trilinear", align_corners=True)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur along the three axes, the border going on as it is."""
    if sigma <= 0:
        return image
    kernel = gaussian_1d(torch.tensor(sigma), truncated=3.0).to(image)
    batch = image.flatten(0, 1)[:, None]
    blurred: Tensor = separable_filtering(batch, [kernel] * 3, mode="replicate")
    return blurred[:, 0].view(image.shape)
