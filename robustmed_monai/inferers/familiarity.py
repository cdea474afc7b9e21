"""Which slices look like the training data, for the iterations that are still to be moved."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from robustmed_monai.transforms.slice_selection import in_distribution as in_distribution_slices
from robustmed_monai.transforms.slice_selection import ood_reasons as unfamiliar

__all__ = ["in_distribution_slices", "ood_slices", "ood_warnings", "unfamiliar"]


def ood_slices(
    stack: torch.Tensor, index: torch.Tensor, reference: Mapping[str, Mapping[str, float]] | None
) -> dict[int, list[str]]:
    """Why each slice (S, C, X, Y) of an index is out of distribution."""
    return {i: unfamiliar(stack[i : i + 1], reference) if reference else [] for i in index.tolist()}


def ood_warnings(
    stack: torch.Tensor,
    strange: Mapping[int, list[str]],
    reference: Mapping[str, Mapping[str, float]] | None,
) -> list[str]:
    """Sentences about the whole image."""
    if not strange:
        return ["the image is empty: no voxel is above 0"]
    if not reference:
        return ["the weights do not say what they were trained on; the scores cannot be put into relation"]
    alien = sum(bool(sentences) for sentences in strange.values())
    if not alien:
        return []
    share = f"{alien} of {len(strange)} slices lie far outside the training data; see their entries"
    return [share, *unfamiliar(stack[list(strange)], reference)]
