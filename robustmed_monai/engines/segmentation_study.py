"""Measures segmentation networks by Dice on one set of images shown in several contrasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.metrics.meandice import compute_dice
from monai.networks.utils import eval_mode, one_hot
from numpy.typing import NDArray
from torch import nn

from robustmed_monai.metrics.bootstrap import bootstrap_mean
from robustmed_monai.transforms.contrasts import (
    T2_MEANS,
    brain_mask,
    head_classes,
    invert,
    smooth_remap,
    tissue_contrast,
)
from robustmed_monai.utils.errors import DataError

Values = NDArray[np.float64]
# Columns of the mean Dice over the tissues end like this; without it the background counts as a class.
TISSUE = "_tissue"


class SegmentationResult(NamedTuple):
    """Figures by column, their bootstrap intervals over subjects, and Dice per subject by column."""

    figures: dict[str, float]
    intervals: dict[str, list[float]]
    subjects: dict[str, Values]


def shown_contrasts(
    images: torch.Tensor, labels: torch.Tensor, num_classes: int = 4, seed: int = 0
) -> dict[str, torch.Tensor]:
    """The same anatomies in the contrasts of the table.

    Args:
        images: T1 (N, 1, X, Y) in [0, 1].
        labels: (N, 1, X, Y) tissue labels.
        num_classes: labels are below it. The T2-like contrast needs background, CSF, grey and white matter.
        seed: seed of what is drawn.

    Returns:
        `t1`; `inverted`, inside the brain; `inverted_frame`, everywhere; `remapped`, each by a random smooth
        curve; with four classes `t2_like`, painted from the labels and the head around them. (N, 1, X, Y)
        each.
    """
    generator = torch.Generator().manual_seed(seed)
    shown = {
        "t1": images,
        "inverted": invert(images, brain_mask(labels)),
        "inverted_frame": invert(images),
        "remapped": smooth_remap(images, generator),
    }
    if num_classes == 4:
        classes = head_classes(images, labels, num_classes)
        shown["t2_like"] = tissue_contrast(classes, T2_MEANS, generator)
    return shown


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


def evaluate_segmenter(
    network: nn.Module,
    shown: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    subjects: torch.Tensor,
    num_classes: int = 4,
    device: torch.device | str = "cpu",
    amp: bool = False,
) -> SegmentationResult:
    """Segment all contrasts.

    Args:
        network: image to logits.
        shown: contrast to images (N, 1, X, Y), see ``shown_contrasts``.
        labels: (N, 1, X, Y).
        subjects: (N,) whose image it is.
        num_classes: number of classes, the background among them.
        device: where the network runs.
        amp: run it in bfloat16 autocast.

    Returns:
        Per contrast `<contrast>` (mean Dice of all classes) and `<contrast>_tissue` (without the background):
        mean over the slices of each subject, then over the subjects.

    Raises:
        DataError: when there is no image.
    """
    if not len(labels):
        raise DataError("no test image; check --dataset_dir.")
    result = SegmentationResult({}, {}, {})
    owners = np.unique(subjects.numpy(), return_inverse=True)[1]
    for contrast, images in shown.items():
        dice = slice_dice(segment(network, images, device, amp=amp), labels, num_classes).numpy()
        for column, classes in ((contrast, dice), (f"{contrast}{TISSUE}", dice[:, 1:])):
            values = _by_subject(np.nanmean(classes, axis=1), owners)
            estimate = bootstrap_mean(values)
            result.figures[column], result.intervals[column] = estimate["value"], estimate["ci95"]
            result.subjects[column] = values
    return result


def paired_tests(
    results: Mapping[str, Sequence[SegmentationResult]], against: Sequence[str]
) -> list[dict[str, Any]]:
    """Compare rows on the same subjects by Wilcoxon's signed-rank test, two-sided, seeds averaged first.

    Args:
        results: row to one result per seed.
        against: rows that all others are compared with; those that are not there are left out.

    Returns:
        ``{"row", "against", "column", "difference", "p", "n"}`` for each; the difference is the mean over the
        subjects, above 0 when ``row`` is better. Not corrected for the number of tests.
    """
    from scipy.stats import wilcoxon

    means = {
        row: {column: np.mean([r.subjects[column] for r in runs], axis=0) for column in runs[0].subjects}
        for row, runs in results.items()
    }
    tests = []
    for other in (row for row in against if row in means):
        for row in (row for row in means if row != other):
            for column, values in means[row].items():
                difference = values - means[other][column]
                p = float(wilcoxon(difference).pvalue) if np.any(difference) else 1.0
                test: dict[str, Any] = {"row": row, "against": other, "column": column}
                tests.append({**test, "difference": float(difference.mean()), "p": p, "n": len(difference)})
    return tests


def class_maps(output: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted and true classes of an evaluator's output, for MONAI's ``MeanDice`` with ``num_classes``."""
    return output["pred"].argmax(1, keepdim=True), output["label"]


def _by_subject(values: Values, owners: NDArray[np.intp]) -> Values:
    found: Values = np.bincount(owners, weights=values) / np.bincount(owners)
    return found
