"""Grids of images, and curves over the severity of corruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import torch

from robustmed_monai.utils.errors import ImageShapeError
from robustmed_monai.visualize.figures import INK, new_figure, write_note

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours; lines that share one differ in style.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#303030")
_STYLES = ("-", "--", ":")
# Letters of a heading that the width of an image has room for.
_HEADING = 19


def evenly_spaced(items: torch.Tensor, count: int) -> torch.Tensor:
    """At most ``count`` of the items (N, ...), from the first to the last.

    Example:
        >>> evenly_spaced(torch.arange(9), 3)
        tensor([0, 4, 8])
    """
    return items[torch.linspace(0, len(items) - 1, min(count, len(items))).round().long()]


def image_grid(
    columns: Mapping[str, torch.Tensor], rows: Sequence[str] | None = None, note: str | None = None
) -> Figure:
    """Images side by side, all shown from 0 to 1; what lies outside is clipped.

    Args:
        columns: heading to images (N, C, X, Y), grey or RGB, the same number N under each.
        rows: N short texts beside the rows.
        note: what a reader has to know before looking, written across the top.

    Returns:
        The figure, for ``save_png``.

    Raises:
        ImageShapeError: when there is no image, or shapes differ.
    """
    shapes = {tuple(images.shape) for images in columns.values()}
    if len(shapes) != 1 or len(shape := next(iter(shapes))) != 4 or 0 in shape or shape[1] not in (1, 3):
        raise ImageShapeError(f"grid of {sorted(shapes)}; give the same (N, 1 or 3, X, Y) in each column.")
    figure = new_figure(
        1.1 * len(columns) + (1.0 if rows else 0.1), 1.1 * shape[0] * shape[3] / shape[2] + 0.5
    )
    axes = figure.subplots(shape[0], len(columns), squeeze=False)
    for column, (heading, images) in enumerate(columns.items()):
        axes[0, column].set_title(fill(heading, _HEADING), fontsize=7, color=INK)
        for row, image in enumerate(images):
            # MONAI's axes are (x, y), a picture's are (rows, columns).
            array = image.detach().float().cpu().clamp(0, 1).numpy().transpose(2, 1, 0)
            array = array[..., 0] if shape[1] == 1 else array
            axes[row, column].imshow(array, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes[row, column].set(xticks=[], yticks=[])
    for row, text in enumerate(rows or ()):
        axes[row, 0].set_ylabel(text, fontsize=7, color=INK, rotation=0, ha="right", va="center")
    write_note(figure, note)
    return figure


def severity_curves(
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, float, float]]]], label: str = "AUC"
) -> Figure:
    """One small plot per corruption, one line per method over the severities, with its spread over runs.

    Args:
        curves: corruption to method to (severity, mean, standard deviation), severity 0 being clean images.
        label: what is plotted.

    Returns:
        The figure, for ``save_png``. All plots share one scale.
    """
    wide = min(5, len(curves))
    tall = -(-len(curves) // wide)
    figure = new_figure(2.4 * wide, 2.0 * tall + 0.5)
    axes = figure.subplots(tall, wide, squeeze=False, sharex=True, sharey=True)
    for axis, (name, methods) in zip(axes.flat, curves.items(), strict=False):
        axis.set_title(name.replace("_", " "), fontsize=8, color=INK)
        for k, (method, points) in enumerate(methods.items()):
            severity, mean, std = np.array(points).T
            colour, style = _COLOURS[k % 7], _STYLES[k // 7 % 3]
            axis.plot(severity, mean, style, color=colour, linewidth=1.4, label=method)
            axis.fill_between(severity, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
        axis.set_xticks(severity)
        axis.tick_params(labelsize=7, colors=INK)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    figure.supxlabel("severity (0: clean)", fontsize=8, color=INK)
    figure.supylabel(label, fontsize=8, color=INK)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8, labelcolor=INK
    )
    return figure
