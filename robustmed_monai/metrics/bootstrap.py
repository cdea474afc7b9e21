"""Percentile bootstrap over subjects, drawn as counts so that many resamples are one array operation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_CHUNK = 4_000_000  # counts held at once: 32 MB


class Estimate(NamedTuple):
    """A figure and the same figure of every bootstrap resample; NaN where undefined.

    Figures of several networks on the same cases have the same resamples, so that their mean over the
    networks has an interval as well.

    Args:
        value: the figure.
        resampled: (r,) the figure of each resample.
    """

    value: float
    resampled: npt.NDArray[np.float64]

    @property
    def ci95(self) -> list[float]:
        """95 % percentile interval, ready for JSON."""
        return interval(self.resampled)


def resample_counts(
    strata: npt.ArrayLike,
    n_resamples: int,
    generator: np.random.Generator | None = None,
    clusters: npt.ArrayLike | None = None,
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield how often each item is drawn, for blocks of stratified bootstrap resamples of clusters.

    Whole clusters are drawn, for several images of one subject depend on each other. The strata of clusters
    are the sets of strata of their items: with one item per cluster every resample holds as many items of
    each stratum as the data.

    Args:
        strata: (n,) integers, such as the label.
        n_resamples: number of resamples in all.
        generator: source of the draws; None takes a new one seeded with 0, so the same data gives the same
            interval.
        clusters: (n,) the subject of each item; (n, 2) for pairs of two subjects, which count as often as
            the one times as often as the other (Owen, "The pigeonhole bootstrap", Annals of Applied
            Statistics 1, 2007).
            None takes every item for a subject of its own.

    Yields:
        Blocks of shape (r, n); the r add up to ``n_resamples``.
    """
    generator = np.random.default_rng(0) if generator is None else generator
    strata = np.asarray(strata)
    owners = np.arange(len(strata)) if clusters is None else np.asarray(clusters)
    owners = np.unique(owners, return_inverse=True)[1].reshape(len(strata), -1)
    members = _clusters_by_strata(strata, owners)
    block = max(1, _CHUNK // max(1, len(strata)))
    for start in range(0, n_resamples, block):
        rows = min(block, n_resamples - start)
        counts = np.zeros((rows, sum(map(len, members))))
        for items in members:
            n = len(items)
            draws = generator.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
            counts[:, items] = np.bincount(draws.ravel(), minlength=rows * n).reshape(rows, n)
        yield counts[:, owners].prod(2)


def _clusters_by_strata(
    strata: npt.NDArray[np.int64], owners: npt.NDArray[np.intp]
) -> list[npt.NDArray[np.intp]]:
    """Clusters (numbers) that have items of the same strata, together."""
    kinds, kind = np.unique(strata, return_inverse=True)
    has = np.zeros((owners.max(initial=-1) + 1, len(kinds)), dtype=bool)
    has[owners, kind[:, None]] = True
    group = np.unique(has[:, ::-1], axis=0, return_inverse=True)[1].reshape(-1)
    return [np.flatnonzero(group == g) for g in np.unique(group)]


def interval(resampled: npt.ArrayLike) -> list[float]:
    """2.5 and 97.5 percentile of the resampled figures (r,); NaN when any of them is undefined."""
    low, high = np.percentile(np.asarray(resampled, dtype=np.float64), [2.5, 97.5])
    return [float(low), float(high)]


def bootstrap_mean(
    values: npt.ArrayLike,
    n_resamples: int = 1000,
    generator: np.random.Generator | None = None,
    clusters: npt.ArrayLike | None = None,
) -> Estimate:
    """Mean over cases with its 95 % percentile-bootstrap interval over their subjects.

    Args:
        values: (n,) one number per case, for example Dice; NaN marks a case that does not count.
        n_resamples: bootstrap resamples.
        generator: source of the draws; None takes a new one seeded with 0.
        clusters: subjects of the cases, see ``resample_counts``.

    Returns:
        The mean and its resamples; NaN without a case that counts.

    Example:
        >>> bootstrap_mean([0.5, 0.5, float("nan")]).ci95
        [0.5, 0.5]
    """
    data = np.asarray(values, dtype=np.float64)
    counted = ~np.isnan(data)
    if not counted.any():
        return Estimate(float("nan"), np.full(1, np.nan))
    data = data[counted]
    owners = None if clusters is None else np.asarray(clusters)[counted]
    blocks = resample_counts(np.zeros(len(data), dtype=np.int64), n_resamples, generator, owners)
    with np.errstate(invalid="ignore"):
        means = np.concatenate([counts @ data / counts.sum(1) for counts in blocks])
    return Estimate(float(data.mean()), means)


def mean_by_subject(values: npt.ArrayLike, subjects: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Mean of the cases of each subject, subjects in rising order.

    Args:
        values: (n,) one number per case; NaN marks a case that does not count.
        subjects: (n,) whose it is.

    Returns:
        One mean per subject; NaN for one without a case that counts.

    Example:
        >>> mean_by_subject([1.0, 0.0, float("nan"), 3.0], [7, 7, 9, 9])
        array([0.5, 3. ])
    """
    data, owner = np.asarray(values, dtype=np.float64), np.unique(subjects, return_inverse=True)[1]
    counted = ~np.isnan(data)
    with np.errstate(invalid="ignore"):
        return np.bincount(owner, np.where(counted, data, 0)) / np.bincount(owner, counted)
