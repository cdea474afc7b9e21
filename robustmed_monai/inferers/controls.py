"""Detectors that learn nothing, or next to nothing: what a method must beat to mean anything."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from robustmed_monai.utils.errors import DataError


class IntensityControl(nn.Module):
    """The image is its own anomaly map: bright is abnormal; its pseudo-healthy image is black."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return "pred" and "anomaly_map" of images (B, C, X, Y)."""
        return {"pred": torch.zeros_like(image), "anomaly_map": image.mean(1, keepdim=True)}


class ZeroControl(nn.Module):
    """Nothing is abnormal anywhere: the figures of chance."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return "pred" (the image itself) and an "anomaly_map" of zeros."""
        return {"pred": image, "anomaly_map": torch.zeros_like(image[:, :1])}


class AreaControl(nn.Module):
    """All of the head is abnormal, so that the image score is the area of the head.

    Args:
        threshold: intensity in [0, 1] above which a pixel belongs to the head.
    """

    def __init__(self, threshold: float = 0.1) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return "pred" (black) and "anomaly_map" (1 in the head)."""
        head = (image.mean(1, keepdim=True) > self.threshold).float()
        return {"pred": torch.zeros_like(image), "anomaly_map": head}


class MeanImageControl(nn.Module):
    """The pseudo-healthy image of everyone is the mean of the training images.

    Args:
        batches: training images, each (B, C, X, Y) in [0, 1].

    Raises:
        DataError: when there is none.
    """

    def __init__(self, batches: Iterable[torch.Tensor]) -> None:
        super().__init__()
        total, count = None, 0
        for batch in batches:
            summed = batch.double().sum(0, keepdim=True)
            total = summed if total is None else total + summed
            count += len(batch)
        if total is None:
            raise DataError("mean image: no training images; give a data set with a training section.")
        self.mean: torch.Tensor
        self.register_buffer("mean", (total / count).float())

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return "pred" (the mean image) and "anomaly_map" = |x - mean|."""
        pred = self.mean.to(image.device).expand_as(image)
        return {"pred": pred, "anomaly_map": (image - pred).abs().mean(1, keepdim=True)}
