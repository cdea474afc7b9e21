"""Figures of merit of a ranking, from weights per group of equal scores.

Every function takes ``positives`` and ``negatives`` of shape (..., K): the weight (number) of anomalous and
of healthy items in each of K groups of equal score, highest score first. Empty groups are allowed. Leading
dimensions are independent rankings, which is what makes the bootstrap one array operation. What the data
leave undefined is NaN.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def auroc(positives: Array, negatives: Array) -> Array:
    """Area under the ROC curve, ties counted half; (...). NaN when a class is missing.

    Example:
        >>> float(auroc(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 2.0])))
        0.9166666666666666
    """
    below = np.cumsum(positives, axis=-1) - positives / 2
    pairs = positives.sum(axis=-1) * negatives.sum(axis=-1)
    return ratio((negatives * below).sum(axis=-1), pairs)


def average_precision(positives: Array, negatives: Array) -> Array:
    """Area under the precision-recall curve in steps; (...). NaN when a class is missing."""
    tp, fp = np.cumsum(positives, axis=-1), np.cumsum(negatives, axis=-1)
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=tp + fp > 0)
    total = np.where(fp[..., -1] > 0, tp[..., -1], 0.0)
    return ratio((positives * precision).sum(axis=-1), total)


def fpr_at_tpr(positives: Array, negatives: Array, tpr: float = 0.95) -> Array:
    """Lowest false positive rate at which the true positive rate reaches ``tpr``; no interpolation; (...).

    NaN when a class is missing.
    """
    tp, fp = np.cumsum(positives, axis=-1), np.cumsum(negatives, axis=-1)
    # The slack lets 19 of 20 reach 95 % whatever the rounding.
    reached = tp >= (tpr - 1e-9) * tp[..., -1:]
    first = reached.argmax(axis=-1)[..., None]
    total = np.where(tp[..., -1] > 0, fp[..., -1], 0.0)
    return ratio(np.take_along_axis(fp, first, axis=-1)[..., 0], total)


def best_dice(positives: Array, negatives: Array) -> tuple[float, int]:
    """Highest Dice over all thresholds and the index of the last group above it.

    Args:
        positives: (K,).
        negatives: (K,).

    Returns:
        Dice in [0, 1] and the group; (NaN, -1) without anomalous items.
    """
    total = positives.sum()
    if not total > 0:
        return float("nan"), -1
    dice = 2 * np.cumsum(positives) / (total + np.cumsum(positives + negatives))
    best = int(dice.argmax())
    return float(dice[best]), best


def partial_area(positives: Array, negatives: Array, limit: float) -> float:
    """Mean true positive rate over the false positive rates in [0, limit]; linear between the points.

    With ``positives`` weighted by 1 / (pixels of their region) this is the normalised area under the PRO
    curve.

    Args:
        positives: (K,).
        negatives: (K,).
        limit: upper end of the false positive rate, in (0, 1].

    Returns:
        The area divided by ``limit``, in [0, 1]; NaN when a class is missing.
    """
    if not (positives.sum() > 0 and negatives.sum() > 0):
        return float("nan")
    tpr = np.concatenate([[0.0], np.cumsum(positives) / positives.sum()])
    fpr = np.concatenate([[0.0], np.cumsum(negatives) / negatives.sum()])
    inside = fpr <= limit
    x = np.concatenate([fpr[inside], [limit]])
    y = np.concatenate([tpr[inside], [_value_at(fpr, tpr, inside, limit)]])
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / limit)


def _value_at(fpr: Array, tpr: Array, inside: npt.NDArray[np.bool_], limit: float) -> float:
    # numpy.interp does not say which of several points with the same abscissa it takes.
    last = int(inside.sum()) - 1
    if last == len(fpr) - 1:
        return float(tpr[last])
    share = (limit - fpr[last]) / (fpr[last + 1] - fpr[last])
    return float(tpr[last] + share * (tpr[last + 1] - tpr[last]))


def ratio(numerator: Array, denominator: Array) -> Array:
    """Quotient, NaN where the denominator is not positive."""
    result: Array = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
