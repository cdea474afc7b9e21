"""Figures of a model on one condition of a stress test, each with its bootstrap resamples over subjects."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.networks.utils import one_hot

from robustmed_monai.metrics.bootstrap import Estimate, bootstrap_mean, resample_counts
from robustmed_monai.metrics.segmentation import slice_dice
from robustmed_monai.utils.errors import DataError

Array = npt.NDArray[np.float64]

BINS = 15  # of the calibration error
DROP = 0.05  # a fall of the main figure that counts as one


def classification_figures(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    subjects: npt.ArrayLike | None = None,
    n_resamples: int = 1000,
) -> dict[str, Estimate]:
    """Accuracy, AUC and calibration error of a classifier with their resamples over subjects.

    Args:
        probabilities: (N, K), K at least 2.
        labels: (N,) classes 0 to K - 1.
        subjects: (N,) whose image it is; None takes every image for a subject of its own.
        n_resamples: bootstrap resamples.

    Returns:
        `accuracy`, `auc` (two classes: of the second; more: the mean of one against the rest; absent unless
        all classes have cases), `ece`: expected calibration error of the most probable class in 15 bins.

    Raises:
        DataError: when shapes do not fit or a value is not finite.

    Source: Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, for the last.

    Example:
        >>> found = classification_figures([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 1])
        >>> [round(found[name].value, 3) for name in ("accuracy", "auc", "ece")]
        [0.667, 1.0, 0.3]
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    if p.ndim != 2 or p.shape[1] < 2 or y.shape != p.shape[:1] or not len(y) or not np.isfinite(p).all():
        raise DataError(f"probabilities {p.shape} for labels {y.shape}; give finite (N, K) and (N,), K >= 2.")
    right = (p.argmax(1) == y).astype(np.float64)
    # Not stratified by class: a model that says one class for all has an uncertain accuracy, too.
    blocks = resample_counts(np.zeros(len(y), dtype=np.int64), n_resamples, None, subjects)
    counts = np.concatenate([np.ones((1, len(y))), *blocks])
    found = {"accuracy": counts @ right / counts.sum(1)}
    if set(np.unique(y)) == set(range(p.shape[1])):
        classes = [1] if p.shape[1] == 2 else range(p.shape[1])
        found["auc"] = np.mean([_weighted_auc(p[:, k], y == k, counts) for k in classes], axis=0)
    found["ece"] = _weighted_ece(p.max(1), right, counts)
    return {name: Estimate(float(values[0]), values[1:]) for name, values in found.items()}


def segmentation_cases(
    predicted: torch.Tensor, truth: torch.Tensor, num_classes: int, spacing: Sequence[float] | None = None
) -> tuple[list[float], list[float]]:
    """Dice and 95th percentile of the surface distance of each structure in one image, by MONAI.

    Args:
        predicted: (1, *spatial) classes.
        truth: (1, *spatial) classes.
        num_classes: number of classes, the background among them.
        spacing: size of a pixel or voxel along each axis; None measures in pixels.

    Returns:
        Dice and HD95 of the classes 1 to ``num_classes - 1``; NaN where the truth has none of a class. Where
        only the prediction has none, HD95 is the diagonal of the image.
    """
    steps = list(spacing) if spacing is not None else [1.0] * (truth.ndim - 1)
    dice = slice_dice(predicted[None], truth[None], num_classes)[0, 1:].tolist()
    hot = [one_hot(labels[None].float(), num_classes) for labels in (predicted, truth)]
    diagonal = float(np.linalg.norm([s * n for s, n in zip(steps, truth.shape[1:], strict=True)]))
    distances = []
    for k in range(1, num_classes):
        said, true = (values[:, k : k + 1] for values in hot)
        if not true.any():
            distances.append(float("nan"))
        elif not said.any():
            distances.append(diagonal)
        else:
            distances.append(_hd95(said, true, steps))
    return dice, distances


def segmentation_figures(
    dice: npt.ArrayLike,
    hd95: npt.ArrayLike,
    structures: Sequence[str],
    subjects: npt.ArrayLike | None = None,
    n_resamples: int = 1000,
) -> dict[str, Estimate]:
    """Dice and HD95 over the cases with their resamples over subjects.

    Args:
        dice: (N, K) of K structures, or the change of theirs; NaN does not count.
        hd95: (N, K), likewise.
        structures: names of the K structures.
        subjects: (N,) whose image it is.
        n_resamples: bootstrap resamples.

    Returns:
        `dice` (mean over the structures of a case, then over the cases), ``dice_<structure>`` where there
        are several, and `hd95`.
    """
    overlap = np.asarray(dice, np.float64)
    figures = {"dice": case_mean(overlap)}
    if len(structures) > 1:
        figures |= {f"dice_{name}": overlap[:, k] for k, name in enumerate(structures)}
    figures["hd95"] = case_mean(hd95)
    return {name: bootstrap_mean(v, n_resamples, clusters=subjects) for name, v in figures.items()}


def case_mean(values: npt.ArrayLike) -> Array:
    """Mean of each row of (N, K) over the values that are there; NaN where none is."""
    data = np.asarray(values, np.float64)
    there = ~np.isnan(data)
    total, count = np.where(there, data, 0).sum(1), there.sum(1)
    result: Array = np.divide(total, count, out=np.full(len(data), np.nan), where=count > 0)
    return result


