"""Random rotation, shift, zoom and flip of a whole batch on its device, one draw per sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from robustmed_monai.transforms.adapters import Batch, BatchTransform
from robustmed_monai.transforms.params import Params, Shape
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError


def sample_affine(
    rows: int,
    generator: torch.Generator,
    rotate_range: float = 10.0,
    translate_range: float = 0.1,
    scale_range: Sequence[float] = (0.9, 1.1),
    flip_prob: float = 0.5,
    ratio: float = 1.0,
) -> torch.Tensor:
    """Draw one affine matrix per sample.

    Args:
        rows: number of samples B.
        generator: source of the draw.
        rotate_range: largest rotation in degrees, either way.
        translate_range: largest shift as a share of the image's side, either way.
        scale_range: smallest and largest zoom; above 1 the content grows.
        flip_prob: probability of a left-right flip (first spatial axis).
        ratio: X / Y of the images.

    Returns:
        (B, 2, 3) float32 matrices on the CPU, as ``torch.nn.functional.affine_grid`` takes them for images
        whose axes are (x, y): zero ranges give the identity.
    """
    u = torch.rand(rows, 5, generator=generator)
    angle = torch.deg2rad((2 * u[:, 0] - 1) * rotate_range)
    zoom = 1 / (scale_range[0] + (scale_range[1] - scale_range[0]) * u[:, 1])
    flip = torch.where(u[:, 2] < flip_prob, -1.0, 1.0)
    shift = (2 * u[:, 3:5] - 1) * translate_range * 2
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    # affine_grid's first coordinate runs along the last axis, which is y here; the flip acts on x.
    first = torch.stack([cos, -sin * flip * ratio, shift[:, 1]], 1)
    second = torch.stack([sin / ratio, cos * flip, shift[:, 0]], 1)
    return torch.stack([first, second], 1)


def apply_affine(
    images: torch.Tensor, matrices: torch.Tensor, mode: str = "bilinear", padding_mode: str = "zeros"
) -> torch.Tensor:
    """Resample images (B, C, X, Y) under matrices (B, 2, 3) of ``torch.nn.functional.affine_grid``.

    Their first coordinate runs along the last axis, and each axis is measured in halves of its own length.
    """
    # Half types cannot tell the places of a large image apart.
    exact = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
    grid = F.affine_grid(matrices.to(exact), list(images.shape), align_corners=False)
    moved = F.grid_sample(exact, grid, mode=mode, padding_mode=padding_mode, align_corners=False)
    return moved.to(images.dtype)


class BatchRandAffine(BatchTransform):
    """Batched augmentation of RA's training: rotation, shift, zoom and flip of ``batch["image"]``.

    Args:
        rotate_range: largest rotation in degrees.
        translate_range: largest shift as a share of the side.
        scale_range: smallest and largest zoom.
        flip_prob: probability of a left-right flip.
        mode: "bilinear", or "nearest" as the authors' release.

    Raises:
        ConfigError: when a range is out of bounds or the mode is unknown.

    Source: ranges of the MIDL 2023 release of RA.
    """

    def __init__(
        self,
        rotate_range: float = 10.0,
        translate_range: float = 0.1,
        scale_range: Sequence[float] = (0.9, 1.1),
        flip_prob: float = 0.5,
        mode: str = "bilinear",
    ) -> None:
        if not (0 < scale_range[0] <= scale_range[1] and 0 <= flip_prob <= 1 and math.isfinite(rotate_range)):
            raise ConfigError(
                f"rotate_range={rotate_range} must be finite, scale_range={scale_range} positive and rising, "
                f"flip_prob={flip_prob} in [0, 1]."
            )
        if mode not in ("bilinear", "nearest"):
            raise ConfigError(f"mode: found {mode!r}; choose 'bilinear' or 'nearest'.")
        self.ranges = (rotate_range, translate_range, tuple(scale_range), flip_prob)
        self.mode = mode

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw one matrix per sample."""
        return {"matrix": sample_affine(shape[0], generator, *self.ranges, ratio=shape[2] / shape[3])}

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with its image (B, C, X, Y) in [0, 1] moved; the layout in memory is kept.

        Raises:
            ImageError: for other ranges: 0 would not be the black that comes in from outside.
        """
        image = unit_range(batch["image"], "BatchRandAffine")
        moved = apply_affine(image, params["matrix"], self.mode)
        return {**batch, "image": moved.contiguous(memory_format=memory_format(image))}


def memory_format(image: torch.Tensor) -> torch.memory_format:
    """How a batch (B, C, X, Y) lies in memory."""
    channels_last = image.is_contiguous(memory_format=torch.channels_last) and image.shape[1] > 1
    return torch.channels_last if channels_last else torch.contiguous_format
