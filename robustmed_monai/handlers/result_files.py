"""What handlers share that write a folder of results per image file."""

from __future__ import annotations

import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ignite.engine import Engine, Events

from robustmed_monai.data.image_folder import image_stem
from robustmed_monai.data.image_list import name_results
from robustmed_monai.utils.errors import ConfigError, DataError, ImageError
from robustmed_monai.utils.files import read_json, write_json
from robustmed_monai.utils.fingerprint import digest_objects, input_stamp

SUMMARY = "summary.json"
# Failures that wait for the other processes of a run; removed when the summary is written.
_FAILED = ".failed"
_SHOWN_FAILURES = 100
_NOTE_SECONDS = 60.0


def is_picture(path: str, meta: Mapping[Any, Any]) -> bool:
    """Whether the results of an image are pictures too (PNG), not NIfTI: its file is one, and no stack."""
    is_nifti = path.lower().endswith((".nii", ".nii.gz"))
    return not is_nifti and len(np.asarray(meta["spatial_shape"])) == 2


class ResultFileWriter(ABC):
    """Base of ignite handlers for an evaluator that goes through image files one by one.

    The engine's output holds "path", and "error" where the image could not be used. A subclass writes files
    (``save``) and returns a report, which is written last, with ``made_from``: size and time of the image and
    a digest over network, weights, inferer, iteration and settings. Where the report of an earlier run says
    the same, its result is kept; so the same command goes on where it was stopped.

    Several processes may share the work: the one that finds all images done or failed writes
    ``summary.json`` and, when some failed, raises; the others end quietly before it.

    Args:
        output_dir: folder to write into, the same for all processes of a run.
        items: ``{"image": path}`` of all images of the run, whichever process works on them (None: those
            that this one gets).
    """

    # Set by a subclass: file name of the report, and what the summary keeps of it.
    report_name: ClassVar[str] = "scores.json"
    kept: ClassVar[Sequence[str]] = ("image", "warnings")

    def __init__(
        self, output_dir: str | os.PathLike[str], items: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        self.output_dir = Path(output_dir)
        self._settings = ""
        self._folders = name_results([str(item["image"]) for item in items or ()])
        self._stamps: dict[str, dict[str, int]] = {}
        self._failed = 0
        self._noted = (time.monotonic(), 0)

    def attach(self, engine: Engine) -> None:
        """Write after every image, and ``summary.json`` at the end."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._look)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    @abstractmethod
    def save(self, output: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Write the results of one image into a folder, all but the report, and return the report."""

    def _start(self, engine: Any) -> None:
        own = {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "output_dir"}
        workers = [getattr(engine, name, None) for name in ("network", "inferer", "_process_function")]
        self._settings = digest_objects(*workers, type(self), own)
        self._stamps.clear()
        self._failed = 0
        self._noted = (time.monotonic(), 0)

    def _look(self, engine: Any) -> None:
        item = engine.state.batch
        if "image" in item and self._report_of(str(item["image"])) is not None:
            engine.state.batch = {**item, "done": True}

    def _write(self, engine: Any) -> None:
        output: Any = engine.state.output
        path = str(output["path"])
        if "done" not in output:
            self._folders.setdefault(path, _free_name(path, self._folders.values()))
            with suppress(FileNotFoundError):
                self._failure(path).unlink()
            error = output.get("error") or self._save(output)
            if error is not None:
                self._failed += 1
                engine.logger.error(error)
                self._store(self._failure(path), path, {"error": error})
        self._note(engine)

    def _save(self, output: Mapping[str, Any]) -> str | None:
        """Write one result, the report last, and return the reason where the image does not allow it."""
        folder = self._folder(output["path"])
        try:
            # A result that is written anew must not look complete before it is.
            (folder / self.report_name).unlink(missing_ok=True)
            report = self.save(output, folder)
        except ImageError as error:
            return str(error)
        except OSError as error:
            raise _unwritable(self.output_dir, error) from error
        self._store(folder / self.report_name, str(output["path"]), report)
        return None

    def _store(self, file: Path, path: str, content: Mapping[str, Any]) -> None:
        try:
            write_json(file, {"image": path, **content, "made_from": self._made_from(path)})
        except OSError as error:
            raise _unwritable(self.output_dir, error) from error

    def _finish(self, engine: Any) -> None:
        done, failed, waiting = self._collect()
        if waiting:
            engine.logger.info(f"this share is done; other processes have {waiting} images to go")
            return
        write_json(self.output_dir / SUMMARY, {"images": done, "failed": failed})
        shutil.rmtree(self.output_dir / _FAILED, ignore_errors=True)
        engine.logger.info(f"{len(done)} images done; results are in {self.output_dir}")
        if failed:
            raise ImageError(_failure_table(failed, len(done) + len(failed), self.output_dir / SUMMARY))

    def _collect(self) -> tuple[list[dict[str, Any]], dict[str, str], int]:
        """Summary entries of the images with a result, reasons of the failed ones, number of the others."""
        done: list[dict[str, Any]] = []
        failed: dict[str, str] = {}
        for path, folder in self._folders.items():
            report, failure = self._report_of(path), self._current(self._failure(path), path)
            if report is not None:
                done.append({**{k: report[k] for k in self.kept if k in report}, "folder": folder})
            elif failure is not None:
                failed[path] = str(failure["error"])
        return done, failed, len(self._folders) - len(done) - len(failed)

    def _report_of(self, path: str) -> dict[str, Any] | None:
        return self._current(self._folder(path) / self.report_name, path) if path in self._folders else None

    def _current(self, file: Path, path: str) -> dict[str, Any] | None:
        """Content of a report or failure that belongs to the image as it is and to these settings."""
        if not file.is_file():
            return None
        with suppress(DataError):
            content = read_json(file)
            same = isinstance(content, dict) and content.get("image") == path
            if same and content.get("made_from") == self._made_from(path):
                return dict(content)
        return None

    def _made_from(self, path: str) -> dict[str, Any]:
        # Taken once, before the image is read: one that changes meanwhile is done again by the next run.
        if path not in self._stamps:
            try:
                self._stamps[path] = input_stamp(path)
            except OSError:
                self._stamps[path] = {}
        return {**self._stamps[path], "settings": self._settings}

    def _folder(self, path: str) -> Path:
        return self.output_dir / self._folders[path]

    def _failure(self, path: str) -> Path:
        return self.output_dir / _FAILED / f"{self._folders[path]}.json"

    def _note(self, engine: Any) -> None:
        """Say now and then how far it is: a log has no progress bar."""
        since, number = self._noted
        done, total = engine.state.iteration, engine.state.epoch_length
        spent = time.monotonic() - since
        if spent >= _NOTE_SECONDS and total:
            minutes = max(1, round(spent / (done - number) * (total - done) / 60))
            engine.logger.info(
                f"{done} of {total} images, {self._failed} failed; ready in about {minutes} min"
            )
            self._noted = (time.monotonic(), done)


def _free_name(path: str, taken: Sequence[str] | Any) -> str:
    number, name = 1, image_stem(Path(path))
    first, used = name, set(taken)
    while name in used:
        number, name = number + 1, f"{first}-{number + 1}"
    return name


def _failure_table(failed: Mapping[str, str], total: int, summary: Path) -> str:
    lines = [f"{len(failed)} of {total} images could not be used:"]
    # Advice first: the last lines are what a terminal shows.
    if len(failed) > _SHOWN_FAILURES:
        lines.append(f"  (the first {_SHOWN_FAILURES}; all are in {summary})")
    for path, reason in list(failed.items())[:_SHOWN_FAILURES]:
        # Reasons begin with the path as a rule; where not, it is put before them.
        lines.append(f"  {reason}" if reason.startswith(path) else f"  {path}: {reason}")
    return "\n".join(lines)


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"output_dir {folder}: cannot be written to ({error.strerror or error}); make room or give another "
        "folder. The same command goes on where it stopped."
    )
