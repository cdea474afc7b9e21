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
    low, high = bootstrap_mean(values, n_resamples=4000).ci95
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(400), rel=0.06)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.01)


def test_same_generator_state_same_interval_and_nan_cases_do_not_count(rng: np.random.Generator) -> None:
    values = rng.random(50)
    first = bootstrap_mean(values, generator=np.random.default_rng(3)).ci95
    assert first == bootstrap_mean(np.append(values, np.nan), generator=np.random.default_rng(3)).ci95
    assert first != bootstrap_mean(values, generator=np.random.default_rng(4)).ci95
    assert bootstrap_mean(values).ci95 == bootstrap_mean(values, generator=np.random.default_rng(0)).ci95


def test_without_a_case_all_is_nan() -> None:
    result = bootstrap_mean([float("nan")])
    assert np.isnan([result.value, *result.ci95]).all()


def test_interval_with_an_undefined_resample_is_nan() -> None:
    assert np.isnan(interval([0.1, float("nan"), 0.3])).all()


def test_clusters_are_drawn_whole_and_stay_in_their_stratum(rng: np.random.Generator) -> None:
    clusters = np.array([7, 7, 3, 3, 3, 9, 1, 1])
    strata = np.array([0, 0, 0, 0, 0, 1, 1, 0])  # subject 1 has both labels
    counts = np.concatenate(list(resample_counts(strata, 200, rng, clusters)))
    for cluster in np.unique(clusters):
        own = counts[:, clusters == cluster]
        assert (own == own[:, :1]).all()
    # One subject has abnormal images alone and one has both: each is always there.
    assert (counts[:, 5] == 1).all()
    assert (counts[:, 6] == 1).all()
    assert (counts[:, 0] + counts[:, 2] == 2).all()


def test_every_item_a_cluster_of_its_own_is_no_clustering() -> None:
    strata = np.array([1, 0, 0, 1, 1, 0])
    plain, named = (next(resample_counts(strata, 20, clusters=c)) for c in (None, np.arange(6)))
    np.testing.assert_array_equal(plain, named)


def test_pairs_count_as_often_as_both_subjects() -> None:
    pairs = np.array([[0, 1], [1, 2], [0, 2]])
    counts = np.concatenate(list(resample_counts(np.zeros(3), 500, None, pairs)))
    # Three draws of three subjects: every pair once, or one subject is missing.
    kinds = {tuple(row) for row in counts.astype(int).tolist()}
    assert kinds == {(1, 1, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2), (0, 0, 0)}


def test_only_subjects_cover_the_mean_of_images_that_depend_on_each_other() -> None:
    """15 subjects with 8 images each that share most of their error: 200 studies, the true mean is 0."""
    covered = {"images": 0, "subjects": 0}
    subjects = np.repeat(np.arange(15), 8)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values = rng.normal(0, 1, 15)[subjects] + rng.normal(0, 0.5, 120)
        for unit, clusters in (("images", None), ("subjects", subjects)):
            low, high = bootstrap_mean(values, 400, clusters=clusters).ci95
            covered[unit] += low <= 0 <= high
    assert covered["images"] < 120, "the interval of independent images is far too narrow"
    assert covered["subjects"] > 174
