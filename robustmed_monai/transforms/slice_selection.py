"""Which slices of a stack a network gets to see, and which of them look like its training images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, ScaleIntensityRange

from robustmed_monai.transforms.head_contrast import Doubt, contrast_doubt
from robustmed_monai.transforms.ood_statistics import Statistics, ood_reasons
from robustmed_monai.transforms.same_grid import placed_like
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.transforms.volume_slices import SliceGeometry, filled_slices
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.weight_info import CONTRASTS

# From here on results were measured to change by more than 5 %.
_COARSE = 1.25
_NO_STATISTICS = "the weights hold no training statistics, so nothing says whether they suit this image"


class SelectSlicesd(MapTransform):
    """Keep a part of the slices of stacks (C, X, Y, S), counted among those that hold anything.

    Args:
        keys: stacks with the same slices; the first says which are empty. A single slice is always kept.
        slice_range: part of the filled slices, from 0 (lowest) to 1 (highest).
        allow_missing_keys: do not raise when a key is missing.

    Raises:
        ConfigError: for a range that does not rise inside [0, 1].
    """

    def __init__(
        self,
        keys: KeysCollection,
        slice_range: Sequence[float] = (0.0, 1.0),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= slice_range[0] < slice_range[1] <= 1:
            raise ConfigError(
                f"slice_range={list(slice_range)} must rise inside [0, 1], such as [0.45, 0.65]."
            )
        self.slice_range = (float(slice_range[0]), float(slice_range[1]))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with fewer slices."""
        result = dict(data)
        kept = self.chosen(result[self.first_key(result)])
        for key in self.key_iterator(result):
            result[key] = take_slices(result[key], kept)
        return result

    def chosen(self, stack: torch.Tensor) -> torch.Tensor:
        """Indices (N,) of the slices to keep."""
        filled = filled_slices(torch.as_tensor(stack).as_subclass(torch.Tensor))
        if stack.shape[-1] == 1 or not len(filled):
            return torch.arange(stack.shape[-1])
        low, high = (round(share * (len(filled) - 1)) for share in self.slice_range)
        return filled[low : high + 1]


def take_slices(stack: Any, index: torch.Tensor) -> Any:
    """Some slices of a stack (C, X, Y, S), whose affine becomes that of the first of them.

    Args:
        stack: an array or tensor; a MetaTensor has an affine.
        index: (N,) numbers of the slices, rising.
    """
    taken = stack[..., index]
    if isinstance(taken, MetaTensor) and len(index):
        affine = stack.affine.clone()
        affine[:3, 3] += int(index[0]) * affine[:3, 2]
        taken.affine = affine
    return taken


