"""What every source shares: checking file by file, atomic writing, the report and the datalist.

A source is prepared case by case (a volume, an X-ray, a split). A case that fails is named in the report
and the rest goes on. A case that is done is noted in ``.prepared.jsonl`` with the size and time of its
input and the sha256 of its output, so that a second run neither reads nor writes it again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from robustmed_monai import VERSION
from robustmed_monai.data.split import SECTIONS, check_splits
from robustmed_monai.data.volume_writer import write_like
from robustmed_monai.data_prep.downloads import Download, DownloadFile, file_state
from robustmed_monai.data_prep.pixels import Array, png_bytes
from robustmed_monai.transforms.load import GeometryWarning
from robustmed_monai.transforms.scale_foreground import IntensityWarning
from robustmed_monai.utils.errors import ConfigError, DataError, RobustMedError
from robustmed_monai.utils.files import atomic_path, sha256

DATALIST = "datalist.json"
REPORT = "prepare_report.json"
JOURNAL = ".prepared.jsonl"
SHOWN_PROBLEMS = 20

Item = dict[str, Any]
Splits = tuple[float, float, float]


@dataclass(frozen=True)
class Source:
    """Name, terms and one-line description of a public source, as they stand in the datalist."""

    name: str
    license: str
    description: str


class Preparation:
    """One run of a source module: collects items, problems and digests, and writes the output folder.

    Args:
        source: what the datalist says about the data.
        output: folder to write; made when missing, continued when an earlier run stopped half way.
        settings: the arguments that decide the output; a folder made with other settings is refused.

    Raises:
        ConfigError: when a setting is out of range.
        DataError: when ``output`` was made with other settings.
    """

    def __init__(self, source: Source, output: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        _check_settings(settings)
        self.source = source
        self.folder = Path(output).absolute()
        self.settings = json.loads(json.dumps({"version": VERSION, **settings}))
        self.problems: list[dict[str, str]] = []
        self.warnings: list[str] = []
        self.skipped: Counter[str] = Counter()
        self.notes: dict[str, Any] = {}
        self._items: dict[str, list[Item]] = {section: [] for section in SECTIONS}
        self._digests: dict[str, str] = {}
        self._written: dict[str, str] = {}
        self._journal = self.folder / JOURNAL
        self._done = self._read_journal()

    def progress(self, cases: Iterable[Any]) -> Iterable[Any]:
        """Return ``cases`` behind a progress bar (silent when stderr is no terminal)."""
        return tqdm(cases, desc=self.source.name, unit="case", disable=None)

    def problem(self, file: object, text: str) -> None:
        """Note that ``file`` is missing or cannot be used."""
        self.problems.append({"file": str(file), "problem": text})

    def download(self, source: str | os.PathLike[str]) -> Download:
        """Open a download; what is missing of it becomes a problem."""
        found = Download(Path(source))
        if found.damage:
            self.problem(found.source, found.damage)
        return found

    def add_case(
        self,
        key: str,
        section: str,
        files: Sequence[Path | DownloadFile],
        make: Callable[[], list[Item]],
        stamp: Any = None,
    ) -> None:
        """Prepare one case, or take it over from an earlier run.

        Args:
            key: unique name of the case within the source.
            section: section of its items.
            files: input files; a missing one is reported and the case left out.
            make: reads the input, writes with ``image`` and ``mask``, returns the items.
            stamp: what else decides the items (a row of a table).
        """
        missing = [file for file in files if not file.is_file()]
        for file in missing:
            self.problem(file, "missing")
        if missing:
            return
        states = [file_state(file) if isinstance(file, Path) else file.state() for file in files]
        state = [*states, section, stamp]
        record = self._done.get(key)
        if record is None or record["state"] != json.loads(json.dumps(state)) or not self._intact(record):
            self._written = {}
            before = self.skipped.copy()
            try:
                with warnings.catch_warnings(record=True) as caught:
                    for category in (GeometryWarning, IntensityWarning):
                        warnings.simplefilter("always", category)
                    items = make()
            except RobustMedError as error:
                text = " ".join(str(error).split())
                named = (file for file in files if Path(str(file)).name in text)
                self.problem(next(named, files[0]), text)
                self.skipped = before
                return
            record = {"key": key, "state": state, "items": items, "digests": self._written}
            record |= {
                "skipped": dict(self.skipped - before),
                "warnings": [str(one.message) for one in caught],
            }
            self._append(record)
        else:
            self.skipped.update(record["skipped"])
        self._items[section] += record["items"]
        self._digests.update(record["digests"])
        self.warnings += record["warnings"]

    def image(self, name: str, pixels: Array, of_volume: bool = False) -> str:
        """Write ``pixels`` ((X, Y) in [0, 1]) as ``images/<name>.png`` and return that relative path.

        ``of_volume``: they were scaled as a whole volume, see ``png_bytes``.
        """
        return self._png(f"images/{name}.png", pixels, of_volume)

    def mask(self, name: str, pixels: Array) -> str:
        """Write a mask ((X, Y), above 0 = 1) as ``masks/<name>.png`` with values 0 and 255."""
        return self._png(f"masks/{name}.png", (pixels > 0).astype(np.float32))

    def tissue(self, name: str, pixels: Array) -> str:
        """Write a binary anatomical label as ``labels/<name>.png`` with values 0 and 255."""
        return self._png(f"labels/{name}.png", (pixels > 0).astype(np.float32))

    def labels(self, name: str, values: Array | NDArray[np.integer]) -> str:
        """Write a label map, whole numbers (X, Y) from 0 to 255, as ``labels/<name>.png``."""
        return self._png(f"labels/{name}.png", values.astype(np.float32) / np.float32(255))

    def volume(self, name: str, volume: Array, affine: Array) -> str:
        """Write a volume (X, Y, Z) as 8-bit NIfTI and return its name."""
        path = self.folder / name
        meta = {"spatial_shape": volume.shape, "original_affine": affine}
        write_like(volume[None].astype(np.uint8), meta, path, np.uint8)
        self._written[name] = sha256(path)
        return name

    def external(self, file: Path) -> str:
        """Name a file that stays where it is, by its absolute path."""
        name = str(file.absolute())
        self._written[name] = sha256(file)
        return name

    def finish(self, strict: bool = False) -> Path:
        """Write the report and the datalist.

        Args:
            strict: refuse to write the datalist when anything was missing or corrupt.

        Returns:
            Path of ``datalist.json``.

        Raises:
            DataError: when nothing was usable, or ``strict`` and there was a problem.
        """
        for items in self._items.values():
            items.sort(key=lambda item: str(item["image"]))
        counts = {section: _count(items) for section, items in self._items.items()}
        splits = self.settings.get("splits", (0, 0, 0))
        self.warnings += [
            f"{section} is empty: no subject of it could be used; give more subjects or other --splits."
            for section, fraction in zip(SECTIONS, splits, strict=True)
            if fraction > 0 and not self._items[section]
        ]
        kinds = Counter(str(item["kind"]) for item in self._items["test"] if "kind" in item)
        report = {"name": self.source.name, "settings": self.settings, "counts": counts}
        report |= {"kinds": dict(sorted(kinds.items())), "skipped": dict(sorted((+self.skipped).items()))}
        report |= {"notes": self.notes, "warnings": self.warnings, "problems": self.problems}
        write_if_different(self.folder / REPORT, report)
        if not any(self._items.values()):
            raise DataError(f"{self.folder}: nothing usable was found in the source.{self._problem_text()}")
        if strict and self.problems:
            raise DataError(f"{self.folder}: refused, --strict is set.{self._problem_text()}")
        head = {
            "name": self.source.name,
            "license": self.source.license,
            "description": self.source.description,
        }
        return write_if_different(self.folder / DATALIST, {**head, **self._items, "digests": self._digests})

    def _problem_text(self) -> str:
        lines = [f"\n  {entry['file']}: {entry['problem']}" for entry in self.problems[:SHOWN_PROBLEMS]]
        rest = len(self.problems) - len(lines)
        more = f"\n  and {rest} more" if rest > 0 else ""
        return f" {len(self.problems)} problem(s), all in {self.folder / REPORT}:{''.join(lines)}{more}"

    def _png(self, name: str, pixels: Array, of_volume: bool = False) -> str:
        content = png_bytes(pixels, of_volume)
        path = self.folder / name
        digest = hashlib.sha256(content).hexdigest()
        if not path.is_file() or sha256(path) != digest:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        self._written[name] = digest
        return name

    def _intact(self, record: Item) -> bool:
        return all(
            (self.folder / name).is_file() and sha256(self.folder / name) == digest
            for name, digest in record["digests"].items()
        )

    def _read_journal(self) -> dict[str, Item]:
        content = self._journal.read_bytes() if self._journal.is_file() else b""
        # A run that was killed may leave a torn last line; the case it stood for is simply done again.
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(self._journal, len(whole))
        try:
            records: list[Item] = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise DataError(f"{self._journal}: is damaged ({error}); remove it, the images stay.") from error
        if not records:
            self._append({"settings": self.settings})
            return {}
        if records[0].get("settings") != self.settings:
            raise DataError(
                f"{self.folder}: was made with {records[0].get('settings')}, now it is {self.settings}; "
                "choose another --output or remove the folder."
            )
        return {record["key"]: record for record in records[1:]}

    def _append(self, record: Item) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._journal.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def write_if_different(path: Path, content: Any) -> Path:
    """Write ``content`` as JSON atomically unless the file holds just that already."""
    text = (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    if not path.is_file() or path.read_bytes() != text:
        with atomic_path(path) as temporary:
            temporary.write_bytes(text)
    return path


def _count(items: Sequence[Item]) -> dict[str, int]:
    healthy = sum(bool(item["healthy"]) for item in items)
    subjects = len({item["subject"] for item in items})
    return {"subjects": subjects, "healthy": healthy, "abnormal": len(items) - healthy}


def _check_settings(settings: dict[str, Any]) -> None:
    check_splits(settings.get("splits", (0, 0, 1)))
    if not 0 < settings.get("percentile", 100) <= 100:
        raise ConfigError(f"percentile: got {settings['percentile']}; give a number above 0, at most 100.")
    for name in ("slices", "gap_mm", "size", "spacing_mm"):
        if settings.get(name) is not None and not settings[name] > 0:
            raise ConfigError(f"{name}: got {settings[name]}; give a number above 0.")


def require_folder(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as an existing folder or say that it is none."""
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of the official download as --source.")
    return folder


def read_csv(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV with a header.

    Returns:
        (line number, row) pairs; the values are stripped.

    Raises:
        DataError: when the file is missing, no text, or lacks a column; the message names it.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [column for column in columns if column not in (reader.fieldnames or [])]
            if missing:
                raise DataError(
                    f"{path}: column(s) {missing} missing, found {reader.fieldnames}; is it the right file?"
                )
            return [
                (
                    reader.line_num,
                    {name: (value or "").strip() for name, value in row.items() if name is not None},
                )
                for row in reader
            ]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; it is part of the official download.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); download it again.") from error
