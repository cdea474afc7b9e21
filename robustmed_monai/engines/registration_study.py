"""Measures registration by Dice of moved labels, the fixed images shown in several contrasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from tqdm import tqdm

from robustmed_monai.engines.segmentation_study import TISSUE, Values
from robustmed_monai.metrics.bootstrap import bootstrap_mean
from robustmed_monai.metrics.registration import registration_metrics
from robustmed_monai.transforms.fields import warp

Register = Callable[[torch.Tensor, torch.Tensor], Mapping[str, torch.Tensor]]
# Columns of the share of voxels where the field folds end like this.
FOLDS = "_folds"
SHOWN_PAIRS = 4


class RegistrationResult(NamedTuple):
    """Figures by column, their bootstrap intervals over pairs, Dice per pair by column, moved images to show.

    Dice is called `subjects` because ``segmentation_study.paired_tests`` compares rows by it.
    """

    figures: dict[str, float]
    intervals: dict[str, list[float]]
    subjects: dict[str, Values]
    moved: dict[str, torch.Tensor]


def no_registration(moving: torch.Tensor, fixed: torch.Tensor) -> dict[str, torch.Tensor]:
    """A displacement of 0, (B, d, *S): what any registration has to beat."""
    return {"ddf": torch.zeros(len(fixed), fixed.ndim - 2, *fixed.shape[2:], device=fixed.device)}


def displacements(
    register: Register,
    moving: torch.Tensor,
    fixed: torch.Tensor,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    amp: bool = False,
    name: str = "register",
) -> torch.Tensor:
    """Register pairs in batches and return their displacements (N, d, *S) on the CPU.

    Args:
        register: (moving, fixed) to `ddf`.
        moving: (N, 1, *S).
        fixed: (N, 1, *S).
        device: where it runs.
        batch_size: pairs at once.
        amp: run it in bfloat16 autocast.
        name: shown beside the progress bar.
    """
    where, found = torch.device(device), []
    batches = list(zip(moving.split(batch_size), fixed.split(batch_size), strict=True))
    with torch.no_grad(), torch.autocast(where.type, torch.bfloat16, enabled=amp):
        for first, second in tqdm(batches, desc=name, leave=False, disable=None):
            found.append(register(first.to(where), second.to(where))["ddf"].float().cpu())
    return torch.cat(found)


def evaluate_registration(
    register: Register,
    pairs: Mapping[str, torch.Tensor],
    shown: Mapping[str, torch.Tensor],
    num_classes: int = 4,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    amp: bool = False,
    name: str = "register",
) -> RegistrationResult:
    """Register the moving images to the fixed ones in every contrast.

    Args:
        register: (moving, fixed) to `ddf` (B, d, *S).
        pairs: `moving` (N, 1, *S), `moving_label` and `fixed_label`.
        shown: contrast to the fixed images in it, see ``segmentation_study.shown_contrasts``.
        num_classes: number of classes, the background among them.
        device: where it runs.
        batch_size: pairs at once.
        amp: run it in bfloat16 autocast.
        name: shown beside the progress bar.

    Returns:
        Per contrast `<contrast>` (mean Dice of all classes), `<contrast>_tissue` (without the background) and
        `<contrast>_folds` (share of voxels with det J <= 0), means over the pairs; the first few moved
        images per contrast.
    """
    result = RegistrationResult({}, {}, {}, {})
    for contrast, fixed in shown.items():
        ddf = displacements(register, pairs["moving"], fixed, device, batch_size, amp, f"{name}: {contrast}")
        result.moved[contrast] = warp(pairs["moving"][:SHOWN_PAIRS], ddf[:SHOWN_PAIRS])
        measured = registration_metrics(ddf, pairs["moving_label"], pairs["fixed_label"], num_classes)
        columns = {contrast: "dice", f"{contrast}{TISSUE}": "dice_foreground", f"{contrast}{FOLDS}": "folds"}
        for column, key in columns.items():
            values = measured[key].double().numpy()
            estimate = bootstrap_mean(values)
            result.figures[column], result.intervals[column] = estimate["value"], estimate["ci95"]
            if key != "folds":
                result.subjects[column] = values
    return result
