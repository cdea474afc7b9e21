"""AUC, accuracy and balanced error against the medmnist package and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from robustmed_monai.metrics.classification import classification_metrics
from robustmed_monai.metrics.medmnist_c import ALEXNET, relative_balanced_error
from robustmed_monai.transforms.corruption.medmnist_c import MEDMNIST_C
from robustmed_monai.utils.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("classes", "task"), [(2, "binary-class"), (5, "multi-class"), (5, "ordinal-regression")]
)
def test_agrees_with_medmnist_and_scikit_learn(rng: np.random.Generator, classes: int, task: str) -> None:
    from medmnist.evaluator import getACC, getAUC

    labels = rng.permutation(np.arange(200) % classes)
    logits = rng.normal(size=(200, classes)) + np.eye(classes)[labels]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = classification_metrics(p, labels)
    assert found["auc"] == pytest.approx(getAUC(labels[:, None], p, task))
    assert found["acc"] == pytest.approx(getACC(labels[:, None], p, task))
    assert found["balanced_error"] == pytest.approx(1 - balanced_accuracy_score(labels, p.argmax(1)))


def test_needs_every_class_and_shapes_that_fit() -> None:
    with pytest.raises(DataError, match=r"labels are \[0\]; cases of all 2 classes"):
        classification_metrics([[0.5, 0.5]], [0])
    cases: list[tuple[Any, list[int]]] = [
        ([0.1, 0.9], [0, 1]),
        ([[0.1], [0.9]], [0, 1]),
        ([[np.nan, 1], [0, 1]], [0, 1]),
    ]
    for p, labels in cases:
        with pytest.raises(DataError, match="give finite"):
            classification_metrics(p, labels)


class TestRelativeError:
    def test_is_the_share_of_alexnet_s(self) -> None:
        errors = {"pixelate": 0.1, "gamma_corr_up": 0.0961}
        found = relative_balanced_error("pneumoniamnist", errors)
        assert found == pytest.approx({"pixelate": 0.1 / 0.2210, "gamma_corr_up": 1.0})

    def test_constants_name_exactly_the_corruptions_of_the_registry(self) -> None:
        assert set(ALEXNET) == set(MEDMNIST_C)
        for dataset, names in MEDMNIST_C.items():
            assert set(ALEXNET[dataset]) == {"clean", *names}, dataset
            assert all(0 < value < 1 for value in ALEXNET[dataset].values())

    def test_what_it_does_not_state_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"states no error for \['snow'\]"):
            relative_balanced_error("retinamnist", {"snow": 0.5})
        with pytest.raises(ConfigError, match="this data set"):
            relative_balanced_error("mnist", {})
