"""Intensities of brain slices as z-scores inside the brain: the input of pchVAE and its comparisons."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, ensure_tuple_rep

from robustmed_monai.transforms.brain_region import fill_holes
from robustmed_monai.transforms.same_grid import placed_like
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

_MEAN, _STD = "zscore_mean", "zscore_std"


# What is dark at the surface of a brain without skull is CSF: this many pixels around count as head.
_MARGIN = 2


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

    Raises:
        ImageError: when the slices are not in [0, 1].
    """
    grey = unit_range(slices, "brain_mask").float().mean(1, keepdim=True)
    return fill_holes(grey > threshold).float()


class HeadMaskd(MapTransform):
    """Mask the head, so that a network's results in the air around it can be left out.

    Args:
        keys: one key, a stack (C, X, Y, S) in [0, 1], as ``VolumeToSlicesd`` cuts them.
        mask_key: where the mask (1, X, Y, S) goes: ``brain_mask`` and two pixels around it.
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "head") -> None:
        super().__init__(keys)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the mask."""
        stack = data[self.first_key(dict(data))]
        plain = torch.as_tensor(stack).as_subclass(torch.Tensor)
        mask = F.max_pool2d(brain_mask(plain.movedim(-1, 0)), 2 * _MARGIN + 1, 1, _MARGIN)
        return {**data, self.mask_key: placed_like(mask.movedim(0, -1).contiguous(), stack)}


def brain_zscore(slices: torch.Tensor, clip: float = 1.5, threshold: float = 0.1) -> ZScored:
    """Subtract the mean of the brain, divide by its standard deviation and clip; the same for all slices.

    Args:
        slices: all slices of one volume (S, 1, X, Y) in [0, 1], its slices along the first axis. The result
            does not depend on how they were scaled, but for what was clipped.
        clip: bound of the result on both sides; the background becomes its lower one.
        threshold: see ``brain_mask``.

    Returns:
        Slices, brain, and what is needed to turn them back: ``slices * std + mean``.

    Raises:
        ConfigError: when ``clip`` is not positive.
        DataError: when there is no brain, or nothing but one intensity in it.
        ImageError: when the slices are not in [0, 1].

    Source: Zimmerer et al., protocol of their brain experiments: z-score inside the brain, clip to +-1.5.
    """
    if not clip > 0:
        raise ConfigError(f"clip={clip}; give a positive number of standard deviations, such as 1.5.")
    slices = unit_range(slices, "brain_zscore").float()
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


class BrainZScored(MapTransform):
    """``brain_zscore`` of stacks (1, X, Y, S) in [0, 1]; mean and spread are kept in the meta data.

    Args:
        keys: stacks, as ``VolumeToSlicesd`` cuts them.
        clip: see ``brain_zscore``.
        brain_key: where the mask of the brain (1, X, Y, S) goes.

    Raises:
        ImageShapeError: when applied to an image without a brain; it names the file.
    """

    def __init__(self, keys: KeysCollection, clip: float = 1.5, brain_key: str = "brain") -> None:
        super().__init__(keys)
        self.clip = clip
        self.brain_key = brain_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with z-scores in place of the stacks, and the brain."""
        result = dict(data)
        for key in self.key_iterator(result):
            stack = result[key]
            try:
                plain = torch.as_tensor(stack).as_subclass(torch.Tensor)
                scaled = brain_zscore(plain.movedim(-1, 0), self.clip)
            except DataError as error:
                name = getattr(stack, "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ) or key
                raise ImageShapeError(f"{name}: {error}") from error
            placed, brain = (
                placed_like(made.movedim(0, -1).contiguous(), stack) for made in (scaled.slices, scaled.brain)
            )
            placed.meta = {**placed.meta, _MEAN: scaled.mean, _STD: scaled.std}
            result[key], result[self.brain_key] = placed, brain
        return result


class UndoBrainZScored(MapTransform):
    """Turn z-scores back to [0, 1]; slices without brain become 0.

    Args:
        keys: stacks (C, X, Y, S) in the units of ``orig_key``.
        orig_key: the stack that ``BrainZScored`` made.
        shift: False for differences, which have no zero of their own: they are only stretched; one for all
            keys or one each.
        brain_key: mask of the brain.
        allow_missing_keys: do not raise when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        orig_key: str,
        shift: bool | Sequence[bool] = True,
        brain_key: str = "brain",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orig_key = orig_key
        self.shift = ensure_tuple_rep(shift, len(self.keys))
        self.brain_key = brain_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the stacks in the units before."""
        result = dict(data)
        meta = result[self.orig_key].meta
        filled = result[self.brain_key].as_tensor().flatten(0, 2).any(0).float()
        for key, shift in self.key_iterator(result, self.shift):
            result[key] = (result[key] * meta[_STD] + (meta[_MEAN] if shift else 0.0)) * filled
        return result
