"""Flips and a cropped field of view of label maps, sample by sample."""

from __future__ import annotations

import torch
from torch import Tensor

from robustmed_monai.transforms.synthesis.noise import uniform_rows


def sample_flips(rows: int, axes: int, prob: float, generator: torch.Generator) -> Tensor:
    """Draw which axes are flipped: (B, d) bool, each with probability ``prob``."""
    return torch.rand(rows, axes, generator=generator, device=generator.device) < prob


def flip(maps: Tensor, flips: Tensor) -> Tensor:
    """Flip (B, C, *spatial) along the axes that ``flips`` (B, d) names for each sample."""
    for axis in range(maps.ndim - 2):
        maps = torch.where(flips[:, axis].view(-1, *[1] * (maps.ndim - 1)), maps.flip(axis + 2), maps)
    return maps


def sample_crops(rows: int, axes: int, prob: float, share: float, generator: torch.Generator) -> Tensor:
    """Draw fields of view: (B, d, 2) first and last visible place along each axis, as shares of the side.

    Args:
        rows: number of samples B.
        axes: number of spatial axes d.
        prob: probability that a sample is cropped.
        share: along each axis a share uniform in 0 to this is lost, at both ends together.
        generator: source of the draw.
    """
    chosen = torch.rand(rows, 1, generator=generator, device=generator.device) < prob
    lost = uniform_rows((rows, axes), 0.0, share, generator) * chosen
    first = lost * torch.rand(rows, axes, generator=generator, device=generator.device)
    return torch.stack([first, 1 - lost + first], 2)


def crop(maps: Tensor, crops: Tensor) -> Tensor:
    """Set (B, C, *spatial) to 0 outside the fields of view ``crops`` (B, d, 2)."""
    for axis, side in enumerate(maps.shape[2:]):
        place = (torch.arange(side, device=maps.device) + 0.5) / side
        seen = (place >= crops[:, axis, :1]) & (place <= crops[:, axis, 1:])
        maps = maps * seen.view(len(maps), 1, *[side if axis == k else 1 for k in range(maps.ndim - 2)])
    return maps
