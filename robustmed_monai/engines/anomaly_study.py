"""Evaluates detectors on healthy and abnormal images and sums them up over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ignite.distributed as idist
import numpy as np
import torch
from tqdm import tqdm

from robustmed_monai.inferers.ra import image_score
from robustmed_monai.metrics import (
    LesionMetric,
    PixelAnomalyMetric,
    calibrate_thresholds,
    image_anomaly_metrics,
    reconstruction_metrics,
)
from robustmed_monai.transforms.slice_selection import training_statistics
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.weights import load_info, load_into, save_weights

Detector = Callable[[torch.Tensor], dict[str, torch.Tensor]]
Batches = Iterable[Mapping[str, Any]]

# The pixel false positive rates that thresholds are calibrated at; the operating point is the last, as
# published.
FPRS = (0.01, 0.02, 0.05)


class DetectorResult(NamedTuple):
    """Figures by column, bootstrap intervals where there are any, and what pictures are made of."""

    figures: dict[str, float]
    intervals: dict[str, list[float]]
    calibration: dict[str, Any]
    scores: np.ndarray
    labels: np.ndarray
    cases: dict[str, torch.Tensor]


def evaluate_detector(
    detector: Detector,
    validation: Batches,
    test: Batches,
    device: torch.device | str = "cpu",
    name: str = "detector",
) -> DetectorResult:
    """Calibrate on healthy validation images, then measure on the test images.

    Args:
        detector: images (B, C, X, Y) in [0, 1] to "pred" and "anomaly_map" (B, 1, X, Y).
        validation: batches of healthy images.
        test: batches with `image`, `healthy` (B,) and `mask` (B, 1, X, Y) where anomalies are outlined.
            Without any mask there are no pixel figures.
        device: where the detector runs.
        name: shown beside the progress bar.

    Returns:
        Figures named image_*, pixel_*, calibrated_*, recall_* and healthy_*; a figure that cannot be had is
        left out.

    Raises:
        DataError: when a set of images is empty.
    """
    seen = _detect(detector, validation, device, f"{name}: calibrate", "validation")
    calibration = calibrate_thresholds(seen["anomaly_map"], FPRS)
    found = _detect(detector, test, device, f"{name}: test", "test")
    scores = image_score(found["anomaly_map"]).numpy()
    labels = (~found["healthy"].bool()).numpy().astype(int)
    figures, intervals = _image_figures(found["anomaly_map"], labels)
    if "mask" in found:
        figures |= _pixel_figures(
            found["anomaly_map"], found["mask"], calibration["thresholds"][str(FPRS[-1])]
        )
        intervals["calibrated_dice"] = [figures.pop(f"calibrated_dice_{side}") for side in ("low", "high")]
    figures |= _healthy_figures(found)
    figures = {k: v for k, v in figures.items() if math.isfinite(v)}
    return DetectorResult(figures, intervals, dict(calibration), scores, labels, found)


def calibrate_weights(
    network: torch.nn.Module,
    weights: str,
    inferer: Callable[..., dict[str, torch.Tensor]],
    training: Any | None,
    validation: Batches,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Keep with trained weights what applying them needs: thresholds, and what images they know.

    Args:
        network: network of these weights; it is left with them loaded.
        weights: weights file of the training.
        inferer: anomaly map inferer.
        training: training data as a SliceDataset; None where the info has its `reference` already.
        validation: batches of healthy images; where they have "brain", its pixels alone are counted.
        device: where the network runs.

    Returns:
        The ``info`` now stored with the weights: `calibration` and, of training data, `reference` were added.
    """
    info = load_info(weights)
    load_into(network, weights).eval()
    seen = _detect(lambda x: inferer(x, network), validation, device, "calibrate", "validation")
    info["calibration"] = calibrate_thresholds(seen["anomaly_map"], FPRS, seen.get("brain"))
    if training is not None:
        info["training_statistics"] = training_statistics(training.tensors["image"])
    if idist.get_rank() == 0:
        save_weights(network.state_dict(), weights, info)
    return info


def _detect(
    detector: Detector, batches: Batches, device: torch.device | str, title: str, section: str
) -> dict[str, torch.Tensor]:
    """All images of a section with what the detector says of them, on the CPU."""
    found: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for batch in tqdm(batches, desc=title, leave=False, disable=None):
            image = torch.as_tensor(batch["image"]).to(device)
            case = {"image": image, **detector(image)}
            case |= {k: torch.as_tensor(batch[k]) for k in ("mask", "healthy", "brain") if k in batch}
            for key, value in case.items():
                found.setdefault(key, []).append(value.cpu())
    if not found:
        raise DataError(f"{section}: no images; add a {section} section to the data set.")
    return {k: torch.cat(v) for k, v in found.items()}


def _image_figures(maps: torch.Tensor, labels: np.ndarray) -> tuple[dict[str, float], dict[str, list[float]]]:
    metrics = image_anomaly_metrics(image_score(maps).numpy(), labels)
    figures = {k: v["value"] for k, v in metrics.items()}
    for reduction in ("top", "max"):
        other = image_anomaly_metrics(image_score(maps, reduction).numpy(), labels, n_resamples=2)
        figures[f"image_auroc_{reduction}"] = other["image_auroc"]["value"]
    return figures, {k: v["ci95"] for k, v in metrics.items()}


def _pixel_figures(maps: torch.Tensor, masks: torch.Tensor, threshold: float) -> dict[str, float]:
    pixels, lesions = PixelAnomalyMetric(), LesionMetric(threshold)
    for part, mask in zip(maps.split(64), masks.split(64), strict=True):
        pixels(part, mask)
        lesions(part, mask)
    return {**pixels.aggregate(), **lesions.aggregate()}


def _healthy_figures(found: Mapping[str, torch.Tensor]) -> dict[str, float]:
    healthy = found["healthy"].bool()
    if not healthy.any():
        return {}
    values = reconstruction_metrics(found["pred"][healthy], found["image"][healthy])
    return {f"healthy_{k}": float(values[k].mean()) for k in ("l1", "ssim")}


def summarize(results: Mapping[str, Sequence[DetectorResult]]) -> list[dict[str, Any]]:
    """Rows of a results file: mean and spread over the runs (seeds) of each detector.

    Args:
        results: row name to one result per seed.

    Returns:
        One ``{"row", "column", "mean", "std", "n"[, "ci95"]}`` per figure. ``std`` is the sample standard
        deviation over seeds (0 for one), ``ci95`` the mean of the seeds' bootstrap intervals over images.
    """
    rows = []
    for name, runs in results.items():
        for column in runs[0].figures:
            values = [r.figures[column] for r in runs if column in r.figures]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            row: dict[str, Any] = {
                "row": name,
                "column": column,
                "mean": float(np.mean(values)),
                "std": spread,
            }
            row["n"] = len(values)
            if column in runs[0].intervals:
                bounds = np.mean([r.intervals[column] for r in runs], axis=0)
                if np.isfinite(bounds).all():
                    row["ci95"] = [float(b) for b in bounds]
            rows.append(row)
    return rows
