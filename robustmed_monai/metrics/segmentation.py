"""Measures segmentation networks by Dice on one set of images shown in several contrasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics.meandice import compute_dice
from monai.networks.utils import eval_mode, one_hot
from torch import nn

from robustmed_monai.metrics.bootstrap import Estimate, bootstrap_mean, mean_by_subject
from robustmed_monai.metrics.result import Result, Values
from robustmed_monai.utils.errors import DataError
from robustmed_monai.visualize.grids import image_grid

# Columns of the mean Dice over the tissues end like this; without it the background counts as a class.
TISSUE = "_tissue"


def segment(
    network: nn.Module,
    images: torch.Tensor,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    amp: bool = False,
) -> torch.Tensor:
    """Most likely class of each voxel.

    Args:
        network: image to logits (B, classes, *spatial).
        images: (N, 1, *spatial).
        device: where the network runs.
        batch_size: images at once.
        amp: run it in bfloat16 autocast.

    Returns:
        (N, 1, *spatial) uint8 on the CPU.
    """
    where, found = torch.device(device), []
    with torch.no_grad(), eval_mode(network), torch.autocast(where.type, torch.bfloat16, enabled=amp):
        for part in images.split(batch_size):
            found.append(network(part.to(where)).argmax(1, keepdim=True).to(torch.uint8).cpu())
    return torch.cat(found)


def slice_dice(predicted: torch.Tensor, labels: torch.Tensor, num_classes: int = 4) -> torch.Tensor:
    """Dice of each class in each image by MONAI; NaN where the labels have none of a class.

    Args:
        predicted: (N, 1, *spatial) classes.
        labels: (N, 1, *spatial) classes.
        num_classes: number of classes, the background among them.

    Returns:
        (N, num_classes).
    """
    parts = zip(predicted.split(64), labels.split(64), strict=True)
    rows = [
        compute_dice(one_hot(p, num_classes), one_hot(t, num_classes), include_background=True)
        for p, t in parts
    ]
    return torch.cat(rows)


def measure_segmenter(
    network: nn.Module,
    shown: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    subjects: torch.Tensor,
    num_classes: int = 4,
    device: torch.device | str = "cpu",
    amp: bool = False,
) -> Result:
    """Segment all contrasts.

    Args:
        network: image to logits.
        shown: contrast to images (N, 1, X, Y), see ``transforms.contrasts.shown_contrasts``.
        labels: (N, 1, X, Y).
        subjects: (N,) whose image it is.
        num_classes: number of classes, the background among them.
        device: where the network runs.
        amp: run it in bfloat16 autocast.

    Returns:
        Per contrast `<contrast>` (mean Dice of all classes) and `<contrast>_tissue` (without the background):
        mean over the slices of each subject that show any of these classes, then over the subjects.

    Raises:
        DataError: when there is no image.
    """
    if not len(labels):
        raise DataError("no test image; check --dataset_dir.")
    network.to(device)
    owners = np.unique(subjects.numpy(), return_inverse=True)[1]
    figures: dict[str, float | Estimate] = {}
    cases: dict[str, Values] = {}
    middle = len(labels) // 2
    examples = []
    for contrast, images in shown.items():
        found = segment(network, images, device, amp=amp)
        examples.append(torch.cat([images[middle], found[middle] / (num_classes - 1)]))
        dice = slice_dice(found, labels, num_classes)
        for column, classes in ((contrast, dice), (f"{contrast}{TISSUE}", dice[:, 1:])):
            cases[column] = mean_by_subject(classes.nanmean(1).numpy(), owners)
            figures[column] = bootstrap_mean(cases[column])
    truth = labels[middle].float() / (num_classes - 1)
    pictures = {"contrasts": list(shown), "labels": truth, "examples": torch.stack(examples)}
    return Result(figures, cases, np.arange(owners.max() + 1), pictures)


def segmentation_pictures(results: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """One test image in every contrast, its labels, and what the first seed of each row makes of it."""
    first = next(iter(results.values()))[0].shown
    image, truth = first["examples"][:, :1], first["labels"].expand(len(first["examples"]), 1, -1, -1)
    columns = {"image": image, "labels": truth}
    columns |= {row: seeds[0].shown["examples"][:, 1:] for row, seeds in results.items()}
    return {"contrasts": image_grid(columns, first["contrasts"])}


def class_maps(output: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted and true classes of an evaluator's output, for MONAI's ``MeanDice`` with ``num_classes``."""
    return output["pred"].argmax(1, keepdim=True), output["label"]
