"""Matplotlib figures without pyplot: no global state, no display, and PNG files that are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from robustmed_monai.utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#303030"
_NOTE = "#b00020"
HEALTHY, ABNORMAL = "#0072b2", "#d55e00"  # told apart by colour-blind readers (Okabe and Ito)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of width x height inches on an Agg canvas, laid out so that nothing overlaps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def write_note(figure: Figure, note: str | None) -> None:
    """Write what a reader has to know before looking across the top, in lines that fit the figure."""
    if note:
        # A small figure would have no room left for its pictures. About 15 letters of this size to an inch.
        figure.set_figwidth(max(figure.get_figwidth(), 3.3))
        text = fill(note, int(15 * figure.get_figwidth()))
        figure.set_figheight(figure.get_figheight() + 0.12 * text.count("\n"))
        figure.suptitle(text, fontsize=8, color=_NOTE)


def save_png(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG atomically and return the path; figures drawn alike give the same bytes."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return Path(path)


def to_array(figure: Figure) -> npt.NDArray[np.uint8]:
    """Draw a figure to (rows, columns, 3) uint8, for ``SummaryWriter.add_image(..., dataformats="HWC")``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    rgba: npt.NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return rgba[..., :3].copy()
