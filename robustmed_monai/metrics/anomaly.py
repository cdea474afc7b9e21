"""How well one score per image tells abnormal from healthy images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from robustmed_monai.metrics.bootstrap import Estimate, resample_counts
from robustmed_monai.metrics.curves import auroc, average_precision, fpr_at_tpr
from robustmed_monai.utils.errors import DataError

_CURVES = {"image_auroc": auroc, "image_ap": average_precision, "image_fpr95": fpr_at_tpr}


def image_anomaly_metrics(
    scores: npt.ArrayLike | torch.Tensor,
    labels: npt.ArrayLike | torch.Tensor,
    n_resamples: int = 1000,
    generator: np.random.Generator | None = None,
    subjects: npt.ArrayLike | torch.Tensor | None = None,
) -> dict[str, Estimate]:
    """AUROC, average precision and FPR at 95 % TPR of image scores, each with a 95 % interval.

    The interval is the percentile bootstrap over subjects, stratified by the labels that they have. Without
    ``subjects`` images count as independent: with several slices of one patient it is then too narrow.

    Args:
        scores: (n,) finite numbers, higher is more abnormal.
        labels: (n,) 1 for abnormal and 0 for healthy.
        n_resamples: bootstrap resamples.
        generator: source of the draws; None takes a new one seeded with 0, so the same data gives the same
            interval.
        subjects: (n,) whose image it is.

    Returns:
        `image_auroc`, `image_ap` and `image_fpr95`, each with ``value`` and ``ci95`` in [0, 1]; all NaN
        when there is no healthy or no abnormal image. The FPR is the lowest of the ROC points whose TPR is at
        least 95 %.

    Raises:
        DataError: for lengths that differ, an empty input, a score that is not finite or a label other than 0
            and 1.

    Example:
        >>> result = image_anomaly_metrics([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
        >>> result["image_auroc"].value, result["image_auroc"].ci95, result["image_fpr95"].value
        (1.0, [1.0, 1.0], 0.0)
    """
    s, y = _checked(scores, labels)
    if y.all() or not y.any():
        return {k: Estimate(float("nan"), np.full(1, np.nan)) for k in _CURVES}
    order = np.argsort(-s, kind="stable")
    # Drawn in the order of the images, so that the scores of another network see the same resamples.
    drawn = resample_counts(y, n_resamples, generator, None if subjects is None else np.asarray(subjects))
    s, y = s[order], y[order]
    starts = np.flatnonzero(np.concatenate([[True], s[1:] != s[:-1]]))
    resampled: dict[str, list[npt.NDArray[np.float64]]] = {k: [] for k in _CURVES}
    for counts in drawn:
        ranked = counts[:, order]
        positives = np.add.reduceat(ranked * y, starts, axis=1)
        negatives = np.add.reduceat(ranked * ~y, starts, axis=1)
        for key, curve in _CURVES.items():
            resampled[key].append(curve(positives, negatives))
    values = _values(s, y, starts)
    return {k: Estimate(values[k], np.concatenate(resampled[k])) for k in _CURVES}


def _values(
    s: npt.NDArray[np.float64], y: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64]
) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    positives, negatives = (np.add.reduceat(part.astype(np.float64), starts) for part in (y, ~y))
    return {
        "image_auroc": float(roc_auc_score(y, s)),
        "image_ap": float(average_precision_score(y, s)),
        "image_fpr95": float(fpr_at_tpr(positives, negatives)),
    }


def _checked(scores: object, labels: object) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    s, y = (np.asarray(v.detach().cpu() if isinstance(v, torch.Tensor) else v) for v in (scores, labels))
    if s.shape != y.shape or s.ndim != 1 or not len(s):
        raise DataError(
            f"scores {s.shape} and labels {y.shape}: give one score and one label per image, both (n,)."
        )
    s = s.astype(np.float64)
    if not np.isfinite(s).all():
        raise DataError(
            f"scores: {np.count_nonzero(~np.isfinite(s))} of {len(s)} are NaN or infinite, the first at "
            f"index {int(np.flatnonzero(~np.isfinite(s))[0])}; look at the map of that image."
        )
    if not np.isin(y, (0, 1)).all():
        raise DataError(f"labels: found {np.unique(y)[:5]}; use 1 for abnormal and 0 for healthy.")
    return s, y.astype(bool)
