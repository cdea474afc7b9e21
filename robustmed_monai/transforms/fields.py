"""Displacement fields in voxels: warp, integrate, compose, and tell where they fold.

A field is (B, d, *spatial) with d = 2 or 3 spatial axes; component i is the displacement along axis i. Fields
pull: ``out(x) = in(x + ddf(x))``. All functions are batched, run on the fields' device and are differentiable
(but for nearest warps). They compute what MONAI's ``Warp`` and ``DVF2DDF`` compute (tests hold them equal),
without a module to build, and take integer label maps as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from robustmed_monai.utils.errors import ConfigError, ImageShapeError

_MODES = ("bilinear", "nearest")
_PADDING = ("zeros", "border")


def warp(images: Tensor, ddf: Tensor, mode: str = "bilinear", padding_mode: str = "zeros") -> Tensor:
    """Resample images at ``x + ddf(x)``.

    Args:
        images: (B, C, *spatial); integers (labels) with ``mode="nearest"`` only.
        ddf: (B, d, *spatial) displacement in voxels.
        mode: "bilinear" (trilinear in 3-D) or "nearest".
        padding_mode: what lies outside: "zeros", or "border" for the nearest voxel.

    Returns:
        (B, C, *spatial) of the images' type.

    Raises:
        ImageShapeError: when the field does not fit the images.
        ConfigError: when a mode is unknown or does not fit the type of the images.

    Example:
        >>> image = torch.arange(4.0).view(1, 1, 2, 2)
        >>> down = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
        >>> warp(image, down)[0, 0]
        tensor([[2., 3.],
                [0., 0.]])
    """
    _check_field(ddf)
    if images.ndim != ddf.ndim or images.shape[0] != ddf.shape[0] or images.shape[2:] != ddf.shape[2:]:
        raise ImageShapeError(
            f"warp: images {tuple(images.shape)} and displacement {tuple(ddf.shape)} must agree in batch and "
            "spatial shape."
        )
    if mode not in _MODES or padding_mode not in _PADDING:
        raise ConfigError(
            f"warp: mode={mode!r}, padding_mode={padding_mode!r}; choose from {_MODES} and {_PADDING}."
        )
    if mode == "nearest":
        return _warp_nearest(images, ddf, padding_mode)
    if not images.is_floating_point():
        raise ConfigError(f"warp: images are {images.dtype}; take mode='nearest' for labels.")
    precision = torch.promote_types(torch.promote_types(images.dtype, ddf.dtype), torch.float32)
    grid = torch.stack(
        [
            (place + ddf[:, axis]).to(precision) * (2 / max(place.numel() - 1, 1)) - 1
            for axis, place in enumerate(_places(ddf))
        ][::-1],
        -1,
    )
    moved = F.grid_sample(
        images.to(precision), grid, mode="bilinear", padding_mode=padding_mode, align_corners=True
    )
    return moved.to(images.dtype)


def _warp_nearest(images: Tensor, ddf: Tensor, padding_mode: str) -> Tensor:
    index: Tensor | None = None
    inside: Tensor | None = None
    for axis, place in enumerate(_places(ddf)):
        last = place.numel() - 1
        position = (place + ddf[:, axis]).round_()
        if padding_mode == "zeros":
            within = (position >= 0) & (position <= last)
            inside = within if inside is None else inside & within
        step = position.clamp_(0, last).long()
        index = step if index is None else index.mul_(last + 1).add_(step)
    if index is None:  # pragma: no cover - a field has two axes or three
        return images
    flat = images.flatten(2)
    moved: Tensor = flat.gather(2, index.flatten(1)[:, None].expand_as(flat)).view_as(images)
    return moved if inside is None else moved * inside[:, None]


def integrate(velocity: Tensor, steps: int = 5, padding_mode: str = "border") -> Tensor:
    """Follow a stationary velocity for unit time by scaling and squaring.

    ``integrate(-velocity)`` is the inverse of ``integrate(velocity)``.

    Args:
        velocity: (B, d, *spatial) in voxels.
        steps: number of squarings; 2 ** steps Euler steps are composed.
        padding_mode: how the field goes on outside. "border" keeps it smooth there; MONAI's and VoxelMorph's
            "zeros" tears it at the border when the velocity does not vanish there.

    Returns:
        (B, d, *spatial) displacement in voxels.

    Source: Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms", MICCAI 2006.
    """
    if steps < 0:
        raise ConfigError(f"integrate: steps={steps} must not be negative.")
    ddf: Tensor = velocity / 2**steps
    for _ in range(steps):
        ddf = ddf + warp(ddf, ddf, padding_mode=padding_mode)
    return ddf


def compose(first: Tensor, then: Tensor, padding_mode: str = "border") -> Tensor:
    """The one field that warps as ``first`` and then ``then`` do: ``warp(warp(image, first), then)``.

    Args:
        first: (B, d, *spatial) displacement in voxels, applied first.
        then: (B, d, *spatial) displacement applied to the result.
        padding_mode: how ``first`` goes on outside.

    Returns:
        (B, d, *spatial) displacement ``then(x) + first(x + then(x))``.
    """
    return then + warp(first, then, padding_mode=padding_mode)


def jacobian_determinant(ddf: Tensor) -> Tensor:
    """Determinant of the Jacobian of ``x + ddf(x)``: the local change of volume, <= 0 where the field folds.

    Args:
        ddf: (B, d, *spatial) displacement in voxels, at least two voxels along each axis.

    Returns:
        (B, *spatial), by central differences and one-sided ones at the border (as ``numpy.gradient``).
    """
    _check_field(ddf)
    axes = ddf.shape[1]
    rows: list[Sequence[Tensor]] = []
    for i in range(axes):
        slopes = torch.gradient(ddf[:, i], dim=list(range(1, axes + 1)))
        rows.append([slope + 1 if i == j else slope for j, slope in enumerate(slopes)])
    if axes == 2:
        (a, b), (c, d) = rows
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, k) = rows
    return a * (e * k - f * h) - b * (d * k - f * g) + c * (d * h - e * g)


def folding(ddf: Tensor) -> Tensor:
    """Share of voxels where the field folds (determinant of the Jacobian <= 0), per sample: (B,).

    Args:
        ddf: (B, d, *spatial) displacement in voxels.
    """
    return (jacobian_determinant(ddf) <= 0).flatten(1).to(torch.float32).mean(1)


def _places(ddf: Tensor) -> list[Tensor]:
    """Index of every voxel along each axis, shaped to broadcast over (B, *spatial)."""
    sides = ddf.shape[2:]
    return [
        torch.arange(side, dtype=torch.promote_types(ddf.dtype, torch.float32), device=ddf.device).view(
            [side if axis == k else 1 for k in range(len(sides))]
        )
        for axis, side in enumerate(sides)
    ]


def _check_field(ddf: Tensor) -> None:
    if ddf.ndim not in (4, 5) or ddf.shape[1] != ddf.ndim - 2:
        raise ImageShapeError(
            f"A field has shape (B, d, *spatial) with d = 2 or 3 spatial axes; found {tuple(ddf.shape)}."
        )
