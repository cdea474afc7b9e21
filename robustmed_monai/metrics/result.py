"""What one network gives in one evaluation, and how results of several seeds become rows of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustmed_monai.metrics.bootstrap import Estimate, bootstrap_mean, interval, mean_by_subject

Values = NDArray[np.float64]
_ROUNDING = 1e-9


class Result(NamedTuple):
    """What a table needs of one network.

    Args:
        figures: column to number, or to an Estimate where there is an interval; those that are not finite are
            undefined and left out.
        cases: column to one number per case, higher is better, for paired tests; NaN where undefined.
        subjects: (n,) the subject of each of these cases, or (n, 2) the two of a pair.
        shown: whatever the table's pictures are drawn from.
    """

    figures: Mapping[str, float | Estimate]
    cases: Mapping[str, Values] = {}
    subjects: NDArray[np.intp] | None = None
    shown: Mapping[str, Any] = {}


def summarize(results: Mapping[str, Sequence[Result]]) -> list[dict[str, Any]]:
    """Rows of a results file: mean and spread over the seeds of each row of the table.

    Args:
        results: row name to one result per seed.

    Returns:
        One ``{"row", "column", "mean", "std", "n"[, "ci95"]}`` per figure. ``std`` is the sample standard
        deviation over seeds (0 for one), ``ci95`` the 95 % interval of the mean over the seeds when subjects
        are drawn anew, the same for all seeds.
    """
    rows = []
    for name, seeds in results.items():
        for column in seeds[0].figures:
            found = [r.figures[column] for r in seeds if column in r.figures]
            values = [f.value if isinstance(f, Estimate) else float(f) for f in found]
            if not np.isfinite(values).all():
                continue
            std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            row: dict[str, Any] = {"row": name, "column": column, "mean": float(np.mean(values)), "std": std}
            row["n"] = len(values)
            resampled = [f.resampled for f in found if isinstance(f, Estimate)]
            bounds = interval(np.mean(resampled, axis=0)) if resampled else [math.nan]
            rows.append(row | ({"ci95": bounds} if np.isfinite(bounds).all() else {}))
    return rows


def paired_tests(results: Mapping[str, Sequence[Result]], against: Sequence[str]) -> list[dict[str, Any]]:
    """Compare rows on the same cases, the seeds averaged first.

    Wilcoxon's signed-rank test, two-sided, of the means per subject. Pairs of two subjects share subjects, so
    there the difference is compared with its standard error under ``resample_counts``, by the normal law;
    with too few pairs for one, p is 1. Without a case that both rows know there is no test.

    Args:
        results: row to one result per seed.
        against: rows that all others are compared with; those that are not there are left out.

    Returns:
        ``{"row", "against", "column", "difference", "ci95", "p", "n"}`` for each; the difference is the mean
        over the cases, above 0 when ``row`` is better, its interval that of the subjects, ``n`` the number of
        subjects. ``p`` is corrected for the number of tests of the list (Holm).
    """
    means = {
        row: {column: np.mean([r.cases[column] for r in seeds], axis=0) for column in seeds[0].cases}
        for row, seeds in results.items()
    }
    tests = []
    for other in (row for row in against if row in means):
        for row in (row for row in means if row != other):
            for column in (c for c in means[row] if c in means[other]):
                difference = means[row][column] - means[other][column]
                if not np.isnan(difference).all():
                    compared = _compare(difference, results[row][0].subjects)
                    tests.append({"row": row, "against": other, "column": column, **compared})
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p"] = p
    return tests


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values that keep the chance of any false finding among them at the level.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - place)))
        corrected[index] = highest
    return corrected


def _compare(difference: Values, subjects: NDArray[np.intp] | None) -> dict[str, Any]:
    from scipy.stats import norm, wilcoxon

    owners = np.arange(len(difference)) if subjects is None else np.asarray(subjects)
    known = ~np.isnan(difference)
    difference, owners = difference[known], owners[known]
    estimate = bootstrap_mean(difference, clusters=owners)
    bounded = bool(np.isfinite(estimate.ci95).all())
    count = len(np.unique(owners))
    if not np.any(difference):
        p = 1.0
    elif owners.ndim == 2:
        spread = float(np.nanstd(estimate.resampled)) if bounded else 0.0
        varies = spread > _ROUNDING * abs(estimate.value)
        p = float(2 * norm.sf(abs(estimate.value) / spread)) if varies else 1.0
    else:
        p = float(wilcoxon(mean_by_subject(difference, owners)).pvalue)
    bounds = {"ci95": estimate.ci95} if bounded else {}
    return {"difference": estimate.value, **bounds, "p": p, "n": count}
