"""How well labels lie on each other after registration, and whether the field folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics.meandice import compute_dice
from monai.networks.utils import eval_mode, one_hot
from tqdm import tqdm

from robustmed_monai.metrics.bootstrap import Estimate, bootstrap_mean
from robustmed_monai.metrics.result import Result, Values
from robustmed_monai.metrics.segmentation import TISSUE
from robustmed_monai.networks.registration import load_registration_net
from robustmed_monai.transforms.fields import folding, warp
from robustmed_monai.visualize.grids import image_grid

Register = Callable[[torch.Tensor, torch.Tensor], Mapping[str, torch.Tensor]]
# Columns of the share of voxels where the field folds end like this.
FOLDS = "_folds"
SHOWN_PAIRS = 4


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


def load_register(weights: str, device: torch.device | str = "cpu") -> Register:
    """The network of a weights file of ``bundles/cifl_registration`` as (moving, fixed) to `ddf`."""
    network = load_registration_net(weights).to(device)

    def register(moving: torch.Tensor, fixed: torch.Tensor) -> Mapping[str, torch.Tensor]:
        with eval_mode(network):
            found: Mapping[str, torch.Tensor] = network(moving, fixed, inverse=False)
        return found

    return register


def measure_registration(
    register: Register,
    pairs: Mapping[str, torch.Tensor],
    shown: Mapping[str, torch.Tensor],
    num_classes: int = 4,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
    amp: bool = False,
) -> Result:
    """Register the moving images to the fixed ones in every contrast.

    Args:
        register: (moving, fixed) to `ddf` (B, d, *S).
        pairs: `moving` (N, 1, *S), `moving_label`, `fixed_label`, `moving_subject` and `fixed_subject` (N,).
        shown: contrast to the fixed images in it, see ``transforms.contrasts.shown_contrasts``.
        num_classes: number of classes, the background among them.
        device: where it runs.
        batch_size: pairs at once.
        amp: run it in bfloat16 autocast.

    Returns:
        Per contrast `<contrast>` (mean Dice of all classes), `<contrast>_tissue` (without the background) and
        `<contrast>_folds` (share of voxels with det J <= 0), means over the pairs.
    """
    subjects = torch.stack([pairs["moving_subject"], pairs["fixed_subject"]], dim=1).numpy()
    figures: dict[str, float | Estimate] = {}
    cases: dict[str, Values] = {}
    moved: dict[str, dict[str, torch.Tensor]] = {}
    for contrast, fixed in shown.items():
        ddf = displacements(register, pairs["moving"], fixed, device, batch_size, amp, contrast)
        few = pairs["moving"][:SHOWN_PAIRS]
        moved[contrast] = {"moving": few, "fixed": fixed[: len(few)], "moved": warp(few, ddf[: len(few)])}
        measured = registration_metrics(ddf, pairs["moving_label"], pairs["fixed_label"], num_classes)
        columns = {contrast: "dice", f"{contrast}{TISSUE}": "dice_foreground", f"{contrast}{FOLDS}": "folds"}
        for column, key in columns.items():
            values = measured[key].double().numpy()
            figures[column] = bootstrap_mean(values, clusters=subjects)
            if key != "folds":
                cases[column] = values
    return Result(figures, cases, np.asarray(subjects), moved)


def registration_pictures(results: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """By contrast some pairs, and the moving image as the first seed of each row moves it."""
    figures = {}
    for contrast, first in next(iter(results.values()))[0].shown.items():
        columns = {"moving": first["moving"], "fixed": first["fixed"]}
        columns |= {row: seeds[0].shown[contrast]["moved"] for row, seeds in results.items()}
        # Of volumes the middle slice.
        flat = {k: v if v.ndim == 4 else v[..., v.shape[-1] // 2] for k, v in columns.items()}
        figures[contrast] = image_grid(flat)
    return figures
