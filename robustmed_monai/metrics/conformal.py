"""Guarantees from some tens of healthy images of one's own: conformal p-values and thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustmed_monai.utils.errors import ConfigError, DataError


def conformal_p_values(healthy: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """Return p = (1 + number of healthy scores at least as high) / (n + 1) of each score.

    For an image exchangeable with the healthy ones P(p <= a) <= a holds for every a in (0, 1), whatever the
    distribution and however small n; with ties p is conservative.

    Args:
        healthy: scores (n,) of the healthy images set apart, higher is more abnormal; n >= 1.
        scores: scores of any shape.

    Returns:
        p-values of the shape of ``scores``, in [1 / (n + 1), 1].

    Raises:
        DataError: without a healthy score, or for one that is not finite.

    Source: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005; Bates et al., Testing for
        outliers with conformal p-values, Annals of Statistics 2023.

    Example:
        >>> conformal_p_values([0.1, 0.2, 0.3], [0.25, 9.0]).tolist()
        [0.5, 0.25]
    """
    known = _checked(healthy)
    values = np.asarray(scores, np.float64)
    if not np.isfinite(values).all():
        raise DataError("scores: found NaN or infinite values; a p-value needs numbers.")
    at_least = len(known) - np.searchsorted(known, values, side="left")
    result: NDArray[np.float64] = (1 + at_least) / (len(known) + 1)
    return result


def conformal_threshold(healthy: ArrayLike, share: float) -> float:
    """Return the threshold that at most a share of new healthy images reaches.

    Args:
        healthy: of each of n healthy images its highest value, such as the maximum of its anomaly map.
        share: a in (0, 1).

    Returns:
        The next number in float32 above the k-th highest value, k = floor(a (n + 1)): a new image
        exchangeable with these has a value >= threshold with probability at most a.

    Raises:
        ConfigError: for a share out of range, or too few images for it; the message says how many are needed.
        DataError: see ``conformal_p_values``.

    Example:
        >>> conformal_threshold(range(19), 0.05) > 18
        True
    """
    known = _checked(healthy)
    needed = images_needed(share)
    if len(known) < needed:
        raise ConfigError(
            f"share={share:g}: {len(known)} healthy images cannot vouch for it; {needed} or more are needed."
        )
    # A product such as 0.05 * 20 may lie a rounding error below the whole number.
    k = math.floor(share * (len(known) + 1) + 1e-9)
    return float(np.nextafter(np.float32(known[-k]), np.float32(np.inf)))


def images_needed(share: float) -> int:
    """Return the least number of healthy images n for which 1 / (n + 1) <= share.

    Raises:
        ConfigError: for a share outside of (0, 1).

    Example:
        >>> images_needed(0.05), images_needed(0.01)
        (19, 99)
    """
    if not 0 < share < 1:
        raise ConfigError(f"share={share} is not between 0 and 1; for 5 % write 0.05.")
    return math.ceil(1 / share - 1e-9) - 1


def _checked(healthy: ArrayLike | Sequence[float]) -> NDArray[np.float64]:
    known = np.sort(np.asarray(healthy, np.float64).ravel())
    if not len(known):
        raise DataError("healthy: no score was given; apply the method to healthy images first.")
    if not np.isfinite(known).all():
        raise DataError("healthy: found NaN or infinite scores.")
    return known
