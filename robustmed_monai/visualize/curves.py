"""Pictures of image scores: histograms of healthy against abnormal, ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustmed_monai.utils.errors import DataError
from robustmed_monai.visualize.figures import ABNORMAL, HEALTHY, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, without its yellow, which is faint on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_STYLES = ("-", "--", ":")


def score_histogram(
    healthy: npt.ArrayLike, abnormal: npt.ArrayLike, threshold: float | None = None, bins: int = 40
) -> Figure:
    """Histograms of the scores of healthy and abnormal images on the same bins, as shares of each group.

    Args:
        healthy: (n,) finite scores.
        abnormal: (m,) finite scores.
        threshold: marked by a line; None marks none.
        bins: number of equal bins over the range of all scores.

    Returns:
        The figure, for ``save_png`` or ``to_array``.

    Raises:
        DataError: when a group is empty or holds a score that is not finite.
    """
    groups = {"healthy": _scores("healthy", healthy), "abnormal": _scores("abnormal", abnormal)}
    edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), bins=bins)
    figure = new_figure(6.0, 3.6)
    axis = figure.subplots()
    for (name, scores), colour in zip(groups.items(), (HEALTHY, ABNORMAL), strict=True):
        label = f"{name} (n = {len(scores)})"
        shares = np.histogram(scores, edges)[0] / len(scores)
        axis.stairs(shares, edges, fill=True, alpha=0.35, color=colour, label=label)
        axis.stairs(shares, edges, color=colour)
    if threshold is not None:
        axis.axvline(threshold, color=INK, linestyle="--", linewidth=1, label=f"threshold {threshold:.3g}")
    _finish(axis, "image score", "share of the group")
    axis.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def roc_pr_curves(methods: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]]) -> Figure:
    """ROC and precision-recall curves of one or more methods, with their areas in the legends.

    Args:
        methods: name to (scores, labels), both (n,); labels are 1 for abnormal and 0 for healthy.

    Returns:
        The figure, for ``save_png`` or ``to_array``.

    Raises:
        DataError: without a method, for a score that is not finite, or when a class is missing; it names the
            method.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    if not methods:
        raise DataError("curves: no method was given; give at least one as name: (scores, labels).")
    figure = new_figure(9.0, 4.4)
    left, right = figure.subplots(1, 2)
    prevalences = set()
    for i, (name, (scores, labels)) in enumerate(methods.items()):
        s, y = _scores(name, scores), np.asarray(labels)
        if s.shape != y.shape or set(np.unique(y)) != {0, 1}:
            raise DataError(
                f"{name}: labels {y.shape} with values {np.unique(y)[:5]}; give 0 and 1, one per score."
            )
        style = {"color": _COLOURS[i % 7], "linestyle": _STYLES[i // 7 % 3], "linewidth": 1.6}
        fpr, tpr, _ = roc_curve(y, s)
        precision, recall, _ = precision_recall_curve(y, s)
        left.plot(fpr, tpr, label=f"{name}, area {roc_auc_score(y, s):.3f}", **style)
        # Steps, because precision between two points is not on the line between them.
        right.step(
            recall, precision, where="post", label=f"{name}, AP {average_precision_score(y, s):.3f}", **style
        )
        prevalences.add(float(y.mean()))
    left.plot([0, 1], [0, 1], color="#a0a0a0", linewidth=1, linestyle="--", label="chance")
    for prevalence in sorted(prevalences):
        right.axhline(
            prevalence, color="#a0a0a0", linewidth=1, linestyle="--", label=f"chance {prevalence:.3f}"
        )
    _finish(left, "false positive rate", "true positive rate")
    _finish(right, "recall", "precision")
    for axis, place in ((left, "lower right"), (right, "best")):
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.legend(frameon=False, fontsize=8, labelcolor=INK, loc=place)
    return figure


def _scores(name: str, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise DataError(f"{name}: scores of shape {array.shape}; give (n,) finite numbers, n at least 1.")
    return array


def _finish(axis: Any, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=9, color=INK)
    axis.set_ylabel(y, fontsize=9, color=INK)
    axis.tick_params(labelsize=8, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
