"""Figures of a rotation study: accuracy by angle, and who RotNet takes for whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from robustmed_monai.transforms.rotation import degrees
from robustmed_monai.visualize.figures import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = ("-", "--", ":", "-.")


def accuracy_by_angle(curves: Mapping[str, Mapping[float, float]]) -> Figure:
    """One line per method: accuracy over the angle by which the test images lie turned.

    Args:
        curves: name to {angle in degrees: accuracy}.

    Example:
        >>> len(accuracy_by_angle({"RISC": {0.0: 0.9, 90.0: 0.8}}).axes[0].lines)
        1
    """
    figure = new_figure(6.4, 3.6)
    axis = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        angles = sorted(points)
        style = _STYLES[number // 10 % len(_STYLES)]
        axis.plot(angles, [points[a] for a in angles], style, marker="o", markersize=3, label=name)
    axis.set_xlabel("test images turned by (degrees, counter-clockwise)", fontsize=9, color=INK)
    axis.set_ylabel("accuracy", fontsize=9, color=INK)
    axis.set_xticks(sorted({a for points in curves.values() for a in points}))
    axis.tick_params(labelsize=8, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
    if curves:
        axis.legend(fontsize=7, frameon=False, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def confusion_figure(counts: torch.Tensor) -> Figure:
    """Confusion matrix of rotation classes as shares of the true class.

    Args:
        counts: (K, K), rows are true and columns predicted rotations.

    Example:
        >>> len(confusion_figure(torch.eye(4)).axes[0].texts)
        16
    """
    shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).tolist()
    count = len(shares)
    figure = new_figure(0.5 * count + 1.6, 0.5 * count + 1.2)
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, values in enumerate(shares):
        for column, value in enumerate(values):
            colour = "white" if value > 0.5 else INK
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    names = [f"{degrees(k, count):g}°" for k in range(count)]
    axis.set_xticks(range(count), names)
    axis.set_yticks(range(count), names)
    axis.set_xlabel("predicted", fontsize=9, color=INK)
    axis.set_ylabel("true", fontsize=9, color=INK)
    axis.tick_params(labelsize=8, colors=INK)
    return figure
