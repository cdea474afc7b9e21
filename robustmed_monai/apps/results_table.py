"""The one results table: every row's checkpoints and every control, measured, summarised, drawn and shown."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from robustmed_monai.metrics.bootstrap import Estimate
from robustmed_monai.metrics.result import Result, paired_tests, summarize
from robustmed_monai.utils.errors import ConfigError, WeightsError
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from robustmed_monai.utils.result_text import explanation, text_table
from robustmed_monai.visualize.figures import save_png

logger = logging.getLogger(__name__)

Measure = Callable[[Any], Result]
# Keys of a datalist item that name a file.
_FILES = ("image", "mask", "label")


class ResultsTable:
    """Measures rows x checkpoints, and controls, on the same data.

    For each checkpoint of a row (one per seed) ``measure(load(file, **settings))`` gives a Result.

    Args:
        measure: what ``load`` returns to a Result.
        load: weights file, and the settings of a row, to what ``measure`` takes.
        rows: row name to ``{"checkpoints": name, **settings}``. A row may name several checkpoints, whose
            files ``load`` then gets together, and a `measure` or a `load` of its own. Rows whose checkpoints
            are not given are left out.
        checkpoints: name to weights files, one per seed. A name that no row has is a row of its own, without
            settings; one without files is left out.
        controls: row name to what ``measure`` takes without any weights; the last rows of the table.
        data: section to data set in memory, with its datalist items as ``data``, or to such items; for the
            digest and the counts.
        seeds: seeds of the weights, for the record.
        name: name of the table.
        columns: columns that the console shows; the file has all. None shows all.
        against: rows that the others are compared with in paired tests.
        draw: results by row, one per seed, to figures by title; each becomes ``<name>_<title>.png``.
        device: where the networks run, for the record.
        digits: decimals that the console shows.

    Raises:
        ConfigError: when there is no row, or a row's checkpoints differ in number.
    """

    def __init__(
        self,
        measure: Measure,
        load: Callable[..., Any],
        rows: Mapping[str, Mapping[str, Any]],
        checkpoints: Mapping[str, Sequence[str]],
        controls: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        seeds: Sequence[int] = (0,),
        name: str = "results",
        columns: Sequence[str] | None = None,
        against: Sequence[str] = (),
        draw: Callable[[Mapping[str, Sequence[Result]]], Mapping[str, Any]] | None = None,
        device: Any = "cpu",
        digits: int = 3,
    ) -> None:
        self.measure, self.load, self.draw = measure, load, draw
        self.rows = _given_rows(rows, checkpoints)
        self.checkpoints = checkpoints
        self.controls = dict(controls or {})
        if not self.rows and (checkpoints or not self.controls):
            found = {name: len(files) for name, files in checkpoints.items()}
            names = sorted({name for row in rows.values() for name in _names(row)})
            raise ConfigError(f"checkpoints: found {found} files; give at least one file for one of {names}.")
        self.data = dict(data or {})
        self.seeds, self.name, self.columns, self.against = seeds, name, columns, against
        self.device, self.digits = device, digits

    def run(self, output: str | os.PathLike[str]) -> Path:
        """Measure, write ``<name>.json`` and the pictures, and show the table.

        Args:
            output: folder to write into.

        Returns:
            Path of the JSON.

        Raises:
            WeightsError: when a checkpoint is not there; said before anything is measured.
        """
        self._check_files()
        folder = Path(output)
        results: dict[str, list[Result]] = {}
        for row, measure, model in self._models():
            found = measure(model)
            results.setdefault(row, []).append(found)
            logger.info(f"{self.name}, {row}, run {len(results[row])}: {self._shown(found)}")
        head = provenance(seeds=self.seeds, data=data_entries(self.data, self.name), device=str(self.device))
        if self.against:
            head["paired_tests"] = paired_tests(results, self.against)
        cells = summarize(results)
        path = write_results(folder / f"{self.name}.json", cells, head)
        for name, figure in (self.draw(results) if self.draw else {}).items():
            save_png(figure, folder / f"{self.name}_{name}.png")
        logger.info(self._text(cells, head))
        logger.info(f"{self.name}: all figures are in {path}" + (", pictures beside it" if self.draw else ""))
        return path

    def _models(self) -> Iterator[tuple[str, Measure, Any]]:
        for row, settings in self.rows.items():
            given = {k: v for k, v in settings.items() if k not in ("checkpoints", "measure", "load")}
            load = settings.get("load", self.load)
            for files in zip(*(self.checkpoints[name] for name in _names(settings)), strict=True):
                yield row, settings.get("measure", self.measure), load(*files, **given)
        for row, control in self.controls.items():
            yield row, self.measure, control

    def _check_files(self) -> None:
        for row in self.rows.values():
            for file in (file for name in _names(row) for file in self.checkpoints[name]):
                if not Path(file).is_file():
                    raise WeightsError(f"{file}: no such file; train first, or name weights by --weights.")

    def _shown(self, result: Result) -> str:
        values = {k: v.value if isinstance(v, Estimate) else v for k, v in result.figures.items()}
        chosen = values if self.columns is None else [c for c in self.columns if c in values]
        return ", ".join(f"{column} {values[column]:.{self.digits}f}" for column in chosen)

    def _text(self, cells: Sequence[Mapping[str, Any]], head: Mapping[str, Any]) -> str:
        columns = self.columns or list(dict.fromkeys(cell["column"] for cell in cells))
        shown = [cell for cell in cells if cell["column"] in columns]
        counts = [_count(entry) for entry in head["data"]]
        lines = [f"{self.name}: " + "; ".join(counts), text_table(shown, columns, self.digits)]
        return "\n".join([*lines, explanation(shown) + "."])


def run_tables(tables: Mapping[str, ResultsTable | None], output: str | os.PathLike[str]) -> None:
    """Measure several tables, write them into one folder and show them; None is left out."""
    for table in tables.values():
        if table is not None:
            table.run(output)


def data_entries(data: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """What a results file says of its data: digest of the files, number of images and subjects by section.

    Args:
        data: section to data set in memory, with its datalist items as ``data``, or to such items.
        name: name of the table.
    """
    entries = []
    for section, dataset in data.items():
        items = getattr(dataset, "data", dataset)
        files = {item[key] for item in items for key in _FILES if isinstance(item.get(key), str)}
        entry: dict[str, Any] = {"name": name, "sha256": data_digest(sorted(files)), "split": section}
        unit = "pairs" if "moving" in getattr(dataset, "tensors", {}) else "images"
        entries.append({**entry, unit: len(dataset), **_subjects(dataset)})
    return entries


def _subjects(dataset: Any) -> dict[str, int]:
    """Number of subjects, of tensors in memory or of a datalist; nothing where they are not known."""
    tensors = getattr(dataset, "tensors", None)
    if tensors is None:
        known = [item["subject"] for item in dataset if "subject" in item]
        return {"subjects": len(set(known))} if len(known) == len(dataset) else {}
    found = [tensors[key] for key in ("subject", "moving_subject", "fixed_subject") if key in tensors]
    return {"subjects": len(torch.cat(found).unique())} if found else {}


def _count(entry: Mapping[str, Any]) -> str:
    unit = "pairs" if "pairs" in entry else "images"
    subjects = f" of {entry['subjects']} subjects" if "subjects" in entry else ""
    return f"{entry[unit]} {entry['split']} {unit}{subjects}"


def _names(row: Mapping[str, Any]) -> list[str]:
    given = row["checkpoints"]
    return [given] if isinstance(given, str) else list(given)


def _given_rows(
    rows: Mapping[str, Mapping[str, Any]], checkpoints: Mapping[str, Sequence[str]]
) -> dict[str, Mapping[str, Any]]:
    """Rows that have their checkpoints, and a row for every other name of the user's own."""
    counts = {name: len(files) for name, files in checkpoints.items() if len(files)}
    found = {row: settings for row, settings in rows.items() if set(_names(settings)) <= set(counts)}
    for row, settings in found.items():
        if len({counts[name] for name in _names(settings)}) > 1:
            raise ConfigError(f"row {row!r}: found {counts} files; give as many of each, one per seed.")
    known = {name for settings in rows.values() for name in _names(settings)}
    return found | {name: {"checkpoints": name} for name in counts if name not in known}
