"""Batched transforms in front of MONAI's evaluators, as their ``prepare_batch``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from monai.engines.utils import PrepareBatch, default_prepare_batch

from robustmed_monai.utils.random import same_seed_on_all_ranks

Batch = dict[str, torch.Tensor]


class PrepareTransformed(PrepareBatch):
    """Moves a batch to the device and transforms it there, alike in every validation.

    Args:
        transform: (batch, generator) to batch, as the trainer's ``batch_transform``; None changes nothing.
        seed: seed of the generator that every batch gets anew.
    """

    def __init__(
        self, transform: Callable[[Batch, torch.Generator], Batch] | None = None, seed: int = 0
    ) -> None:
        self.transform = transform
        self.seed = seed

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image and label of ``batchdata``, transformed."""
        # With an image and a label in the batch data there are always both.
        image, label = cast(
            tuple[torch.Tensor, torch.Tensor],
            default_prepare_batch(batchdata, device, non_blocking, **kwargs),
        )
        batch = {"image": image, "label": label}
        if self.transform is not None:
            with same_seed_on_all_ranks():
                batch = self.transform(batch, torch.Generator().manual_seed(self.seed))
        return batch["image"], batch["label"]
