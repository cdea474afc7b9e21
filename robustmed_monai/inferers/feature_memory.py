"""How a feature memory is applied: its output is the anomaly map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers.inferer import Inferer

from robustmed_monai.inferers.perceptual import images_at_once
from robustmed_monai.transforms.unit_range import unit_range


class MemoryInferer(Inferer):
    """Images to "anomaly_map", on a CPU a few images at a time."""

    @torch.no_grad()
    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Apply the network.

        Args:
            inputs: images (B, C, X, Y) in [0, 1].
            network: image to anomaly map (B, 1, X, Y).
            args: passed on to the network.
            kwargs: passed on to the network.
        """
        image = unit_range(torch.as_tensor(inputs), "MemoryInferer").float()
        parts = [network(part, *args, **kwargs).float() for part in image.split(images_at_once(image))]
        return {"anomaly_map": torch.cat(parts)}
