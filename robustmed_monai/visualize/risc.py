"""Figures of RISC: accuracy by angle, who RotNet takes for whom, and heat maps over what they explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from robustmed_monai.transforms.rotation import degrees
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.visualize.figures import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = ("-", "--", ":", "-.")
_PANEL = 1.3  # inches


def accuracy_by_angle(curves: Mapping[str, Mapping[float, float]]) -> Figure:
    """One line per method: accuracy over the angle by which the test images are rotated.

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
    axis.set_xlabel("test images rotated by (degrees, counter-clockwise)", fontsize=9, color=INK)
    axis.set_ylabel("accuracy", fontsize=9, color=INK)
    ticks = sorted({a for points in curves.values() for a in points})
    axis.set_xticks(ticks if len(ticks) <= 12 else [a for a in ticks if a % 45 == 0])
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


class Panel(NamedTuple):
    """One picture of a sheet: an image (C, X, Y), grey or RGB in [0, 1], and a heat map (1, X, Y) or None."""

    image: torch.Tensor
    heat: torch.Tensor | None = None


def heatmap_sheet(
    rows: Sequence[Sequence[Panel]],
    headings: Sequence[str],
    titles: Sequence[str],
    strength: float = 0.6,
    note: str = "",
) -> Figure:
    """One row per case, one column per question; heat maps are laid over their images.

    All heat maps share one colour range, 0 to 1, and where the map is 0 the image shows unchanged.

    Args:
        rows: panels, as many in each row.
        headings: one per column.
        titles: one per row, shown at its left.
        strength: opacity of a heat map where it is 1.
        note: shown above.

    Returns:
        The figure, for ``save_png`` or ``to_array``.

    Raises:
        ConfigError: when numbers of panels, headings and titles differ.

    Example:
        >>> panel = Panel(torch.zeros(1, 8, 8), torch.ones(1, 8, 8))
        >>> len(heatmap_sheet([[panel, panel]], ["a", "b"], ["case"]).axes)
        2
    """
    if not rows or {len(row) for row in rows} != {len(headings)} or len(titles) != len(rows):
        raise ConfigError(
            f"sheet: rows of {[len(row) for row in rows]} panels, {len(headings)} headings, {len(titles)} "
            "titles; give as many headings as panels and as many titles as rows."
        )
    # A few columns leave the note too little room.
    columns = max(len(headings), 3)
    note = fill(note, 24 * columns)
    above = 0.12 * note.count("\n")
    figure = new_figure(_PANEL * columns + 0.4, _PANEL * len(rows) + 0.5 + above)
    axes = figure.subplots(len(rows), len(headings), squeeze=False)
    for line, panels in zip(axes, rows, strict=True):
        for axis, panel in zip(line, panels, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.imshow(_for_display(panel.image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if panel.heat is not None:
                heat = _for_display(panel.heat).clip(0, 1)
                axis.imshow(
                    heat, cmap="inferno", vmin=0, vmax=1, alpha=strength * heat, interpolation="nearest"
                )
    for axis, heading in zip(axes[0], headings, strict=True):
        axis.set_title(fill(heading, 18), fontsize=7, color=INK)
    for axis, title in zip(axes[:, 0], titles, strict=True):
        axis.set_ylabel(fill(title, 18), fontsize=7, color=INK)
    if note:
        figure.suptitle(note, fontsize=7, color=INK)
    return figure


def _for_display(image: torch.Tensor) -> npt.NDArray[np.float32]:
    # MONAI's axes are (x, y), a picture's are (rows, columns).
    array: npt.NDArray[np.float32] = image.detach().float().cpu().numpy().transpose(2, 1, 0)
    return array[..., 0] if array.shape[-1] == 1 else array.clip(0, 1)
