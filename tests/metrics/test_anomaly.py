from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from robustmed_monai.metrics import image_anomaly_metrics
from robustmed_monai.metrics.bootstrap import resample_counts
from robustmed_monai.utils.errors import DataError


def oracle(labels: np.ndarray, scores: np.ndarray) -> list[float]:
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    fpr95 = fpr[np.flatnonzero(tpr >= 0.95)[0]]
    return [roc_auc_score(labels, scores), average_precision_score(labels, scores), fpr95]


def drawn(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    labels = (np.arange(n) < n // 3).astype(int)
    # Rounding makes ties.
    return np.round(rng.gamma(3.0 + labels, 0.01), 3), labels


def test_values_and_intervals_equal_a_loop_over_scikit_learn(rng: np.random.Generator) -> None:
    scores, labels = drawn(rng, 90)
    result = image_anomaly_metrics(scores, labels, n_resamples=100, generator=np.random.default_rng(5))
    values = [result[k].value for k in ("image_auroc", "image_ap", "image_fpr95")]
    assert values == pytest.approx(oracle(labels, scores))
    counts = next(resample_counts(labels, 100, np.random.default_rng(5))).astype(int)
    looped = np.array([oracle(np.repeat(labels, c), np.repeat(scores, c)) for c in counts])
    expected = np.percentile(looped, [2.5, 97.5], axis=0).T
    np.testing.assert_allclose([v.ci95 for v in result.values()], expected, atol=1e-12)


def test_order_and_container_do_not_change_the_values(rng: np.random.Generator) -> None:
    scores, labels = drawn(rng, 60)
    order = rng.permutation(60)
    first = image_anomaly_metrics(scores, labels)
    second = image_anomaly_metrics(torch.from_numpy(scores[order]), list(labels[order]))
    assert [v.value for v in first.values()] == pytest.approx([v.value for v in second.values()])


def test_constant_scores_are_chance() -> None:
    result = image_anomaly_metrics(np.ones(20), [1] * 5 + [0] * 15)
    assert {k: v.value for k, v in result.items()} == {
        "image_auroc": 0.5,
        "image_ap": 0.25,
        "image_fpr95": 1.0,
    }


@pytest.mark.parametrize("labels", [[0], [1], [0, 0, 0], [1, 1, 1]])
def test_one_class_gives_nan(labels: list[int]) -> None:
    result = image_anomaly_metrics(np.arange(len(labels)), labels)
    assert np.isnan([[v.value, *v.ci95] for v in result.values()]).all()


def test_one_image_of_each_class_has_a_point_interval() -> None:
    found = image_anomaly_metrics([1.0, 2.0], [0, 1])["image_auroc"]
    assert (found.value, found.ci95) == (1.0, [1.0, 1.0])


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, np.nan, 2.0], [0, 1, 1], "1 of 3 are NaN or infinite, the first at index 1"),
        ([1.0, 2.0], [0, 1, 1], "one score and one label per image"),
        ([], [], "one score and one label per image"),
        ([1.0, 2.0], [0, 2], "1 for abnormal"),
        ([[1.0], [2.0]], [[0], [1]], "one score and one label per image"),
    ],
)
def test_bad_input_is_refused(scores: list[float], labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        image_anomaly_metrics(scores, labels)


def test_a_thousand_resamples_of_a_thousand_images_take_under_a_second(rng: np.random.Generator) -> None:
    scores, labels = drawn(rng, 1000)
    image_anomaly_metrics(scores[::50], labels[::50], n_resamples=1)
    start = time.process_time()
    image_anomaly_metrics(scores, labels, n_resamples=1000)
    assert time.process_time() - start < 1.0
