"""Evaluates classifiers and RotNets at every rotation of the test images, not at one random draw."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.metrics.classification import classification_metrics
from robustmed_monai.metrics.risc import angle_error, rotation_accuracy
from robustmed_monai.transforms.rotation import rotate
from robustmed_monai.utils.errors import DataError


class RotationResult(NamedTuple):
    """Figures by column, their bootstrap intervals, and what they were made of.

    ``found`` is (K, N, classes) probabilities of a classifier, or (K, N) rotation classes of a RotNet.
    """

    figures: dict[str, float]
    intervals: dict[str, list[float]]
    found: torch.Tensor


def evaluate_classifier(
    inferer: RotationCorrectionInferer,
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    device: torch.device | str = "cpu",
    oracle: bool = False,
    batch_size: int = 256,
) -> RotationResult:
    """Classify all rotations of all test images.

    Args:
        inferer: how the classifier is applied; it also says how many rotations there are.
        network: classifier, image to logits.
        images: upright test images (N, C, S, S).
        labels: (N,) their classes.
        device: where the networks run.
        oracle: undo the true rotation before the inferer sees the image: what a perfect RotNet would give.
        batch_size: images that are turned at once.

    Returns:
        Figures of ``rotation_accuracy``, `cross_entropy` and `auc` (MedMNIST's) over
        all rotations, `abstained` (share) where the inferer may abstain.
    """
    _check_not_empty(images)
    count, mode = inferer.num_rotations, inferer.mode
    outputs, abstained = [], []
    for index in range(count):
        parts = []
        for part in images.split(batch_size):
            view = rotate(part.to(device), index, count, mode)
            answer = inferer(rotate(view, -index, count, mode) if oracle else view, network)
            parts.append(answer["pred"].cpu())
            abstained.append(answer.get("abstained", torch.zeros(1, dtype=torch.bool)).float().cpu())
        outputs.append(torch.cat(parts))
    found = torch.stack(outputs)
    estimates = rotation_accuracy((found.argmax(2) == labels.cpu()).numpy())
    figures = {k: v.value for k, v in estimates.items()}
    repeated = labels.cpu().repeat(count)
    figures["cross_entropy"] = float(F.nll_loss(found.flatten(0, 1).clamp(min=1e-12).log(), repeated))
    if len(labels.unique()) == found.shape[2]:
        figures["auc"] = classification_metrics(found.flatten(0, 1).numpy(), repeated.numpy())["auc"]
    if inferer.min_confidence > 0:
        figures["abstained"] = float(torch.cat(abstained).mean())
    figures = {k: v for k, v in figures.items() if math.isfinite(v)}
    return RotationResult(figures, {k: v.ci95 for k, v in estimates.items()}, found)


def evaluate_rotnet(
    inferer: RotationCorrectionInferer,
    images: torch.Tensor,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
) -> RotationResult:
    """Ask a RotNet for the rotation of all rotations of all test images.

    Args:
        inferer: holds the RotNet and how it is asked.
        images: upright test images (N, C, S, S).
        device: where the network runs.
        batch_size: images that are turned at once.

    Returns:
        Figures of ``rotation_accuracy`` and `angle_error` in degrees.
    """
    _check_not_empty(images)
    count = inferer.num_rotations
    rows = []
    for index in range(count):
        views = [rotate(p.to(device), index, count, inferer.mode) for p in images.split(batch_size)]
        rows.append(torch.cat([inferer.posterior(view).argmax(1).cpu() for view in views]))
    found = torch.stack(rows)
    estimates = rotation_accuracy((found == torch.arange(count)[:, None]).numpy())
    figures = {k: v.value for k, v in estimates.items()} | {"angle_error": angle_error(found)}
    return RotationResult(figures, {k: v.ci95 for k, v in estimates.items()}, found)


def _check_not_empty(images: torch.Tensor) -> None:
    if not len(images):
        raise DataError("no test image; check --dataset_dir.")
