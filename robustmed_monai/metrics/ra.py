"""Evaluation of anomaly maps: calibrated on healthy images, measured on healthy and abnormal ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from robustmed_monai.inferers.ra import image_score
from robustmed_monai.metrics.anomaly import image_anomaly_metrics
from robustmed_monai.metrics.bootstrap import Estimate, bootstrap_mean
from robustmed_monai.metrics.calibration import calibrate_thresholds
from robustmed_monai.metrics.free_response import free_response
from robustmed_monai.metrics.pixel import PixelAnomalyMetric
from robustmed_monai.metrics.reconstruction import reconstruction_metrics
from robustmed_monai.metrics.region import LesionMetric
from robustmed_monai.metrics.result import Result
from robustmed_monai.metrics.within import ranking_within
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.weights import load_info, load_into, save_weights
from robustmed_monai.visualize.curves import roc_pr_curves, score_histogram
from robustmed_monai.visualize.grids import evenly_spaced
from robustmed_monai.visualize.sheets import anomaly_sheet

Detector = Callable[[torch.Tensor], dict[str, torch.Tensor]]
Batches = Iterable[Mapping[str, Any]]
Figures = dict[str, float | Estimate]

# Pixel false positive rates that thresholds are calibrated at; the last is the operating point, as published.
FPRS = (0.01, 0.02, 0.05)


def load_detector(weights: str, network: nn.Module, inferer: Callable[..., Any]) -> Detector:
    """Images to the anomaly map of a network with these weights, see ``AnomalyMapInferer``."""
    return partial(inferer, network=load_into(network, weights).eval())


def measure_detector(
    detector: Detector,
    validation: Batches,
    test: Batches,
    fprs: Sequence[float] = FPRS,
    device: torch.device | str = "cpu",
) -> Result:
    """Calibrate on healthy validation images, then measure on the test images.

    Args:
        detector: images (B, C, X, Y) in [0, 1] to "anomaly_map" (B, 1, X, Y) and, where it
            reconstructs, "pred".
        validation: batches of healthy images.
        test: batches with `image`, `healthy` (B,), `subject` (B,) where known, and `mask` (B, 1, X, Y) where
            anomalies are outlined. Without any mask there are no pixel figures.
        fprs: pixel false positive rates to calibrate at; the last is the operating point.
        device: where the detector runs.

    Returns:
        Figures named image_*, pixel_*, calibrated_*, recall_*, within_ap, pointing and healthy_*; undefined
        ones are left out.

    Raises:
        DataError: when a set of images is empty.
    """
    seen = _detect(detector, validation, device, "validation")
    threshold = calibrate_thresholds(seen["anomaly_map"], fprs)["thresholds"][str(fprs[-1])]
    found = _detect(detector, test, device, "test")
    scores = image_score(found["anomaly_map"]).numpy()
    labels = (~found["healthy"].bool()).numpy().astype(int)
    subjects = found.get("subject", torch.arange(len(labels))).numpy()
    figures = _image_figures(found["anomaly_map"], labels, subjects)
    if "mask" in found:
        figures |= _pixel_figures(found["anomaly_map"], found["mask"], threshold, subjects)
    if "pred" in found and not labels.all():
        healthy = torch.from_numpy(labels == 0)
        values = reconstruction_metrics(found["pred"][healthy], found["image"][healthy])
        figures |= {
            f"healthy_{k}": bootstrap_mean(values[k], clusters=subjects[labels == 0]) for k in ("l1", "ssim")
        }
    chosen = evenly_spread(labels)
    panels = {k: found[k][chosen] for k in ("image", "pred", "anomaly_map", "mask") if k in found}
    shown = {"scores": scores, "labels": labels, "threshold": threshold, "chosen": chosen, "panels": panels}
    return Result(figures, subjects=subjects, shown=shown)


def calibrate_weights(
    network: nn.Module,
    weights: str,
    inferer: Callable[..., dict[str, torch.Tensor]],
    validation: Batches,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Keep with trained weights the thresholds that applying them needs.

    Args:
        network: network of these weights; it is left with them loaded.
        weights: weights file of the training.
        inferer: anomaly map inferer.
        validation: batches of healthy images; where they have "brain", its pixels alone are counted.
        device: where the network runs.

    Returns:
        The ``info`` now stored with the weights: `calibration` was added.
    """
    info = load_info(weights)
    load_into(network, weights).eval()
    seen = _detect(lambda x: inferer(x, network), validation, device, "validation")
    info["calibration"] = calibrate_thresholds(seen["anomaly_map"], FPRS, seen.get("brain"))
    if idist.get_rank() == 0:
        save_weights(network.state_dict(), weights, info)
    return info