class OODSlicesd(MapTransform):
    """Find the slices that lie outside of a network's training data.

    Args:
        keys: one key, a stack (C, X, Y, S) in ``value_range``.
        statistics: from ``training_statistics``, as the weights' info keeps it; None: nothing is known of
            the training images, and all slices count as in distribution.
        mask_key: where the mask of the slices in distribution goes.
        tolerance: see ``ood_reasons``.
        refuse: False where slices out of distribution are assessed all the same, with a warning: all filled
            slices are in the mask. A number: only those are not assessed that are out at this tolerance.
        value_range: values of the stack that are 0 and 1 to the statistics.
        advice: what to do about a volume of which no slice is in distribution; added to its warnings.
        contrast: that of the training images, "T1", "FLAIR" or "T2": a head that looks like another is out of
            distribution as a whole (``contrast_doubt``); None: nobody looks.

    Raises:
        ConfigError: for an unknown contrast.

    The mask is (1, X, Y, S), 1 in the slices that are assessed; `assessed_slices` lists these. `ood_reasons`
    has sentences for each filled slice, none for one in distribution. Sentences about the whole image, and
    about voxels that are coarse for the network, are added to ``warnings``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        statistics: Statistics | None,
        mask_key: str = "in_distribution",
        tolerance: float = 1.0,
        refuse: bool | float = True,
        value_range: Sequence[float] = (0.0, 1.0),
        advice: str | None = None,
        contrast: str | None = None,
    ) -> None:
        super().__init__(keys)
        if contrast not in (None, *CONTRASTS):
            raise ConfigError(f"contrast is {contrast!r}; choose one of {', '.join(CONTRASTS)}, or null.")
        self.contrast = contrast
        self.tolerance = tolerance
        self.advice = advice
        self.refuse = refuse
        low, high = value_range
        self.scale = None if (low, high) == (0, 1) else ScaleIntensityRange(low, high, 0.0, 1.0)
        self.statistics = statistics
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with mask, reasons and warnings."""
        result = dict(data)
        stack = result[self.first_key(result)]
        stack = stack if self.scale is None else self.scale(stack)
        slices = unit_range(torch.as_tensor(stack), "OODSlicesd").movedim(-1, 0)
        index = filled_slices(slices.movedim(0, -1)).tolist()
        reasons = {i: self._reasons(slices[i : i + 1], self.tolerance) for i in index}
        mask = torch.zeros_like(slices[:, :1])
        assessed = in_distribution(reasons) if self.refuse else index
        if not isinstance(self.refuse, bool):
            assessed = [i for i in index if not self._reasons(slices[i : i + 1], self.refuse)]
        doubt = contrast_doubt(stack, self.contrast, bool(assessed)) if self.contrast else None
        if doubt and doubt.sure:
            reasons = {i: [doubt.sentence] for i in index}
            assessed = [] if self.refuse else index
        mask[assessed] = 1
        warnings = [
            *result.get("warnings", []),
            *_coarse(stack),
            *self._about_contrast(doubt),
            *([] if doubt and doubt.sure else self._about_slices(slices, reasons, len(assessed))),
        ]
        placed = placed_like(mask.movedim(0, -1), stack)
        result |= {self.mask_key: placed, "ood_reasons": reasons, "assessed_slices": assessed}
        return {**result, "warnings": warnings}

    def _about_contrast(self, doubt: Doubt | None) -> list[str]:
        if doubt is None:
            return []
        refused = doubt.sure and self.refuse
        end = ", so nothing is assessed (--contrast null does it all the same)" if refused else ""
        return [f"{doubt.sentence}{end}"]

    def _about_slices(
        self, slices: torch.Tensor, reasons: Mapping[int, list[str]], assessed: int
    ) -> list[str]:
        if not reasons:
            return []
        if not self.statistics:
            return [_NO_STATISTICS]
        outside = [i for i, sentences in reasons.items() if sentences]
        if not outside:
            return []
        share = f"{len(outside)} of {len(reasons)} slices lie outside of the training data"
        if assessed < len(reasons):
            which = "the others" if assessed else "all"
            share = f"assessed {assessed} of {len(reasons)} slices; {which} lie outside of the training data"
        lost = len(outside) == len(reasons) > 1
        advice = [self.advice] if self.advice and lost else []
        return [share, *advice, *self._reasons(slices[list(reasons)], self.tolerance)]

    def _reasons(self, slices: torch.Tensor, tolerance: float) -> list[str]:
        return ood_reasons(slices, self.statistics, tolerance) if self.statistics else []


def _coarse(stack: Any) -> list[str]:
    """A warning where the file's voxels are much larger than the pixels that the network was trained on."""
    for step in getattr(stack, "applied_operations", ()):
        where = step.get("extra_info", {}).get("geometry")
        times = 1 / min(where.step) if isinstance(where, SliceGeometry) and not where.fits_image else 0.0
        if times > _COARSE:
            return [
                f"within the slices the voxels are up to {times:.1f} times as large as the network's pixels; "
                "what is finer is lost, and scores and volumes may be a fifth lower"
            ]
    return []


def in_distribution(reasons: Mapping[int, Sequence[str]]) -> list[int]:
    """Slices that look like the training data.

    Example:
        >>> in_distribution({3: [], 4: ["brightness is 0.10"]})
        [3]
    """
    return [i for i, sentences in reasons.items() if not sentences]
