"""Cells and footers of results tables as text, for the console and for pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Cells = Sequence[Mapping[str, Any]]


def cell_text(cell: Mapping[str, Any], digits: int = 3) -> str:
    """A figure as "mean ± std" of several seeds, "mean [low, high]" of one, or the figure alone.

    >>> cell_text({"mean": 0.5, "std": 0.0, "n": 1, "ci95": [0.4, 0.61]}, 2)
    '0.50 [0.40, 0.61]'
    """
    mean = f"{cell['mean']:.{digits}f}"
    if cell["n"] > 1:
        return f"{mean} ± {cell['std']:.{digits}f}"
    if "ci95" in cell:
        low, high = cell["ci95"]
        return f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"
    return mean


def explanation(cells: Cells, interval: str = "bootstrap interval over subjects") -> str:
    """What ± and [a, b] in these cells mean, with the number of seeds where rows differ in it.

    >>> explanation([{"row": "a", "mean": 0.5, "n": 1, "ci95": [0.4, 0.6]}], "binomial interval")
    '[a, b]: 95 % binomial interval'
    """
    seeds: dict[int, list[str]] = {}
    for cell in cells:
        rows = seeds.setdefault(cell["n"], [])
        rows += [] if cell["row"] in rows else [cell["row"]]
    parts = []
    several = [n for n in sorted(seeds) if n > 1]
    if several:
        counts = (
            f"{several[0]} seeds"
            if len(several) == 1
            else "; ".join(f"{n} seeds: {', '.join(seeds[n])}" for n in several)
        )
        parts.append(f"±: standard deviation over {counts}")
    if any(cell["n"] == 1 and "ci95" in cell for cell in cells):
        parts.append(f"[a, b]: 95 % {interval}")
    if several and 1 in seeds:
        parts.append("rows without ± have one run")
    return "; ".join(parts) or "One run"


def text_table(cells: Cells, columns: Iterable[str], digits: int = 3) -> str:
    """The table as aligned plain text, rows in the order of the cells.

    Args:
        cells: rows of a results file.
        columns: columns to show, in this order; those that no row has are left out.
        digits: decimals.
    """
    figures = {(cell["row"], cell["column"]): cell_text(cell, digits) for cell in cells}
    known = {cell["column"] for cell in cells}
    shown = [column for column in columns if column in known]
    rows = list(dict.fromkeys(cell["row"] for cell in cells))
    lines = [["", *(c.replace("_", " ") for c in shown)]]
    lines += [[row, *(figures.get((row, column), "-") for column in shown)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join(
            [line[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    return "\n".join(text.rstrip() for text in texts)
