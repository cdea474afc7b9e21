"""Percentile bootstrap intervals, drawn as counts so that many resamples are one array operation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import numpy.typing as npt

_CHUNK = 4_000_000  # counts held at once: 32 MB


class Estimate(TypedDict):
    """A figure with its 95 % percentile-bootstrap interval, ready for JSON; NaN where undefined."""

    value: float
    ci95: list[float]


def resample_counts(
    strata: npt.ArrayLike, n_resamples: int, generator: np.random.Generator | None = None
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield how often each item is drawn, for blocks of stratified bootstrap resamples.

    Args:
        strata: (n,) integers; every resample holds as many items of each stratum as the data.
        n_resamples: number of resamples in all.
        generator: source of the draws; None takes a new one seeded with 0, so the same data gives the same
            interval.

    Yields:
        Blocks of shape (r, n); the r add up to ``n_resamples``.
    """
    generator = np.random.default_rng(0) if generator is None else generator
    strata = np.asarray(strata)
    members = [np.flatnonzero(strata == s) for s in np.unique(strata)]
    block = max(1, _CHUNK // max(1, len(strata)))
    for start in range(0, n_resamples, block):
        rows = min(block, n_resamples - start)
        counts = np.zeros((rows, len(strata)))
        for items in members:
            n = len(items)
            draws = generator.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
            counts[:, items] = np.bincount(draws.ravel(), minlength=rows * n).reshape(rows, n)
        yield counts


def interval(resampled: npt.ArrayLike) -> list[float]:
    """2.5 and 97.5 percentile of the resampled figures (r,); NaN when any of them is undefined."""
    low, high = np.percentile(np.asarray(resampled, dtype=np.float64), [2.5, 97.5])
    return [float(low), float(high)]


def bootstrap_mean(
    values: npt.ArrayLike, n_resamples: int = 1000, generator: np.random.Generator | None = None
) -> Estimate:
    """Mean over independent cases with its 95 % percentile-bootstrap interval.

    Args:
        values: (n,) one number per case, for example Dice; NaN marks a case that does not count.
        n_resamples: bootstrap resamples.
        generator: source of the draws; None takes a new one seeded with 0.

    Returns:
        ``{"value": mean, "ci95": [low, high]}``; NaN without a case that counts.

    Example:
        >>> bootstrap_mean([0.5, 0.5, float("nan")])
        {'value': 0.5, 'ci95': [0.5, 0.5]}
    """
    data = np.asarray(values, dtype=np.float64)
    data = data[~np.isnan(data)]
    if not len(data):
        return {"value": float("nan"), "ci95": [float("nan"), float("nan")]}
    blocks = resample_counts(np.zeros(len(data), dtype=np.int64), n_resamples, generator)
    means = np.concatenate([counts @ data / len(data) for counts in blocks])
    return {"value": float(data.mean()), "ci95": interval(means)}
