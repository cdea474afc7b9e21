"""Sums results up over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def summarize(results: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Rows of a results file: mean and spread over the runs (seeds) of each detector.

    Args:
        results: row name to one result per seed.

    Returns:
        One ``{"row", "column", "mean", "std", "n"[, "ci95"]}`` per figure. ``std`` is the sample standard
        deviation over seeds (0 for one), ``ci95`` the mean of the seeds' bootstrap intervals over images.
    """
    rows = []
    for name, runs in results.items():
        for column in runs[0].figures:
            values = [r.figures[column] for r in runs if column in r.figures]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            row: dict[str, Any] = {
                "row": name,
                "column": column,
                "mean": float(np.mean(values)),
                "std": spread,
            }
            row["n"] = len(values)
            if column in runs[0].intervals:
                bounds = np.mean([r.intervals[column] for r in runs], axis=0)
                if np.isfinite(bounds).all():
                    row["ci95"] = [float(b) for b in bounds]
            rows.append(row)
    return rows