def anomaly_pictures(results: Mapping[str, Sequence[Result]], top: float = 4.0) -> dict[str, Any]:
    """`sheet` and `scores` of the first row, `curves` of all rows, each of the first seed.

    The last two need healthy and abnormal images.

    Args:
        results: row to one result per seed.
        top: upper end of the sheet's colours, in units of the row's threshold.
    """
    shown = {row: seeds[0].shown for row, seeds in results.items()}
    first = next(iter(shown.values()))
    panels, scores, labels = first["panels"], first["scores"], first["labels"]
    titles = [f"{'abnormal' if labels[i] else 'healthy'}\nscore {scores[i]:.4f}" for i in first["chosen"]]
    figures = {
        "sheet": anomaly_sheet(
            panels["image"],
            panels.get("pred"),
            panels["anomaly_map"],
            panels.get("mask"),
            titles=titles,
            vmax=top * first["threshold"] or None,
            threshold=first["threshold"],
        )
    }
    if 0 < labels.sum() < len(labels):
        figures["curves"] = roc_pr_curves({row: (s["scores"], s["labels"]) for row, s in shown.items()})
        figures["scores"] = score_histogram(scores[labels == 0], scores[labels == 1])
    return figures


def evenly_spread(labels: Any, healthy: int = 2, abnormal: int = 6) -> list[int]:
    """Indices of a few healthy and abnormal cases, evenly spread, so that nobody picks the best.

    >>> evenly_spread([0] * 10 + [1] * 60)
    [0, 9, 10, 22, 34, 45, 57, 69]
    """
    kinds = torch.as_tensor(labels)
    counts = ((0, healthy), (1, abnormal))
    return [int(i) for value, n in counts for i in evenly_spaced(torch.nonzero(kinds == value).flatten(), n)]


def _detect(
    detector: Detector, batches: Batches, device: torch.device | str, section: str
) -> dict[str, torch.Tensor]:
    """All images of a section with what the detector says of them, on the CPU."""
    found: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for batch in tqdm(batches, desc=section, leave=False, disable=None):
            image = torch.as_tensor(batch["image"]).to(device)
            case = {"image": image, **detector(image)}
            known = ("mask", "healthy", "brain", "subject")
            case |= {k: torch.as_tensor(batch[k]) for k in known if k in batch}
            for key, value in case.items():
                found.setdefault(key, []).append(value.cpu())
    if not found:
        raise DataError(f"{section}: no images; add a {section} section to the data set.")
    return {k: torch.cat(v) for k, v in found.items()}


def _image_figures(maps: torch.Tensor, labels: np.ndarray, subjects: np.ndarray) -> Figures:
    figures: Figures = dict(image_anomaly_metrics(image_score(maps).numpy(), labels, subjects=subjects))
    for reduction in ("top", "max"):
        other = image_anomaly_metrics(image_score(maps, reduction).numpy(), labels, subjects=subjects)
        figures[f"image_auroc_{reduction}"] = other["image_auroc"]
    return figures


def _pixel_figures(
    maps: torch.Tensor, masks: torch.Tensor, threshold: float, subjects: np.ndarray
) -> Figures:
    pixels, lesions = PixelAnomalyMetric(), LesionMetric(threshold)
    for part, mask in zip(maps.split(64), masks.split(64), strict=True):
        pixels(part, mask)
        lesions(part, mask)
    figures: Figures = {**pixels.aggregate(), **lesions.aggregate()}
    figures["calibrated_dice"] = bootstrap_mean(lesions.dice(), clusters=subjects)
    within = ranking_within(maps, masks)
    figures |= free_response(maps, masks)
    return figures | {k: bootstrap_mean(v, clusters=subjects) for k, v in within.items()}
