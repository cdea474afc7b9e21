"""Conformal p-values keep their promise whatever the distribution; thresholds do too."""

from __future__ import annotations

import numpy as np
import pytest

from robustmed_monai.metrics.conformal import conformal_p_values, conformal_threshold, images_needed
from robustmed_monai.utils.errors import ConfigError, DataError


@pytest.mark.parametrize("n", [5, 19, 60])
@pytest.mark.parametrize("kind", ["normal", "cauchy", "tied"])
def test_healthy_images_are_called_at_most_as_often_as_promised(n: int, kind: str) -> None:
    rng = np.random.default_rng(n)
    draws, trials = getattr(rng, f"standard_{kind}", rng.standard_normal)((4000, n + 1)), 4000
    values = np.round(draws) if kind == "tied" else draws
    p = np.array([float(conformal_p_values(row[:-1], row[-1])) for row in values])
    for share in (0.05, 0.1, 0.2, 0.5):
        # Four standard errors of the simulation.
        slack = 4 * np.sqrt(share * (1 - share) / trials)
        assert (p <= share).mean() <= share + slack
        if kind != "tied":
            # k / (n + 1), the largest p-value there is up to the share, is reached exactly.
            exact = np.floor(share * (n + 1) + 1e-9) / (n + 1)
            assert abs((p <= share + 1e-9).mean() - exact) <= slack


def test_threshold_and_p_value_say_the_same() -> None:
    rng = np.random.default_rng(0)
    healthy = rng.gamma(2, size=39).astype(np.float32)
    new = np.concatenate([rng.gamma(2, size=500).astype(np.float32), healthy])
    for share in (0.025, 0.05, 0.1, 0.5):
        above = new >= conformal_threshold(healthy, share)
        assert np.array_equal(above, conformal_p_values(healthy, new) <= share + 1e-12)


def test_higher_scores_have_lower_p_values_and_keep_their_shape() -> None:
    scores = np.linspace(-3, 3, 12).reshape(3, 4)
    p = conformal_p_values([0.0, 1.0, -1.0], scores)
    assert p.shape == scores.shape
    assert (np.diff(p.ravel()) <= 0).all()
    assert p.min() == 0.25
    assert p.max() == 1


def test_too_few_images_are_told_how_many_are_needed() -> None:
    with pytest.raises(ConfigError, match="18 healthy images cannot vouch for it; 19 or more"):
        conformal_threshold(range(18), 0.05)
    assert conformal_threshold(range(19), 0.05) == np.nextafter(np.float32(18), np.float32(np.inf))
    assert [images_needed(a) for a in (0.5, 0.1, 0.05, 0.01)] == [1, 9, 19, 99]


def test_what_is_no_score_is_refused() -> None:
    with pytest.raises(DataError, match="no score"):
        conformal_p_values([], 1.0)
    with pytest.raises(DataError, match="NaN"):
        conformal_p_values([1.0, np.nan], 1.0)
    with pytest.raises(DataError, match="NaN"):
        conformal_p_values([1.0], [np.inf])
    with pytest.raises(ConfigError, match="for 5 % write"):
        images_needed(5)
