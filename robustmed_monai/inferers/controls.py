"""Untrained baselines of anomaly detection: what a method must beat to mean anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import DataError

Scores = dict[str, torch.Tensor]


def intensity(image: torch.Tensor) -> Scores:
    """The image (B, C, X, Y) is its own "anomaly_map": bright is abnormal."""
    return {"anomaly_map": image.mean(1, keepdim=True)}


def no_anomaly(image: torch.Tensor) -> Scores:
    """Nothing is abnormal anywhere: an "anomaly_map" of zeros, the figures of chance."""
    return {"anomaly_map": torch.zeros_like(image[:, :1])}


def head_area(image: torch.Tensor, threshold: float = 0.1) -> Scores:
    """All pixels above ``threshold`` are abnormal, so that the image score is the area of the head."""
    return {"anomaly_map": (image.mean(1, keepdim=True) > threshold).float()}


class MeanImageControl(nn.Module):
    """The pseudo-healthy image of everyone is the mean of the training images.

    Args:
        batches: training images, each batch with `image` (B, C, X, Y) in [0, 1].

    Raises:
        DataError: when there is none.
    """

    def __init__(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
        super().__init__()
        total, count = None, 0
        for batch in batches:
            summed = batch["image"].double().sum(0, keepdim=True)
            total = summed if total is None else total + summed
            count += len(batch["image"])
        if total is None:
            raise DataError("mean image: no training images; give a data set with a training section.")
        self.mean: torch.Tensor
        self.register_buffer("mean", (total / count).float())

    def forward(self, image: torch.Tensor) -> Scores:
        """Return "pred" (the mean image) and "anomaly_map" = |x - mean| of images in [0, 1]."""
        image = unit_range(image, "MeanImageControl")
        pred = self.mean.to(image.device).expand_as(image)
        return {"pred": pred, "anomaly_map": (image - pred).abs().mean(1, keepdim=True)}


def brain_intensity(batch: Mapping[str, torch.Tensor], clip: float = 1.5) -> Scores:
    """Mean z-score of the `brain` as "score_elbo"; "map_intensity" is the `image` above the background."""
    image, brain = batch["image"], batch["brain"]
    inside = brain.flatten(1).sum(1).clamp(min=1)
    score = (image * brain).flatten(1).sum(1) / inside
    return {"score_elbo": score, "map_intensity": (image + clip).clamp(min=0)}


def slice_position(batch: Mapping[str, torch.Tensor]) -> Scores:
    """Nearness of a slice to the middle of its volume, by `position`, as "score_elbo"."""
    return {"score_elbo": -(batch["position"] - 0.5).abs()}


def brain_area(batch: Mapping[str, torch.Tensor]) -> Scores:
    """Share of the slice that is `brain` as "score_elbo"."""
    return {"score_elbo": batch["brain"].flatten(1).mean(1)}
