"""Evaluates detectors on healthy and abnormal images and sums them up over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from robustmed_monai.inferers.anomaly_map import image_score
from robustmed_monai.inferers.familiarity import image_reference
from robustmed_monai.metrics import (
    LesionMetric,
    PixelAnomalyMetric,
    calibrate_thresholds,
    image_anomaly_metrics,
    reconstruction_metrics,
)
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
    pixels, lesions = PixelAnomalyMetric(), None
    seen = _detect(detector, validation, device, f"{name}: calibrate")
    if not seen:
        raise DataError("validation: no healthy images to calibrate on; add a validation section.")
    calibration = calibrate_thresholds(torch.cat([s["anomaly_map"] for s in seen]), FPRS)
    threshold = calibration["thresholds"][str(FPRS[-1])]
    cases = _detect(detector, test, device, f"{name}: test")
    if not cases:
        raise DataError("test: no images; add a test section.")
    outlined = any("mask" in case for case in cases)
    if outlined:
        lesions = LesionMetric(threshold)
        for case in cases:
            mask = case.get("mask", torch.zeros_like(case["anomaly_map"]))
            pixels(case["anomaly_map"], mask)
            lesions(case["anomaly_map"], mask)
    healthy = torch.cat([c["healthy"] for c in cases]).bool()
    labels = (~healthy).numpy().astype(int)
    maps = torch.cat([c["anomaly_map"] for c in cases])
    scores = image_score(maps).numpy()
    image = image_anomaly_metrics(scores, labels)
    figures = {k: v["value"] for k, v in image.items()}
    for reduction in ("top", "max"):
        figures[f"image_auroc_{reduction}"] = image_anomaly_metrics(
            image_score(maps, reduction).numpy(), labels, n_resamples=2
        )["image_auroc"]["value"]
    if lesions is not None:
        figures |= pixels.aggregate() | lesions.aggregate()
    figures |= _healthy_figures(cases)
    intervals = {k: v["ci95"] for k, v in image.items()}
    if "calibrated_dice_low" in figures:
        intervals["calibrated_dice"] = [
            figures.pop("calibrated_dice_low"),
            figures.pop("calibrated_dice_high"),
        ]
    figures = {k: v for k, v in figures.items() if math.isfinite(v)}
    keep = {k: torch.cat([c[k] for c in cases]) for k in ("image", "pred", "anomaly_map")}
    if outlined:
        keep["mask"] = torch.cat([c.get("mask", torch.zeros_like(c["anomaly_map"])) for c in cases])
    return DetectorResult(figures, intervals, dict(calibration), scores, labels, keep)


def calibrate_weights(
    network: torch.nn.Module,
    weights: str,
    inferer: Callable[..., dict[str, torch.Tensor]],
    training: Any,
    validation: Batches,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Keep with trained weights what applying them needs: thresholds, and what images they know.

    Args:
        network: network of these weights; it is left with them loaded.
        weights: weights file of the training.
        inferer: anomaly map inferer.
        training: training data as a SliceDataset.
        validation: batches of healthy images.
        device: where the network runs.

    Returns:
        The ``info`` now stored with the weights: `calibration` and `reference` were added.
    """
    info = load_info(weights)
    load_into(network, weights).eval()
    seen = _detect(lambda x: inferer(x, network), validation, device, "calibrate")
    maps = torch.cat([s["anomaly_map"] for s in seen])
    info["calibration"] = calibrate_thresholds(maps, FPRS)
    info["reference"] = image_reference(training.tensors["image"])
    info["healthy_score"] = {"mean": float(maps.mean()), "p95": float(image_score(maps).quantile(0.95))}
    save_weights(network.state_dict(), weights, info)
    return info


def _detect(
    detector: Detector, batches: Batches, device: torch.device | str, title: str
) -> list[dict[str, torch.Tensor]]:
    found = []
    with torch.no_grad():
        for batch in tqdm(batches, desc=title, leave=False, disable=None):
            image = torch.as_tensor(batch["image"]).to(device)
            case = {"image": image, **detector(image)}
            case |= {k: torch.as_tensor(batch[k]) for k in ("mask", "healthy") if k in batch}
            found.append({k: v.cpu() for k, v in case.items()})
    return found


def _healthy_figures(cases: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float]:
    kept = [
        (c["pred"][c["healthy"].bool()], c["image"][c["healthy"].bool()]) for c in cases if c["healthy"].any()
    ]
    if not kept:
        return {}
    values = [reconstruction_metrics(pred, image) for pred, image in kept]
    return {f"healthy_{k}": float(torch.cat([v[k] for v in values]).mean()) for k in ("l1", "ssim")}


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
