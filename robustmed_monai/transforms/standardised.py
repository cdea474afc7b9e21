"""Images in units of the spread of their brain's brightness."""

from __future__ import annotations

from torch import Tensor

# Values beyond this many standard deviations are cut off: fat, vessels.
_FURTHEST = 4.0
# Least spread, of the image's range, and least weight of all voxels.
_LEAST = 1e-3


def standardised(images: Tensor, weight: Tensor) -> Tensor:
    """Images in units of the spread around the mean of their brain, without contrast and brightness.

    Args:
        images: (B, 1, *spatial).
        weight: (B or 1, 1, *spatial), how surely each voxel is brain.

    Returns:
        Like ``images``, -4 to 4.
    """
    axes = tuple(range(1, images.ndim))
    total = weight.expand_as(images).sum(axes, keepdim=True).clamp_min(_LEAST)
    mean = (weight * images).sum(axes, keepdim=True) / total
    variance = (weight * (images - mean).square()).sum(axes, keepdim=True) / total
    return ((images - mean) / variance.sqrt().clamp_min(_LEAST)).clamp(-_FURTHEST, _FURTHEST)
