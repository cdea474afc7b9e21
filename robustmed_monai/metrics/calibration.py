"""Thresholds calibrated on healthy validation images: the operating points that need no anomaly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from robustmed_monai.metrics.inputs import Images
from robustmed_monai.metrics.pixel import PixelAnomalyMetric
from robustmed_monai.utils.errors import ConfigError, DataError


class Calibration(TypedDict):
    """Thresholds by false positive rate ("0.05"), with what they rest on; plain values for JSON."""

    pixels: int
    thresholds: dict[str, float]
    fpr: dict[str, float]


def calibrate_thresholds(
    maps: Images | PixelAnomalyMetric,
    fprs: Sequence[float] = (0.01, 0.02, 0.05),
    head: Images | None = None,
) -> Calibration:
    """Thresholds at which given shares of the healthy validation pixels are called anomalous.

    A pixel is anomalous when map >= threshold. The threshold of a rate is the lowest bin edge (relative
    spacing 2**-12) at which the share of pixels, pooled over the images, is at most that rate; on constant
    maps it lies just above the constant. The share is of all pixels, background included, as in RA; with
    ``head`` it is of the pixels of the head.

    Args:
        maps: anomaly maps of healthy images (B, 1, X, Y[, Z]), a list of (1, X, Y[, Z]), or a
            PixelAnomalyMetric that has seen them (then its healthy pixels that were not ignored count).
        fprs: rates between 0 and 1.
        head: masks of the maps' shape, 1 inside the head; only together with maps.

    Returns:
        `pixels` counted, and by rate ("0.05") the `thresholds` and the `fpr` reached, at most the rate.

    Raises:
        ConfigError: for a rate out of range, or `head` given with a metric.
        DataError: when no pixel counts.

    References:
        Bercea et al., "Generalizing unsupervised anomaly detection: towards unbiased pathology screening",
        MIDL 2023, where the threshold is taken at 5 % false positives.

    Example:
        >>> import torch
        >>> calibrate_thresholds(torch.linspace(0, 1, 100).reshape(1, 1, 10, 10))["fpr"]["0.05"]
        0.05
    """
    metric = _seen(maps, head)
    counts = metric.healthy_counts()
    pixels = int(counts.sum())
    if not pixels:
        raise DataError(
            "calibration: no healthy pixel was seen; add the maps of the healthy validation images first."
        )
    above = np.concatenate([np.cumsum(counts[::-1])[::-1], [0.0]])
    result: Calibration = {"pixels": pixels, "thresholds": {}, "fpr": {}}
    for fpr in fprs:
        if not 0 < fpr < 1:
            raise ConfigError(f"fprs: {fpr} is not a rate between 0 and 1; for 5 % write 0.05.")
        first = int(np.argmax(above <= fpr * pixels))
        result["thresholds"][f"{fpr:g}"] = metric.edge(first)
        result["fpr"][f"{fpr:g}"] = float(above[first] / pixels)
    return result


def threshold_at(calibration: Mapping[str, Any] | None, fpr: float) -> float:
    """Threshold of a rate among those that the weights are calibrated at.

    Args:
        calibration: from ``calibrate_thresholds``, as the weights' info keeps it.
        fpr: one of its rates.

    Raises:
        ConfigError: when there is none for this rate.

    Example:
        >>> threshold_at({"thresholds": {"0.05": 0.25}}, 0.05)
        0.25
    """
    thresholds = (calibration or {}).get("thresholds", {})
    if not thresholds:
        raise ConfigError(
            "the weights carry no thresholds (`calibration` in the JSON beside them); take those that "
            "train.json leaves, or add them by metrics.ra.calibrate_weights."
        )
    if f"{fpr:g}" not in thresholds:
        raise ConfigError(
            f"fpr={fpr}: the weights are calibrated at {sorted(thresholds)}; choose one of these."
        )
    return float(thresholds[f"{fpr:g}"])


def map_threshold(info: Mapping[str, Any], anomaly_map: str, fpr: float) -> float | None:
    """Threshold of one of several maps; None where the weights are calibrated for another map, or not at all.

    Args:
        info: what is known of the weights: `calibration`, and the `anomaly_map` ("residual") it is for.
        anomaly_map: the map to cut.
        fpr: see ``threshold_at``.

    Raises:
        ConfigError: when they are calibrated at other rates.
    """
    calibration = info.get("calibration")
    if calibration is None or anomaly_map != info.get("anomaly_map", "residual"):
        return None
    return threshold_at(calibration, fpr)


def _seen(maps: Images | PixelAnomalyMetric, head: Images | None) -> PixelAnomalyMetric:
    if isinstance(maps, PixelAnomalyMetric):
        if head is not None:
            raise ConfigError(
                "head: a metric has its pixels already; give it ignore = 1 - head with the maps."
            )
        return maps
    metric = PixelAnomalyMetric()
    metric(maps, ignore=None if head is None else [1 - h.float() for h in head])
    return metric
