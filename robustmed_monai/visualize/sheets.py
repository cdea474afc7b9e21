"""Sheets of cases: input, pseudo-healthy image and anomaly map side by side."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError
from robustmed_monai.visualize.figures import INK, new_figure, write_note

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float32]
Images = torch.Tensor | Sequence[torch.Tensor]

_PANEL = 2.0  # inches
_MASK, _FOUND = "#00c8d7", "#ff9500"


def anomaly_sheet(
    images: Images,
    pseudo_healthy: Images | None,
    maps: Images,
    masks: Images | None = None,
    titles: Sequence[str] | None = None,
    vmax: float | None = None,
    threshold: float | None = None,
    note: str | None = None,
) -> Figure:
    """One row per case: input, pseudo-healthy image, anomaly map, and the input with mask and threshold.

    All maps of the sheet share one colour range from 0 to ``vmax``, so colours compare between rows, and with
    the same ``vmax`` between sheets. Images are shown from 0 to 1. Nothing is scaled per image.

    Args:
        images: (N, C, X, Y) or a list of (C, X, Y), grey (C = 1) or RGB (C = 3), in [0, 1].
        pseudo_healthy: as images; None leaves the column out.
        maps: (N, 1, X, Y) or a list of (1, X, Y), >= 0.
        masks: as maps, 1 where anomalous; None outlines no mask.
        titles: N short texts, shown beside the rows.
        vmax: upper end of the colours; None takes the 99.5th percentile of all maps of the sheet.
        threshold: outline map >= threshold; None outlines none. Without both there is no fourth column.
        note: what a reader has to know before looking, written across the top.

    Returns:
        The figure, for ``save_png`` or ``to_array``.

    Raises:
        ImageShapeError: when there is no image, numbers or sizes differ, or an image is not 2-D.
        ConfigError: when `vmax` is not a positive number, or there are not N titles.
        DataError: when no map holds a finite value.

    Example:
        >>> x = torch.zeros(2, 1, 8, 8)
        >>> len(anomaly_sheet(x, x, x + 0.1, vmax=1.0).axes)  # six panels and the colour bar
        7
    """
    columns = {"Input": images, "Anomaly map": maps}
    if pseudo_healthy is not None:
        columns["Pseudo-healthy"] = pseudo_healthy
    if masks is not None:
        columns["mask"] = masks
    cases = _cases(columns)
    if titles is not None and len(titles) != len(cases):
        raise ConfigError(f"titles: {len(titles)} for {len(cases)} images; give one each.")
    figure = _draw(cases, titles, _top(cases, vmax), threshold)
    write_note(figure, note)
    return figure


def _cases(columns: dict[str, Images]) -> list[dict[str, Array]]:
    """The columns as one dictionary of display arrays (rows, columns[, 3]) per case."""
    arrays = {name: [_for_display(image, name) for image in images] for name, images in columns.items()}
    numbers = {name: len(images) for name, images in arrays.items()}
    if len(set(numbers.values())) != 1 or 0 in numbers.values():
        raise ImageShapeError(
            f"sheet: numbers of images {numbers}; give the same number, at least one, of each."
        )
    cases = [dict(zip(arrays, panels, strict=True)) for panels in zip(*arrays.values(), strict=True)]
    for i, case in enumerate(cases):
        sizes = {name: image.shape[:2] for name, image in case.items()}
        if len(set(sizes.values())) != 1:
            raise ImageShapeError(f"sheet, case {i}: sizes {sizes} in rows and columns; make them equal.")
    return cases


def _for_display(image: torch.Tensor, name: str) -> Array:
    if image.ndim != 3 or image.shape[0] not in ((1, 3) if name in ("Input", "Pseudo-healthy") else (1,)):
        raise ImageShapeError(
            f"{name}: an image of shape {tuple(image.shape)}; give (1, X, Y), or (3, X, Y) for RGB."
        )
    # MONAI's axes are (x, y), a picture's are (rows, columns).
    array: Array = image.detach().float().cpu().numpy().transpose(2, 1, 0)
    return array[..., 0] if array.shape[-1] == 1 else array.clip(0, 1)


def _top(cases: list[dict[str, Array]], vmax: float | None) -> float:
    if vmax is not None:
        if not (np.isfinite(vmax) and vmax > 0):
            raise ConfigError(f"vmax={vmax}; give a positive number, the same for all sheets to be compared.")
        return vmax
    values = np.concatenate([case["Anomaly map"].ravel() for case in cases])
    values = values[np.isfinite(values)]
    if not len(values):
        raise DataError("sheet: no map holds a finite value; look at the network's output.")
    # Maps that are 0 nearly everywhere still need a range, and so do those that are 0 everywhere.
    return float(np.percentile(values, 99.5)) or float(values.max()) or 1.0


def _draw(
    cases: list[dict[str, Array]], titles: Sequence[str] | None, top: float, threshold: float | None
) -> Figure:
    outlined = "mask" in cases[0] or threshold is not None
    shown = [name for name in ("Input", "Pseudo-healthy", "Anomaly map") if name in cases[0]]
    rows, columns = len(cases), len(shown) + outlined
    height, width = cases[0]["Input"].shape[:2]
    figure = new_figure(_PANEL * width / height * columns + 0.9, _PANEL * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, case in zip(axes, cases, strict=True):
        for axis, name in zip(row, shown[:-1], strict=False):
            _show(axis, case[name], "gray", 1.0)
        colours = _show(row[len(shown) - 1], case["Anomaly map"], "inferno", top)
        if outlined:
            _show(row[-1], case["Input"], "gray", 1.0)
            found = case["Anomaly map"] >= threshold if threshold is not None else None
            _outline(row[-1], case["mask"] > 0 if "mask" in case else None, _MASK, 2.0)
            _outline(row[-1], found, _FOUND, 0.8)
    for axis, heading in zip(axes[0], shown, strict=False):
        axis.set_title(heading, fontsize=10, color=INK)
    for axis, title in zip(axes[:, 0], titles or (), strict=False):
        axis.set_ylabel(fill(title, 24), fontsize=8, color=INK)
    if outlined:
        _legend(axes[0, -1], "mask" in cases[0], threshold)
    bar = figure.colorbar(
        colours, ax=axes, extend="max", extendfrac=0.06 / rows, fraction=0.03, pad=0.01, aspect=15 * rows
    )
    bar.ax.tick_params(labelsize=8, colors=INK)
    return figure


def _show(axis: Any, image: Array, colours: str, top: float) -> Any:
    axis.set(xticks=[], yticks=[])
    return axis.imshow(image, cmap=colours, vmin=0.0, vmax=top, interpolation="nearest")


def _outline(axis: Any, region: npt.NDArray[np.bool_] | None, colour: str, width: float) -> None:
    # An empty region has no outline to draw; the frame of zeros closes outlines at the border.
    if region is not None and region.any():
        rows, columns = (np.arange(-1, n + 1) for n in region.shape)
        axis.autoscale(False)
        axis.contour(
            columns, rows, np.pad(region.astype(float), 1), levels=[0.5], colors=[colour], linewidths=[width]
        )


def _legend(axis: Any, masked: bool, threshold: float | None) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=_MASK, label="mask")] if masked else []
    if threshold is not None:
        lines.append(Line2D([], [], color=_FOUND, label=f"map ≥ {threshold:.3g}"))
    axis.legend(
        handles=lines, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2, fontsize=8, frameon=False,
        labelcolor=INK, handlelength=1.2, columnspacing=1.0, borderpad=0.2,
    )  # fmt: skip
