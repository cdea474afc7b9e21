"""Figures of a stress test against scikit-learn, MONAI and counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import HausdorffDistanceMetric
from monai.networks.utils import one_hot
from sklearn.metrics import roc_auc_score

from robustmed_monai.metrics.bootstrap import resample_counts
from robustmed_monai.metrics.stress import (
    area_under_curve,
    classification_figures,
    corruption_errors,
    first_drop,
    paired_change,
    segmentation_cases,
    segmentation_figures,
)
from robustmed_monai.utils.errors import DataError


@pytest.mark.parametrize("classes", [2, 4])
def test_figures_of_classes(rng: np.random.Generator, classes: int) -> None:
    p = rng.dirichlet([1.0] * classes, 80).round(2)
    p[:, 0] += 1 - p.sum(1)
    y = np.arange(80) % classes
    found = classification_figures(p, y, n_resamples=20)
    assert found["accuracy"].value == (p.argmax(1) == y).mean()
    auc = roc_auc_score(y, p[:, 1]) if classes == 2 else roc_auc_score(y, p, multi_class="ovr")
    assert found["auc"].value == pytest.approx(auc)
    first = next(resample_counts(np.zeros(80, int), 20))[0]
    weighted = [roc_auc_score(y == k, p[:, k], sample_weight=first) for k in range(classes)]
    expected = weighted[1] if classes == 2 else np.mean(weighted)
    assert found["auc"].resampled[0] == pytest.approx(expected)


def test_calibration_error_by_hand() -> None:
    found = classification_figures([[0.9, 0.1], [0.88, 0.12], [0.3, 0.7]], [0, 1, 1])
    # Two of confidence 0.89 on average, one right; one of 0.7, right.
    assert found["ece"].value == pytest.approx((2 * abs(0.5 - 0.89) + abs(1 - 0.7)) / 3)


def test_subjects_widen_the_interval() -> None:
    right = np.repeat([0, 1] * 5, 6)
    p = np.stack([1.0 - right, 0.0 + right], 1)
    labels = np.ones(60, int)
    alone = classification_figures(p, labels)["accuracy"].ci95
    owned = classification_figures(p, labels, np.arange(60) // 6)["accuracy"].ci95
    assert owned[1] - owned[0] > 1.5 * (alone[1] - alone[0])


@pytest.mark.parametrize("bad", [[[0.5]], [[float("nan"), 1.0]], [[0.5, 0.5], [0.1, 0.9]]])
def test_what_is_no_classifier(bad: list[list[float]]) -> None:
    with pytest.raises(DataError, match="K >= 2"):
        classification_figures(bad, [0])


def test_dice_and_hd95_are_monais() -> None:
    truth = torch.zeros(1, 20, 20, 8, dtype=torch.uint8)
    truth[:, 4:12, 4:12, 2:6] = 1
    truth[:, 14:18, 4:12, 2:6] = 2
    predicted = truth.roll(2, 1)
    dice, hd95 = segmentation_cases(predicted, truth, 3, (1.0, 1.0, 3.0))
    metric = HausdorffDistanceMetric(include_background=False, percentile=95)
    hot = [one_hot(labels[None].float(), 3) for labels in (predicted, truth)]
    with pytest.warns(FutureWarning):
        theirs = metric(*hot, spacing=(1.0, 1.0, 3.0))
    assert hd95 == pytest.approx([float(value) for value in theirs[0]])
    assert dice[0] == pytest.approx(2 * 6 / 16)


def test_structures_that_are_not_there() -> None:
    truth = torch.zeros(1, 3, 4, dtype=torch.uint8)
    truth[0, 0, 0] = 1
    dice, hd95 = segmentation_cases(torch.zeros_like(truth), truth, 3)
    assert dice[0] == 0
    assert hd95[0] == 5
    assert np.isnan([dice[1], hd95[1]]).all()
    figures = segmentation_figures([dice, [1.0, 1.0]], [hd95, [0.0, 0.0]], ["a", "b"])
    assert figures["dice"].value == 0.5
    assert figures["dice_b"].value == 1.0


def test_corruption_errors() -> None:
    found = corruption_errors(
        {"a": [0.2, 0.4], "b": [0.1, 0.1]}, 0.1, {"a": [0.4, 0.8], "b": [0.2, 0.2]}, 0.1
    )
    assert found == {
        "mean_corruption_error": 0.5,
        "relative_corruption_error": pytest.approx((0.2 / 0.5 + 0) / 2),
    }
    assert corruption_errors({"a": [0.2]}, 0.0)["mean_corruption_error"] is None
    assert corruption_errors({}, 0.1)["mean_corruption_error"] is None
    assert corruption_errors({"a": [0.2]}, 0.0, {"a": [0.0]}, 0.0)["mean_corruption_error"] is None


def test_pairs_decide_what_two_intervals_do_not(rng: np.random.Generator) -> None:
    """One that loses 12 of the 80 % that it had right: the intervals overlap, no resample gains anything."""
    y = np.zeros(100, int)
    sure, fallen = np.arange(100) < 80, np.arange(100) < 68
    ours, theirs = (
        classification_figures(np.stack([right, ~right], 1).astype(float), y) for right in (fallen, sure)
    )
    assert ours["accuracy"].ci95[1] > theirs["accuracy"].ci95[0]
    change = paired_change(ours, theirs)["accuracy"]
    assert change.value == pytest.approx(-0.12)
    counts = next(resample_counts(np.zeros(100, int), 1000))
    np.testing.assert_allclose(change.resampled, -counts[:, 68:80].sum(1) / 100)
    assert change.ci95[1] < -0.05


def test_drops_and_areas() -> None:
    assert first_drop({1: [-0.3, -0.05], 2: [-0.3, -0.06], 3: [-0.4, -0.2]}) == 2
    assert first_drop({1: [-0.3, 0.1], 2: [None, None]}) is None
    assert area_under_curve(1.0, {1: 1.0, 3: 0.0, 5: 0.0}) == pytest.approx((1 + 1 + 0) / 5)
