"""Cross-entropy as an objective of the trainer, for classes and for rotations."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F


class CrossEntropyObjective:
    """Cross-entropy of one network's logits on the batch's images and labels (equation 1 of RISC).

    Args:
        network: name of the network among those of the trainer.
        label_smoothing: share of the target that is spread over all classes, in [0, 1); the paper uses none.
        class_weights: weight of each class; None weights all alike.

    Source: Singh et al., MethodsX 2024, equation 1; the indicator in its equation 2 is printed inverted.
    """

    def __init__(
        self,
        network: str = "network",
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self.network = network
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)

    def __call__(
        self,
        networks: Mapping[str, nn.Module],
        batch: MutableMapping[str, torch.Tensor],
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """Return "loss" and "accuracy", and leave the logits in the batch as `pred`.

        Args:
            networks: name to network, image to logits.
            batch: `image` (B, C, X, Y), `label` (B,) int64.
            generator: not used.
        """
        logits = networks[self.network](batch["image"]).float()
        label = batch["label"].to(logits.device)
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        loss = F.cross_entropy(logits, label, weights, label_smoothing=self.label_smoothing)
        batch["pred"] = logits.detach()
        return {"loss": loss, "accuracy": (logits.argmax(1) == label).float().mean()}
