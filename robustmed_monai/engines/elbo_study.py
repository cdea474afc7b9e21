"""Measures scores and pixel maps of slices, of models and of controls alike, and what a training leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.metrics import PixelAnomalyMetric, image_anomaly_metrics
from robustmed_monai.utils.errors import DataError

Found = dict[str, torch.Tensor]
Judge = Callable[[Mapping[str, torch.Tensor]], Found]
CURVES = ("image_auroc", "image_ap")


def judge_all(judge: Judge, data: TensorDataset, batch_size: int = 64) -> Found:
    """Ask for scores and maps of all slices.

    Args:
        judge: batch to "score_<name>" (B,), "map_<name>" (B, 1, X, Y) and, if it has one, "pred".
        data: from ``brain_dataset``.
        batch_size: slices at once.

    Returns:
        What it says of all slices, on the CPU.
    """
    parts = [
        judge(data.__getitems__(range(start, min(start + batch_size, len(data)))))
        for start in range(0, len(data), batch_size)
    ]
    return {key: torch.cat([part[key].detach().cpu() for part in parts]) for key in parts[0]}


def network_judge(network: nn.Module, inferer: Any, device: torch.device | str = "cpu") -> Judge:
    """A judge that applies a network by an ElboInferer."""
    return lambda batch: dict(inferer(batch["image"].to(device), network))


def control_judges(clip: float = 1.5) -> dict[str, Judge]:
    """Judges that learn nothing, what a model must beat to have shown anything.

    Args:
        clip: bound of the z-scores, the value of the background.

    Returns:
        By name: "mean intensity" of the brain (its map: the image), "slice position" (nearness to the middle
        of the volume), "brain area" (share of the slice).
    """

    def intensity(batch: Mapping[str, torch.Tensor]) -> Found:
        image, brain = batch["image"], batch["brain"]
        inside = brain.flatten(1).sum(1).clamp(min=1)
        mean = (image * brain).flatten(1).sum(1) / inside
        return {"score_elbo": mean, "map_intensity": (image + clip).clamp(min=0)}

    return {
        "mean intensity": intensity,
        "slice position": lambda batch: {"score_elbo": -(batch["position"] - 0.5).abs()},
        "brain area": lambda batch: {"score_elbo": batch["brain"].flatten(1).mean(1)},
    }


def measure(found: Found, data: TensorDataset, name: str) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Figures of one judge on one test set.

    Args:
        found: from ``judge_all``.
        data: the test set: `healthy`, `mask`.
        name: of the test set; the figures' names begin with it.

    Returns:
        Figures and 95 % intervals (bootstrap over slices): ``<name>_auroc`` and ``<name>_ap`` of
        "score_elbo", the same with ``_<score>`` for other scores, and ``<name>_pixel_ap_<map>`` of each map
        by its size; those that are undefined are left out.

    Raises:
        DataError: when all slices are healthy, or none is.
    """
    labels = ~data.tensors["healthy"]
    if labels.all() or not labels.any():
        raise DataError(f"{name}: {int(labels.sum())} of {len(labels)} slices are abnormal; give both kinds.")
    figures: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    for key in (k for k in found if k.startswith("score_")):
        main = key == "score_elbo"
        suffix = "" if main else f"_{key.removeprefix('score_')}"
        metrics = image_anomaly_metrics(found[key], labels.long(), n_resamples=1000 if main else 2)
        for curve in CURVES:
            column = f"{name}_{curve.removeprefix('image_')}{suffix}"
            figures[column] = metrics[curve]["value"]
            if main:
                intervals[column] = metrics[curve]["ci95"]
    for key in (k for k in found if k.startswith("map_")):
        pixels = PixelAnomalyMetric()
        for maps, mask in zip(found[key].split(64), data.tensors["mask"].split(64), strict=True):
            pixels(maps.abs().contiguous(), mask)
        figures[f"{name}_pixel_ap_{key.removeprefix('map_')}"] = pixels.aggregate()["pixel_ap"]
    return {k: v for k, v in figures.items() if math.isfinite(v)}, intervals


def reconstruction_error(found: Found, data: TensorDataset) -> float:
    """Mean squared error over all healthy slices, in the units of the input."""
    healthy = data.tensors["healthy"]
    squares = (found["pred"][healthy] - data.tensors["image"][healthy]).square()
    return float(squares.mean())