def corruption_errors(
    errors: Mapping[str, Sequence[float]],
    clean: float,
    other: Mapping[str, Sequence[float]] | None = None,
    other_clean: float = 0.0,
) -> dict[str, float | None]:
    """Mean and relative corruption error.

    Args:
        errors: corruption to the error (1 - figure) at each severity.
        clean: error without corruption.
        other: the same of the baseline; None compares with the model's own error without corruption.
        other_clean: error of the baseline without corruption.

    Returns:
        `mean_corruption_error`: mean over the corruptions of the summed errors, divided by the baseline's; or
        of the mean errors, divided by the clean one. `relative_corruption_error`: the same of the errors
        beyond the clean ones; without a baseline not divided. None where a divisor is not positive.

    Source: Hendrycks and Dietterich, *Benchmarking Neural Network Robustness*, ICLR 2019.

    Example:
        >>> corruption_errors({"noise": [0.2, 0.4]}, 0.1)
        {'mean_corruption_error': 3.0, 'relative_corruption_error': 0.2}
    """
    means = {name: float(np.mean(values)) for name, values in errors.items()}
    if not means:
        return {"mean_corruption_error": None, "relative_corruption_error": None}
    if other is None:
        beyond = float(np.mean(list(means.values()))) - clean
        ratio = (beyond + clean) / clean if clean > 0 else None
        found: dict[str, float | None] = {
            "mean_corruption_error": ratio,
            "relative_corruption_error": beyond,
        }
    else:
        theirs = {name: float(np.mean(values)) for name, values in other.items()}
        found = {
            "mean_corruption_error": _ratio([(means[k], theirs[k]) for k in means]),
            "relative_corruption_error": _ratio([(means[k] - clean, theirs[k] - other_clean) for k in means]),
        }
    return {name: None if value is None else round(value, 12) for name, value in found.items()}


def first_drop(changes: Mapping[Any, Sequence[float | None]], drop: float = DROP) -> Any | None:
    """The first severity at which a figure is surely more than ``drop`` below the clean one.

    Args:
        changes: severity to the interval of the paired change from clean, None where it is undefined.
        drop: that does not count yet.

    Returns:
        The severity; None where no interval lies beyond ``drop``.

    Example:
        >>> first_drop({1: [-0.09, 0.01], 3: [-0.12, -0.04], 5: [-0.2, -0.1]})
        5
    """
    return next((s for s, (_, high) in changes.items() if high is not None and high < -drop - 1e-12), None)


def paired_change(figures: Mapping[str, Estimate], others: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Figures minus others that were resampled in the same way, resample by resample.

    Args:
        figures: of the same cases and subjects as
        others: whose names count.

    Example:
        >>> right, wrong = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]
        >>> ours, theirs = (classification_figures(p, [0, 1]) for p in (wrong, right))
        >>> paired_change(ours, theirs)["accuracy"].ci95
        [-1.0, 0.0]
    """
    return {
        name: Estimate(figures[name].value - other.value, figures[name].resampled - other.resampled)
        for name, other in others.items()
        if name in figures
    }


def area_under_curve(clean: float, by_severity: Mapping[int, float]) -> float:
    """Mean height of the curve from severity 0 (clean) to the last one, by trapezoids.

    Example:
        >>> area_under_curve(1.0, {1: 0.5, 2: 0.5})
        0.625
    """
    places, values = np.array([0.0, *by_severity]), np.array([clean, *by_severity.values()])
    middle = (values[1:] + values[:-1]) / 2
    return float((middle * np.diff(places)).sum() / places[-1]) if places[-1] else clean


def _hd95(predicted: torch.Tensor, truth: torch.Tensor, spacing: Sequence[float]) -> float:
    with warnings.catch_warnings():
        # 2026-11: MONAI 1.6.1 passes an argument to itself that it calls deprecated.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        found = compute_hausdorff_distance(predicted, truth, True, percentile=95, spacing=list(spacing))
    return float(found)


def _ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Mean of quotients; None when a divisor is not positive, as an average would mean nothing."""
    if any(theirs <= 0 for _, theirs in pairs):
        return None
    return float(np.mean([ours / theirs for ours, theirs in pairs]))


def _weighted_auc(scores: Array, positive: npt.NDArray[np.bool_], counts: Array) -> Array:
    """AUC of each resample (R,): ties count half."""
    values, place = np.unique(scores, return_inverse=True)
    hot = np.zeros((len(scores), len(values)))
    hot[np.arange(len(scores)), place] = 1
    above, below = (counts * positive) @ hot, (counts * ~positive) @ hot
    before = np.cumsum(below, 1) - below / 2
    with np.errstate(invalid="ignore"):
        result: Array = (above * before).sum(1) / (above.sum(1) * below.sum(1))
    return result


def _weighted_ece(confidence: Array, right: Array, counts: Array) -> Array:
    hot = np.zeros((len(confidence), BINS))
    hot[np.arange(len(confidence)), np.minimum((confidence * BINS).astype(int), BINS - 1)] = 1
    gaps: Array = np.abs((counts * (right - confidence)) @ hot).sum(1) / counts.sum(1)
    return gaps
