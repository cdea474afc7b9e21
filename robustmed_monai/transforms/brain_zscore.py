"""Intensities of brain slices as z-scores inside the brain: the input of pchVAE and its comparisons."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from robustmed_monai.utils.errors import ConfigError, DataError


class ZScored(NamedTuple):
    """Slices in units of the brain's spread.

    Attributes:
        slices: (S, 1, X, Y) float32 in [-clip, clip].
        brain: (S, 1, X, Y) float32, 1 in the brain.
        mean: intensity, in the units of the input, that became 0.
        std: intensity range that became 1.
    """

    slices: torch.Tensor
    brain: torch.Tensor
    mean: float
    std: float


def brain_mask(slices: torch.Tensor, threshold: float = 0.1) -> torch.Tensor:
    """Pixels that belong to the head or, where the skull was removed, to the brain.

    Args:
        slices: (S, C, X, Y) in [0, 1], background near 0.
        threshold: intensity above which a pixel is no background; what such pixels enclose is filled.

    Returns:
        (S, 1, X, Y) float32 in {0, 1}.
    """
    from scipy.ndimage import binary_fill_holes

    bright = (slices.mean(1) > threshold).cpu().numpy()
    filled = np.stack([binary_fill_holes(one) for one in bright]) if len(bright) else bright
    return torch.from_numpy(filled.astype(np.float32))[:, None]


def brain_zscore(slices: torch.Tensor, clip: float = 1.5, threshold: float = 0.1) -> ZScored:
    """Subtract the mean of the brain, divide by its standard deviation and clip; the same for all slices.

    Args:
        slices: all slices of one volume (S, 1, X, Y) in [0, 1], as ``volume_to_slices`` cuts them. The result
            does not depend on how they were scaled, but for what was clipped.
        clip: bound of the result on both sides; the background becomes its lower one.
        threshold: see ``brain_mask``.

    Returns:
        Slices, brain, and what is needed to turn them back: ``slices * std + mean``.

    Raises:
        ConfigError: when ``clip`` is not positive.
        DataError: when there is no brain, or nothing but one intensity in it.

    Source: Zimmerer et al., protocol of their brain experiments: z-score inside the brain, clip to +-1.5.
    """
    if not clip > 0:
        raise ConfigError(f"clip={clip}; give a positive number of standard deviations, such as 1.5.")
    brain = brain_mask(slices, threshold)
    inside = slices[brain.expand_as(slices) > 0]
    spread = float(inside.std()) if inside.numel() > 1 else 0.0
    if not spread > 1e-6:
        raise DataError(
            f"no brain: {inside.numel()} pixels are above {threshold} of the range, with a spread of "
            f"{spread:.2g}; give brain images with a dark background."
        )
    mean = float(inside.mean())
    scaled = ((slices - mean) / spread).clamp(-clip, clip)
    return ZScored(scaled, brain, mean, spread)
