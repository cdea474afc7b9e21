"""Results of several seeds as rows, intervals that pool the seeds, and paired tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import false_discovery_control, wilcoxon

from robustmed_monai.metrics.bootstrap import Estimate, bootstrap_mean
from robustmed_monai.metrics.result import Result, holm, paired_tests, summarize


def _rows(results: dict[str, list[Result]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["row"], row["column"]): row for row in summarize(results)}


class TestSummarize:
    def test_seeds_give_mean_and_spread_in_the_order_given(self) -> None:
        seeds = [Result({"auroc": v, "ap": 2 * v}) for v in (0.5, 0.6, 0.7)]
        rows = _rows({"b": seeds, "a": seeds[:1]})
        assert list(rows) == [("b", "auroc"), ("b", "ap"), ("a", "auroc"), ("a", "ap")]
        found = rows["b", "auroc"]
        assert (found["mean"], found["std"], found["n"]) == (pytest.approx(0.6), pytest.approx(0.1), 3)
        assert "ci95" not in found
        assert (rows["a", "ap"]["std"], rows["a", "ap"]["n"]) == (0.0, 1)

    def test_the_interval_is_that_of_the_mean_over_the_seeds(self, rng: np.random.Generator) -> None:
        """Of seeds whose errors go opposite ways: their mean is certain, the mean of their ends is not."""
        error = rng.normal(0, 1, 50)
        seeds = [Result({"dice": bootstrap_mean(0.5 + sign * error)}) for sign in (1, -1)]
        low, high = _rows({"a": seeds})["a", "dice"]["ci95"]
        assert (low, high) == pytest.approx((0.5, 0.5))
        pooled = bootstrap_mean(rng.random(50))
        assert _rows({"a": [Result({"dice": pooled})] * 3})["a", "dice"]["ci95"] == pooled.ci95

    def test_what_is_not_finite_is_left_out(self) -> None:
        undefined = Estimate(0.5, np.array([0.1, np.nan]))
        rows = _rows({"a": [Result({"x": float("nan"), "y": undefined})]})
        assert list(rows) == [("a", "y")]
        assert "ci95" not in rows["a", "y"]


class TestPairedTests:
    def _seeds(self, values: np.ndarray, subjects: Any = None) -> list[Result]:
        return [Result({}, {"t1": v}, subjects) for v in values]

    def test_seeds_and_images_of_a_subject_are_averaged_first(self, rng: np.random.Generator) -> None:
        subjects = np.repeat(np.arange(12), 3)
        base, better = rng.random((2, 36)), rng.random((2, 36)) + 0.3
        given = {"raw": self._seeds(base, subjects), "mine": self._seeds(better, subjects)}
        (test,) = paired_tests(given, against=["raw", "absent"])
        difference = better.mean(0) - base.mean(0)
        assert (test["row"], test["against"], test["column"], test["n"]) == ("mine", "raw", "t1", 12)
        assert test["difference"] == pytest.approx(difference.mean())
        assert test["p"] == pytest.approx(float(wilcoxon(difference.reshape(12, 3).mean(1)).pvalue))
        assert test["ci95"][0] < test["difference"] < test["ci95"][1]
        (same,) = paired_tests({"raw": given["raw"], "copy": given["raw"]}, against=["raw"])
        assert (same["p"], same["difference"]) == (1.0, 0.0)

    def test_undefined_cases_do_not_count(self, rng: np.random.Generator) -> None:
        values = rng.random((1, 13))
        values[0, 4] = np.nan
        better = rng.random((1, 13)) + 0.5
        given = {"raw": self._seeds(values), "mine": self._seeds(better)}
        (test,) = paired_tests(given, against=["raw"])
        kept = ~np.isnan(values[0])
        expected = wilcoxon((better - values)[0, kept]).pvalue
        assert (test["p"], test["n"]) == (pytest.approx(float(expected)), 12)
        # A results file cannot hold a difference that is no number.
        assert not paired_tests({"raw": self._seeds(values * np.nan), "mine": self._seeds(better)}, ["raw"])

    @pytest.mark.parametrize("pairs", [[[0, 1]], [[0, 1], [2, 3], [4, 5]]])
    def test_too_few_pairs_are_no_evidence(self, pairs: list[list[int]]) -> None:
        subjects = np.array(pairs)
        given = {
            name: [Result({}, {"t1": np.full(len(pairs), value)}, subjects)]
            for name, value in (("raw", 0.5), ("mine", 0.6))
        }
        (test,) = paired_tests(given, ["raw"])
        assert test["p"] == 1.0

    def test_p_values_count_the_comparisons(self, rng: np.random.Generator) -> None:
        given = {f"row {k}": self._seeds(rng.random((1, 15)) + 0.05 * k) for k in range(4)}
        tests = paired_tests(given, against=["row 0"])
        alone = [paired_tests({k: given[k] for k in ("row 0", t["row"])}, ["row 0"])[0]["p"] for t in tests]
        assert [t["p"] for t in tests] == pytest.approx(holm(alone))
        assert max(t["p"] for t in tests) > max(alone)

    def test_pairs_of_few_subjects_are_no_independent_cases(self) -> None:
        """Rows that differ by chance, by effects of 9 subjects: tests of their 60 pairs find differences."""
        rejected, by_pairs = 0, 0
        for seed in range(80):
            rng = np.random.default_rng(seed)
            pairs = np.array([rng.choice(9, 2, replace=False) for _ in range(60)])
            difference = rng.normal(0, 1, 9)[pairs].sum(1) + 0.1 * rng.normal(0, 1, 60)
            given = {"a": self._seeds(np.zeros((1, 60)), pairs), "b": self._seeds(difference[None], pairs)}
            (test,) = paired_tests(given, against=["a"])
            rejected += test["p"] < 0.05
            by_pairs += wilcoxon(difference).pvalue < 0.05
        assert by_pairs > 30
        assert rejected <= 12


def test_holm_is_between_bonferroni_and_no_correction(rng: np.random.Generator) -> None:
    p = rng.random(20) ** 4
    corrected = np.array(holm(list(p)))
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1, 20 * p)).all()
    assert corrected.min() == pytest.approx(min(1, 20 * p.min()))
    assert (corrected >= false_discovery_control(p) - 1e-12).all(), "stricter than Benjamini and Hochberg"
    assert holm([]) == []
