"""Batches of pairs for MONAI's trainers and evaluators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.engines.utils import PrepareBatch

from robustmed_monai.utils.random import same_seed_on_all_ranks

Batch = dict[str, torch.Tensor]


class PairTransform:
    """Transforms both images of each pair, each by a draw of its own; the images before it stay as `target`.

    Args:
        transform: batched augmentation, (batch, generator) to batch, of `image` (B, 1, *S) with its `label`,
            such as ``BatchRandRemap`` or ``BatchFromLabels``; it must not move the image. None changes
            nothing.
    """

    def __init__(self, transform: Callable[[Batch, torch.Generator], Batch] | None = None) -> None:
        self.transform = transform

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with `image` (B, 2, *S) transformed and `target` (B, 2, *S)."""
        if self.transform is None:
            return {**batch, "target": batch["image"]}
        single: Batch = {k: batch[k].flatten(0, 1)[:, None] for k in ("image", "label") if k in batch}
        changed = self.transform(single, generator)["image"]
        return {**batch, "image": changed.view_as(batch["image"]), "target": batch["image"]}


class PreparePair(PrepareBatch):
    """Makes one image and one label of a batch of pairs, moving first along the channels.

    Args:
        label: what becomes the label, of both images: "label" (`moving_label` and `fixed_label`), or another
            name of the same kind; None has none.
        transform: what is done to the batch, see PairTransform; None changes nothing.
        seed: seed of the generator that every batch is transformed with.
    """

    def __init__(
        self, label: str | None = "label", transform: PairTransform | None = None, seed: int = 0
    ) -> None:
        self.label = label
        self.transform = transform
        self.seed = seed

    def __call__(
        self,
        batchdata: Mapping[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return image (B, 2 C, *S) and label (B, 2, *S) on the device."""

        def both(suffix: str) -> torch.Tensor:
            pair = torch.cat([batchdata[f"moving{suffix}"], batchdata[f"fixed{suffix}"]], dim=1)
            return pair.to(device, non_blocking=non_blocking)

        image, label = both(""), None if self.label is None else both(f"_{self.label}")
        if self.transform is not None:
            batch = {"image": image} if label is None else {"image": image, "label": label}
            with same_seed_on_all_ranks():
                image = self.transform(batch, torch.Generator().manual_seed(self.seed))["image"]
        return image, label
