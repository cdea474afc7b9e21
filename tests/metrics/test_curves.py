from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, f1_score, roc_auc_score, roc_curve

from robustmed_monai.metrics.curves import (
    Array,
    auroc,
    average_precision,
    best_dice,
    fpr_at_tpr,
    partial_area,
)


def ranking(rng: np.random.Generator, n: int = 400) -> tuple[Array, np.ndarray, Array, Array, Array]:
    """Scores with ties, labels, weights, and the same as weight per group, highest score first."""
    scores = rng.integers(0, 40, n).astype(float)
    labels = (rng.random(n) < scores / 60).astype(int)
    weights = rng.random(n) + 0.1
    groups = np.unique(scores)[::-1]
    positives = np.array([weights[(scores == g) & (labels == 1)].sum() for g in groups])
    negatives = np.array([weights[(scores == g) & (labels == 0)].sum() for g in groups])
    return scores, labels, weights, positives, negatives


def test_areas_equal_scikit_learn_with_weights_and_ties(rng: np.random.Generator) -> None:
    scores, labels, weights, positives, negatives = ranking(rng)
    assert auroc(positives, negatives) == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
    expected = average_precision_score(labels, scores, sample_weight=weights)
    assert average_precision(positives, negatives) == pytest.approx(expected)


@pytest.mark.parametrize("tpr", [0.5, 0.95, 1.0])
def test_fpr_at_tpr_is_the_first_roc_point_that_reaches_it(rng: np.random.Generator, tpr: float) -> None:
    scores, labels, weights, positives, negatives = ranking(rng)
    fprs, tprs, _ = roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)
    expected = fprs[np.flatnonzero(tprs >= tpr - 1e-9)[0]]
    assert fpr_at_tpr(positives, negatives, tpr) == pytest.approx(expected)


def test_nineteen_of_twenty_reach_95_percent() -> None:
    positives, negatives = np.array([19.0, 0.0, 1.0]), np.array([0.0, 5.0, 5.0])
    assert fpr_at_tpr(positives, negatives) == 0


def test_best_dice_is_the_best_f1_over_thresholds(rng: np.random.Generator) -> None:
    scores, labels, weights, positives, negatives = ranking(rng)
    groups = np.unique(scores)[::-1]
    dice = [f1_score(labels, scores >= g, sample_weight=weights) for g in groups]
    value, index = best_dice(positives, negatives)
    assert value == pytest.approx(max(dice))
    assert index == np.argmax(dice)


@pytest.mark.parametrize("limit", [0.003, 0.3, 0.77, 1.0])
def test_partial_area_equals_the_trapezoid_of_the_roc_curve(rng: np.random.Generator, limit: float) -> None:
    scores, labels, weights, positives, negatives = ranking(rng)
    fpr, tpr, _ = roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)
    grid = np.union1d(np.linspace(0, limit, 20_001), fpr[fpr <= limit])
    expected = auc(grid, np.interp(grid, fpr, tpr)) / limit
    assert partial_area(positives, negatives, limit) == pytest.approx(expected, abs=1e-4)


def test_rows_are_independent_and_empty_groups_change_nothing(rng: np.random.Generator) -> None:
    first, second = ranking(rng)[3:], ranking(rng)[3:]
    positives, negatives = (np.stack([a, b]) for a, b in zip(first, second, strict=True))
    padded = (np.insert(first[0], 7, 0.0), np.insert(first[1], 7, 0.0))
    for curve in (auroc, average_precision, fpr_at_tpr):
        both = curve(positives, negatives)
        np.testing.assert_allclose(both, [curve(*first), curve(*second)], rtol=1e-12)
        assert curve(*padded) == pytest.approx(float(both[0]))


@pytest.mark.parametrize(("positives", "negatives"), [([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0])])
def test_a_missing_class_gives_nan(positives: list[float], negatives: list[float]) -> None:
    pos, neg = np.array(positives), np.array(negatives)
    for value in (
        auroc(pos, neg),
        average_precision(pos, neg),
        fpr_at_tpr(pos, neg),
        partial_area(pos, neg, 0.3),
    ):
        assert np.isnan(value)
    assert np.isnan(best_dice(pos, neg)[0]) == (not any(positives))
