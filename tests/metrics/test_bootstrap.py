from __future__ import annotations

import numpy as np
import pytest

from robustmed_monai.metrics import bootstrap_mean
from robustmed_monai.metrics.bootstrap import interval, resample_counts


def test_every_resample_keeps_the_size_of_each_stratum(rng: np.random.Generator) -> None:
    strata = np.array([0] * 30 + [1] * 7 + [5])
    counts = np.concatenate(list(resample_counts(strata, 50, rng)))
    assert counts.shape == (50, 38)
    for stratum in (0, 1, 5):
        np.testing.assert_array_equal(counts[:, strata == stratum].sum(axis=1), (strata == stratum).sum())


def test_blocks_add_up_to_the_number_of_resamples(rng: np.random.Generator) -> None:
    blocks = [len(c) for c in resample_counts(np.zeros(1_000_000), 9, rng)]
    assert blocks == [4, 4, 1]


def test_interval_of_the_mean_has_the_width_of_normal_theory(rng: np.random.Generator) -> None:
    values = rng.normal(3.0, 2.0, 400)
    low, high = bootstrap_mean(values, n_resamples=4000)["ci95"]
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(400), rel=0.06)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.01)


def test_same_generator_state_same_interval_and_nan_cases_do_not_count(rng: np.random.Generator) -> None:
    values = rng.random(50)
    first = bootstrap_mean(values, generator=np.random.default_rng(3))
    assert first == bootstrap_mean(np.append(values, np.nan), generator=np.random.default_rng(3))
    assert first != bootstrap_mean(values, generator=np.random.default_rng(4))
    assert bootstrap_mean(values) == bootstrap_mean(values, generator=np.random.default_rng(0))


def test_without_a_case_all_is_nan() -> None:
    result = bootstrap_mean([float("nan")])
    assert np.isnan([result["value"], *result["ci95"]]).all()


def test_interval_with_an_undefined_resample_is_nan() -> None:
    assert np.isnan(interval([0.1, float("nan"), 0.3])).all()
