"""How well labels lie on each other after registration, and whether the field folds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.metrics.meandice import compute_dice
from monai.networks.utils import one_hot

from robustmed_monai.transforms.fields import folding, warp


def registration_metrics(
    ddf: torch.Tensor, moving_label: torch.Tensor, fixed_label: torch.Tensor, num_classes: int
) -> dict[str, torch.Tensor]:
    """Dice of moved labels and share of folds, per pair.

    Args:
        ddf: (B, d, *S) displacement in voxels.
        moving_label: (B, 1, *S) classes 0 (background) to ``num_classes - 1``; moved by the nearest voxel.
        fixed_label: (B, 1, *S).
        num_classes: number of classes.

    Returns:
        `dice` (B,) mean over all classes that the fixed label has, `dice_foreground` (B,) without the
        background, `folds` (B,) share of voxels with det J <= 0.

    Example:
        >>> label = torch.tensor([[0, 1], [1, 1]])[None, None]
        >>> found = registration_metrics(torch.zeros(1, 2, 2, 2), label, label, 2)
        >>> {k: v.item() for k, v in found.items()}
        {'dice': 1.0, 'dice_foreground': 1.0, 'folds': 0.0}
    """
    moved = warp(moving_label, ddf, mode="nearest")
    dice = compute_dice(one_hot(moved, num_classes), one_hot(fixed_label, num_classes))
    return {"dice": dice.nanmean(1), "dice_foreground": dice[:, 1:].nanmean(1), "folds": folding(ddf)}


def moved_label_dice(pred: Mapping[str, torch.Tensor], label: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Mean Dice over classes and pairs, with background; for ``ignite.metrics.Loss``.

    Args:
        pred: `ddf` (B, d, *S), as RegistrationInferer returns it.
        label: (B, 2, *S): labels of moving and fixed image.
        num_classes: number of classes.
    """
    moving, fixed = label.split(1, dim=1)
    return registration_metrics(pred["ddf"], moving, fixed, num_classes)["dice"].mean()


def share_of_folds(pred: Mapping[str, torch.Tensor], label: torch.Tensor) -> torch.Tensor:
    """Mean share of voxels with det J <= 0 over the pairs; for ``ignite.metrics.Loss``.

    Args:
        pred: `ddf` (B, d, *S), as RegistrationInferer returns it.
        label: not used.
    """
    return folding(pred["ddf"]).mean()
