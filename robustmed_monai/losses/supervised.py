"""Any MONAI loss of a prediction and a label as an objective of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping

import torch
from torch import nn


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
        """Return "loss" and leave the output in the batch as `pred`.

        Args:
            networks: name to network, image to output.
            batch: `image` (B, C, *spatial) and `label`.
            generator: not used.
        """
        output = networks[self.network](batch["image"]).float()
        batch["pred"] = output.detach()
        return {"loss": self.loss(output, batch["label"].to(output.device))}
