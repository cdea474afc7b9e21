"""Tables of the pages, generated from results files: ``python tools/tables.py [--check]``.

A table stands between two comments and is replaced as a whole::

    <!-- table: bundles/ra/docs/results/ixi.json rows=RA,VAE columns=image_auroc,pixel_ap digits=3 -->
    <!-- end table -->

The path is relative to the repository; ``rows`` and ``columns`` choose and order (left out: all, in the order
of the file); ``digits`` are the decimals. A name with a space is quoted: ``"rows=mean image,RA"``.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustmed_monai.utils.errors import ConfigError, RobustMedError
from robustmed_monai.utils.files import atomic_path
from robustmed_monai.utils.provenance import read_results
from robustmed_monai.utils.result_text import cell_text, explanation

_REPOSITORY = Path(__file__).resolve().parents[1]
# A longer command names the weights of every run: the results file has it.
_COMMAND = 120
_DOCUMENTS = ("*.md", "docs/**/*.md", "bundles/*/docs/*.md", "benchmarks/*.md")
_START = re.compile(r"^<!-- table: (?P<options>.*?) -->[ \t]*$", re.MULTILINE)
_END = "<!-- end table -->"
_OPTIONS = {"rows", "columns", "digits"}


def render_table(
    results: Mapping[str, Any],
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    digits: int = 3,
) -> str:
    """Return the Markdown table of a results file, with a line underneath that says where it comes from.

    Args:
        results: content of a results file, as ``provenance.write_results`` writes it.
        rows: rows to show, in this order; all when None.
        columns: columns to show, in this order; all when None. Not for benchmarks.
        digits: decimals of a figure.

    Raises:
        ConfigError: when a chosen row or column is not in the results.
    """
    cells = results["rows"]
    if "case" in cells[0]:
        lines = _benchmark_lines(cells, rows, columns, digits)
        hardware = results["hardware"]
        what = f"Medians; {hardware['cpu']}, {hardware['threads']} threads, {hardware['device']}"
    else:
        rows = _choose(rows, [cell["row"] for cell in cells], "row")
        columns = _choose(columns, [cell["column"] for cell in cells], "column")
        shown = [cell for cell in cells if cell["row"] in rows and cell["column"] in columns]
        lines = _result_lines(shown, rows, columns, digits)
        kind = {"interval": results["interval"]} if "interval" in results else {}
        what = explanation(shown, **kind)
        if len(results["seeds"]) == 1:
            what = "One seed" if what == "One run" else f"One seed; {what}"
    commit = results["commit"] or "none"
    short = commit[:12] + ("+dirty" if commit.endswith("+dirty") else "")
    command = results["command"]
    said = f"`{command}`, " if len(command) <= _COMMAND else ""
    return "\n".join([*lines, "", f"{what}. {said}{results['date']}, commit {short}."])


def update_document(text: str, root: Path) -> str:
    """Return the Markdown ``text`` with every marked table rendered anew.

    Args:
        text: content of the document.
        root: folder that the paths in the markers are relative to.

    Raises:
        ConfigError: when a marker is not closed or has unknown options.
        DataError: when a results file cannot be read.
    """
    parts, position = [], 0
    for start in _START.finditer(text):
        end = text.find(_END, start.end())
        following = _START.search(text, start.end())
        if end < 0 or (following is not None and following.start() < end):
            raise ConfigError(f"'{start.group()}' is not closed; add a line '{_END}' after it.")
        path, options = _read_options(start["options"])
        table = render_table(read_results(root / path), **options)
        parts += [text[position : start.end()], "\n\n", table, "\n\n"]
        position = end
    return "".join(parts) + text[position:]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables of all documents, or with ``--check`` say which differ.

    Args:
        arguments: command line; the process's own by default.

    Returns:
        Exit status: 1 when a table differs under ``--check`` or cannot be made.
    """
    parser = argparse.ArgumentParser(description="Generate the tables of the READMEs from the results files.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a document differs")
    parser.add_argument(
        "root", nargs="?", type=Path, default=_REPOSITORY, help="repository (default: this one)"
    )
    options = parser.parse_args(arguments)
    status = 0
    for document in _documents(options.root):
        name = document.relative_to(options.root)
        text = document.read_text(encoding="utf-8")
        try:
            updated = update_document(text, options.root)
        except RobustMedError as error:
            sys.stderr.write(f"{name}: {error}\n")
            status = 1
            continue
        if updated == text:
            continue
        if options.check:
            sys.stderr.write(f"{name}: its tables differ from the results files; run `make tables`.\n")
            status = 1
        else:
            with atomic_path(document) as temporary:
                temporary.write_text(updated, encoding="utf-8")
            sys.stderr.write(f"{name}: written\n")
    return status


def _documents(root: Path) -> list[Path]:
    return sorted({document for pattern in _DOCUMENTS for document in root.glob(pattern)})


def _read_options(text: str) -> tuple[str, dict[str, Any]]:
    path, *words = shlex.split(text)
    options: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in _OPTIONS or not equals or not value:
            raise ConfigError(f"table {path}: unknown option '{word}'; use rows=, columns= or digits=.")
        if key == "digits" and not value.isdecimal():
            raise ConfigError(f"table {path}: digits is '{value}'; give a whole number.")
        options[key] = int(value) if key == "digits" else value.split(",")
    return path, options


def _result_lines(
    cells: Sequence[Mapping[str, Any]], rows: Sequence[str], columns: Sequence[str], digits: int
) -> list[str]:
    figures = {(cell["row"], cell["column"]): cell_text(cell, digits) for cell in cells}
    return _markdown(
        ["", *(column.replace("_", " ") for column in columns)],
        [[row, *(figures.get((row, column), "–") for column in columns)] for row in rows],
    )


def _benchmark_lines(
    cases: Sequence[Mapping[str, Any]],
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    digits: int,
) -> list[str]:
    if columns is not None:
        raise ConfigError("a benchmark table has fixed columns; leave columns= out.")
    chosen = _choose(rows, [case["case"] for case in cases], "row")
    lines = [
        [
            case["case"],
            f"{case['ours']:.{digits}f}",
            f"{case['peer']:.{digits}f} ({case['peer_name']})",
            case["unit"],
            f"{case['ratio']:.2f}",
        ]
        for name in chosen
        for case in cases
        if case["case"] == name
    ]
    return _markdown(["case", "ours", "peer", "unit", "ratio"], lines)


def _choose(wanted: Sequence[str] | None, given: Iterable[str], kind: str) -> list[str]:
    known = list(dict.fromkeys(given))
    if wanted is None:
        return known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"no {kind} {unknown} in the results; it has {known}.")
    return list(wanted)


def _markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(line)} |" for line in (header, rule, *lines)]


if __name__ == "__main__":
    sys.exit(main())
