"""Evaluation of VAEs and their controls: reconstruction of healthy slices, detection of abnormal ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.metrics.anomaly import image_anomaly_metrics
from robustmed_monai.metrics.bootstrap import Estimate, bootstrap_mean
from robustmed_monai.metrics.pixel import PixelAnomalyMetric
from robustmed_monai.metrics.result import Result
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.weights import load_into
from robustmed_monai.visualize.curves import roc_pr_curves
from robustmed_monai.visualize.grids import evenly_spaced, image_grid
from robustmed_monai.visualize.latents import latent_pictures

Scores = dict[str, torch.Tensor]
Figures = dict[str, float | Estimate]
_CURVES = {"image_auroc": "auroc", "image_ap": "ap"}
_SHOWN = 6


@dataclass(frozen=True)
class NetworkScorer:
    """Applies a network by an ElboInferer to the `image` of a batch."""

    network: nn.Module
    inferer: Callable[..., Mapping[str, torch.Tensor]]
    device: torch.device | str = "cpu"

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> Scores:
        """Return "score_<name>" (B,), "map_<name>" (B, 1, X, Y), "pred" and, where there are, its parts."""
        return dict(self.inferer(batch["image"].to(self.device), self.network))


def load_scorer(
    weights: str,
    network: nn.Module,
    inferer: Callable[..., Mapping[str, torch.Tensor]],
    device: torch.device | str = "cpu",
) -> NetworkScorer:
    """A network with these weights as a scorer."""
    return NetworkScorer(load_into(network, weights).to(device).eval(), inferer, device)


def measure_scorer(
    scorer: Callable[[Mapping[str, torch.Tensor]], Scores],
    healthy: TensorDataset,
    tests: Mapping[str, TensorDataset],
    clip: float = 1.5,
) -> Result:
    """Score all slices, of networks and controls alike.

    Args:
        scorer: batch to "score_<name>" (B,), "map_<name>" (B, 1, X, Y) and, if it reconstructs, "pred".
        healthy: from ``brain_dataset``; its healthy slices give the reconstruction error.
        tests: name to test set, from ``brain_dataset``.
        clip: bound of the z-scores, for the pictures.

    Returns:
        `mse` of healthy slices in the units of the input; the figures of ``detection_figures`` for each test
        set; `mean_auroc` and `mean_ap` over the sets.

    Raises:
        DataError: when a test set has healthy or abnormal slices alone.
    """
    figures: Figures = {}
    found = {name: score_all(scorer, data) for name, data in tests.items()}
    known = score_all(scorer, healthy)
    if "pred" in known:
        kept = healthy.tensors["healthy"]
        squares = (known["pred"] - healthy.tensors["image"]).square().flatten(1).mean(1).double()
        figures["mse"] = bootstrap_mean(squares[kept], clusters=_subjects(healthy)[kept.numpy()])
    for name, data in tests.items():
        figures |= detection_figures(found[name], data, name)
    for curve in _CURVES.values():
        main = [figures[f"{name}_{curve}"] for name in tests]
        figures[f"mean_{curve}"] = float(np.mean([f.value if isinstance(f, Estimate) else f for f in main]))
    shown = {name: _shown(found[name], data, clip) for name, data in tests.items()}
    codes = {}
    if isinstance(scorer, NetworkScorer):
        titles = latent_pictures(scorer.network, healthy.tensors["image"][:1].to(scorer.device))
        codes = {t: {k: _column(v.cpu(), clip) for k, v in parts.items()} for t, parts in titles.items()}
    return Result(figures, shown={"tests": shown, "codes": codes})


def score_all(
    scorer: Callable[[Mapping[str, torch.Tensor]], Scores], data: TensorDataset, batch_size: int = 64
) -> Scores:
    """Scores and maps of all slices, on the CPU."""
    parts = [
        scorer(data.__getitems__(range(start, min(start + batch_size, len(data)))))
        for start in range(0, len(data), batch_size)
    ]
    return {key: torch.cat([part[key].detach().cpu() for part in parts]) for key in parts[0]}


def detection_figures(found: Scores, data: TensorDataset, name: str) -> Figures:
    """Figures of one scorer on one test set.

    Args:
        found: from ``score_all``.
        data: the test set: `healthy`, `mask`, and `subject` where known.
        name: of the test set; the figures' names begin with it.

    Returns:
        ``<name>_auroc`` and ``<name>_ap`` of "score_elbo", the same with ``_<score>`` for other scores, and
        ``<name>_pixel_ap_<map>`` of each map by its size.

    Raises:
        DataError: when all slices are healthy, or none is.
    """
    labels = ~data.tensors["healthy"]
    if labels.all() or not labels.any():
        raise DataError(f"{name}: {int(labels.sum())} of {len(labels)} slices are abnormal; give both kinds.")
    figures: Figures = {}
    for key in (k for k in found if k.startswith("score_")):
        suffix = "" if key == "score_elbo" else f"_{key.removeprefix('score_')}"
        metrics = image_anomaly_metrics(found[key], labels.long(), subjects=_subjects(data))
        figures |= {f"{name}_{curve}{suffix}": metrics[key_] for key_, curve in _CURVES.items()}
    for key in (k for k in found if k.startswith("map_")):
        pixels = PixelAnomalyMetric()
        for maps, mask in zip(found[key].split(64), data.tensors["mask"].split(64), strict=True):
            pixels(maps.abs().contiguous(), mask)
        figures[f"{name}_pixel_ap_{key.removeprefix('map_')}"] = pixels.aggregate()["pixel_ap"]
    return figures


def vae_pictures(results: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """For each test set curves of all rows and components of some abnormal slices; codes of each network."""
    shown = {row: seeds[0].shown for row, seeds in results.items()}
    first = next(iter(shown.values()))["tests"]
    figures = {}
    for name, seen in first.items():
        curves = {row: (s["tests"][name]["scores"], seen["labels"]) for row, s in shown.items()}
        figures[f"{name}_curves"] = roc_pr_curves(curves)
        columns = {"input": seen["input"]}
        for row, s in shown.items():
            columns |= {f"{row}{part}": image for part, image in s["tests"][name]["parts"].items()}
        figures[f"{name}_components"] = image_grid({**columns, "mask": seen["mask"]})
    for row, s in shown.items():
        for title, columns in s["codes"].items():
            figures[f"{title}_{row.lower().replace(' ', '_')}"] = image_grid(columns)
    return figures


def _shown(found: Scores, data: TensorDataset, clip: float) -> dict[str, Any]:
    labels = (~data.tensors["healthy"]).long()
    chosen = evenly_spaced(torch.nonzero(labels).flatten(), _SHOWN)
    names = {"pred": "", "high": ": high", "low": ": low"}
    kept = [k for k in names if k in found] if {"high", "low"} <= found.keys() else ["pred"]
    return {
        "scores": found["score_elbo"].numpy(),
        "labels": labels.numpy(),
        "input": _column(data.tensors["image"][chosen], clip),
        "parts": {names[k]: _column(found[k][chosen], clip) for k in kept if k in found},
        "mask": _column(data.tensors["mask"][chosen] * 2 - 1, 1.0),
    }


def _subjects(data: TensorDataset) -> Any:
    return data.tensors.get("subject", torch.arange(len(data))).numpy()


def _column(images: torch.Tensor, clip: float) -> torch.Tensor:
    """Images (N, C, X, Y) one below the other, (1, C, X, N Y) in [0, 1]; matplotlib is slow with panels."""
    return ((torch.cat(list(images), dim=2) + clip) / (2 * clip)).clamp(0, 1)[None]
