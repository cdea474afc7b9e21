"""A registration network applied to pairs of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer

from robustmed_monai.transforms.fields import warp


class RegistrationInferer(Inferer):
    """Registers batches whose channels are those of the moving and then those of the fixed image.

    Args:
        represented: they hold what the network's features make of the images.
        amp: run the network in bfloat16 autocast.
    """

    def __init__(self, represented: bool = False, amp: bool = False) -> None:
        super().__init__()
        self.represented = represented
        self.amp = amp

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Register.

        Args:
            inputs: (B, 2 C, *S): moving and fixed.
            network: a RegistrationNet.
            args: not used.
            kwargs: not used.

        Returns:
            What the network returns, and `moved` (B, C, *S): moving on fixed.
        """
        moving, fixed = inputs.chunk(2, dim=1)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.amp):
            found: dict[str, torch.Tensor] = network(moving, fixed, represented=self.represented)
        return {**found, "moved": warp(moving, found["ddf"])}
