"""A loss of a prediction and a label as an objective of the trainer; cross-entropy for classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F


class SupervisedObjective:
    """A loss between one network's output and the batch's `label`.

    Args:
        loss: function of (output, label) that returns a scalar, such as MONAI's ``DiceCELoss``.
        network: name of the network among those of the trainer.
    """

    def __init__(
        self, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], network: str = "network"
    ) -> None:
        self.loss = loss
        self.network = network

    def __call__(
        self,
        networks: Mapping[str, nn.Module],
        batch: MutableMapping[str, torch.Tensor],
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """Return "loss", for classes "accuracy" too, and leave the output in the batch as `pred`.

        Args:
            networks: name to network, image to output.
            batch: `image` (B, C, *spatial) and `label`, (B,) int64 for classes.
            generator: not used.
        """
        output = networks[self.network](batch["image"]).float()
        label = batch["label"].to(output.device)
        batch["pred"] = output.detach()
        terms = {"loss": self.loss(output, label)}
        if label.ndim == 1:
            terms["accuracy"] = (output.argmax(1) == label).float().mean()
        return terms


def cross_entropy(
    network: str = "network", label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None
) -> SupervisedObjective:
    """Return the objective of equation 1 of RISC: cross-entropy of one network's logits.

    Args:
        network: name of the network among those of the trainer.
        label_smoothing: share of the target that is spread over all classes, in [0, 1); the paper uses none.
        class_weights: weight of each class; None weights all alike.

    Source: Singh et al., MethodsX 2024, equation 1; the indicator in its equation 2 is printed inverted.
    """

    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        weights = None if class_weights is None else torch.tensor(class_weights).to(logits)
        return F.cross_entropy(logits, label, weights, label_smoothing=label_smoothing)

    return SupervisedObjective(loss, network)
