from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from robustmed_monai.utils.errors import DataError
from robustmed_monai.visualize import roc_pr_curves, score_histogram, to_array


def test_histograms_are_shares_on_common_bins(rng: np.random.Generator) -> None:
    healthy, abnormal = rng.gamma(2, 1, 300), rng.gamma(4, 1, 40)
    axis: Any = score_histogram(healthy, abnormal, threshold=3.0, bins=25).axes[0]
    edges = np.linspace(min(healthy.min(), abnormal.min()), max(healthy.max(), abnormal.max()), 26)
    for patch, scores in zip(axis.patches[::2], (healthy, abnormal), strict=True):
        values, found, _ = patch.get_data()
        np.testing.assert_allclose(found, edges)
        np.testing.assert_allclose(values, np.histogram(scores, edges)[0] / len(scores))
        assert values.sum() == pytest.approx(1)
    assert axis.lines[0].get_xdata() == [3.0, 3.0]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["healthy (n = 300)", "abnormal (n = 40)", "threshold 3"]


def test_constant_scores_have_a_histogram() -> None:
    assert to_array(score_histogram([0.0, 0.0], [0.0])).std() > 0


def test_curves_enclose_the_areas_in_their_legends(rng: np.random.Generator) -> None:
    labels = np.arange(80) % 4 == 0
    methods = {f"method {i}": (rng.normal(labels * i * 0.5, 1.0).round(1), labels) for i in range(3)}
    axes: list[Any] = list(roc_pr_curves(methods).axes)
    left, right = axes
    for i, (name, (s, y)) in enumerate(methods.items()):
        fpr, tpr = left.lines[i].get_data()
        assert auc(fpr, tpr) == pytest.approx(roc_auc_score(y, s))
        recall, precision = right.lines[i].get_data()
        # Drawn as steps from high to low recall, each at the precision of its start.
        assert right.lines[i].get_drawstyle() == "steps-post"
        area = -np.sum(np.diff(recall) * precision[:-1])
        assert area == pytest.approx(average_precision_score(y, s))
        assert left.get_legend().get_texts()[i].get_text() == f"{name}, area {roc_auc_score(y, s):.3f}"
        assert (
            right.get_legend().get_texts()[i].get_text() == f"{name}, AP {average_precision_score(y, s):.3f}"
        )
    assert right.lines[-1].get_ydata()[0] == 0.25


@pytest.mark.parametrize(
    ("healthy", "abnormal", "message"),
    [([], [1.0], "healthy: scores"), ([1.0], [np.nan], "abnormal: scores"), ([[1.0]], [1.0], "healthy")],
)
def test_histogram_refuses_bad_scores(healthy: list[float], abnormal: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_histogram(healthy, abnormal)


def test_curves_refuse_a_missing_class_and_no_method() -> None:
    with pytest.raises(DataError, match="RA: labels"):
        roc_pr_curves({"RA": ([1.0, 2.0], [0, 0])})
    with pytest.raises(DataError, match="RA: labels"):
        roc_pr_curves({"RA": ([1.0, 2.0], [0, 1, 1])})
    with pytest.raises(DataError, match="no method"):
        roc_pr_curves({})
