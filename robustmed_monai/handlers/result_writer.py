"""One folder of results per image file: images on the file's grid, a report as JSON, sheets as PNG."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from robustmed_monai.data.image_list import name_results
from robustmed_monai.data.volume_writer import write_like
from robustmed_monai.handlers.site_calibration import SiteCalibration
from robustmed_monai.utils.errors import ConfigError, DataError, ImageError
from robustmed_monai.utils.files import atomic_path, read_json, write_json
from robustmed_monai.utils.fingerprint import digest_objects, input_stamp
from robustmed_monai.visualize.figures import save_png

Output = Mapping[str, Any]
Report = Callable[[Output], Mapping[str, Any]]
Sheet = Callable[[Output], Any]
WriteFile = Callable[[Output, Path], None]

SUMMARY = "summary.json"
# Failures that wait for the other processes of a run; removed when the summary is written.
_FAILED = ".failed"
_SHOWN_FAILURES = 100
_NOTE_SECONDS = 60.0


def is_picture(output: Output) -> bool:
    """Whether the results of an image are pictures too (PNG), not NIfTI: its file is one, and no stack."""
    return len(np.asarray(output["image"].meta["spatial_shape"])) == 2


class ResultWriter:
    """Ignite handler for a FileEvaluator: writes what came out for an image into ``output_dir/<its name>``.

    The report is written last, with ``made_from``: size and time of the image and a digest over
    ``made_from`` and the writer's settings. Where the report of an earlier run says the same, its result is
    kept, so the same command goes on where it was stopped (``pending``). At the end ``summary.json`` lists
    the images of this run and those of earlier runs into the folder that still have their results.

    Several processes may share the work: the one that finds all images done or failed writes the summary
    and, when some failed, raises; the others end quietly before it.

    Args:
        output_dir: folder to write into, the same for all processes of a run.
        files: ``{"image": path}`` of all images of the run, whichever process works on them.
        images: name of the file, without suffix, for keys of the output that are images on the source's
            grid; keys that an output lacks are left out. NIfTI, or PNG for pictures (of 1 or 3 channels).
        report: output to what the JSON says about the image.
        sheets: name of a PNG to a function from the output to a figure, or None where there is nothing to
            show.
        extra_files: name of a file to a function that writes it: (output, path).
        report_name: file name of the report.
        summary: keys of the report that the summary repeats; `image` and `warnings` always.
        display: for pictures, the values shown as black and white, by key. An image without an entry is in
            the source's intensities, whose white is white; masks and labels are written as they are.
        whole_numbers: keys written as uint8 with the values as they are.
        signed: keys of differences; in pictures 0 is the middle grey.
        own_grid: keys of images that lie elsewhere than the source, where their own affine says.
        made_from: all that results depend on beside the image: network, transforms, inferer.
        site: scores of healthy images of the user's site, which add p-values to the report.

    Raises:
        ConfigError: when the folder cannot be written to, or a result would lie among the images.
        ImageError: at the end of the run, when some images could not be used; it names them. The results of
            the others are written by then.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        files: Sequence[Mapping[str, Any]],
        images: Mapping[str, str],
        report: Report,
        sheets: Mapping[str, Sheet] | None = None,
        extra_files: Mapping[str, WriteFile] | None = None,
        report_name: str = "scores.json",
        summary: Sequence[str] = (),
        display: Mapping[str, Sequence[float]] | None = None,
        whole_numbers: Sequence[str] = (),
        signed: Sequence[str] = (),
        own_grid: Sequence[str] = (),
        made_from: Sequence[Any] = (),
        site: SiteCalibration | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.files = list(files)
        self.images = dict(images)
        self.report = report
        self.sheets = dict(sheets or {})
        self.extra_files = dict(extra_files or {})
        self.report_name = report_name
        self.summary = list(summary)
        self.site = site
        self.display = {key: (float(low), float(high)) for key, (low, high) in (display or {}).items()}
        self.whole_numbers = sorted(whole_numbers)
        self.signed = sorted(signed)
        self.own_grid = frozenset(own_grid)
        shown = [self.sheets, self.extra_files, self.display, self.whole_numbers, self.signed]
        shown.append(sorted(self.own_grid))
        settings = [self.images, report, shown, site]
        self._settings = digest_objects(*made_from, settings)
        self._folders = name_results([str(item["image"]) for item in self.files])
        _check_apart(self.output_dir, self._folders)
        self._others = {str(item["image"]): _other_files(item) for item in self.files}
        self._stamps: dict[str, dict[str, Any]] = {}
        self._failed = 0
        self._error: str | None = None
        self._noted = (time.monotonic(), 0)

    def pending(self, rank: int = 0, world_size: int = 1) -> list[Mapping[str, Any]]:
        """The share of a process: every ``world_size``-th file, less those whose result is there already."""
        share = self.files[rank::world_size]
        return [item for item in share if self._report_of(str(item["image"])) is None]

    def reports(self) -> list[dict[str, Any]]:
        """Reports of the images of this run that are done, in the order of ``files``."""
        found = (self._report_of(path) for path in self._folders)
        return [report for report in found if report is not None]

    def attach(self, engine: Engine) -> None:
        """Write after every image, and the summary at the end; what failed is raised after all else."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Any) -> None:
        self._failed = 0
        self._error = None
        self._noted = (time.monotonic(), 0)
        # Registered only now, it comes after all handlers of this event, which have done images to show.
        if not engine.has_event_handler(self._raise, Events.COMPLETED):
            engine.add_event_handler(Events.COMPLETED, self._raise)

    def _write(self, engine: Any) -> None:
        output: Any = engine.state.output
        path = str(output["path"])
        with suppress(FileNotFoundError):
            self._failure(path).unlink()
        error = output.get("error")
        if error is None:
            error = self._save(output)
        else:
            self._clear(self._folder(path))
        if error is not None:
            self._failed += 1
            engine.logger.error(error)
            self._store(self._failure(path), path, {"error": error})
        else:
            for warning in output["warnings"]:
                engine.logger.warning(f"{path}: {warning}")
        self._note(engine)

    def _save(self, output: Output) -> str | None:
        """Write one result, the report last, and return the reason where the image does not allow it."""
        folder = self._folder(str(output["path"]))
        try:
            self._clear(folder)
            self._write_files(output, folder)
        except ImageError as error:
            return str(error)
        except OSError as error:
            raise _unwritable(self.output_dir, error) from error
        report = self.report(output)
        report = report if self.site is None else self.site.complete(report)
        content = {**report, "warnings": output["warnings"]}
        self._store(folder / self.report_name, str(output["path"]), content)
        return None

    def _clear(self, folder: Path) -> None:
        """Remove an earlier result: it must not look complete, and what is left out now must not stay."""
        images = [f"{name}{suffix}" for name in self.images.values() for suffix in (".nii.gz", ".png")]
        for name in (self.report_name, *images, *self.sheets, *self.extra_files):
            (folder / name).unlink(missing_ok=True)

    def _write_files(self, output: Output, folder: Path) -> None:
        for key, name in self.images.items():
            if key in output:
                self._write_image(output, key, folder / name)
        for name, draw in self.sheets.items():
            figure = draw(output)
            if figure is not None:
                save_png(figure, folder / name)
        for name, write in self.extra_files.items():
            with atomic_path(folder / name) as temporary:
                write(output, temporary)

    def _write_image(self, output: Output, key: str, path: Path) -> None:
        values, meta = torch.as_tensor(output[key]).as_subclass(torch.Tensor), output["image"].meta
        if key in self.own_grid:
            affine = output[key].affine.numpy()
            meta = {
                "spatial_shape": values.shape[1:],
                "original_affine": affine,
                "max_value": meta.get("max_value"),
            }
        # A PNG holds grey or colour, nothing of more channels.
        picture = is_picture(output) and values.shape[0] in (1, 3)
        whole = key in self.whole_numbers
        dtype = np.uint8 if whole else np.float32
        if whole:
            values = values.round().to(torch.uint8)
        if picture:
            # A float picture without a white of its own is shown up to what the network saw as white.
            white = 1.0 if whole else float(meta.get("max_value") or meta.get("scaled_high") or 1.0)
            low, high = self.display.get(key, (-white if key in self.signed else 0.0, white))
            values = ((values.float() - low) / (high - low)).clamp(0, 1)
        target = path.with_name(f"{path.name}{'.png' if picture else '.nii.gz'}")
        write_like(values, meta, target, np.uint8 if picture else dtype)

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
        write_json(self.output_dir / SUMMARY, {"images": [*self._earlier(), *done], "failed": failed})
        shutil.rmtree(self.output_dir / _FAILED, ignore_errors=True)
        images = "1 image" if len(done) == 1 else f"{len(done)} images"
        engine.logger.info(f"{images} done; results are in {self.output_dir}")
        if failed:
            self._error = _failure_table(failed, len(done) + len(failed), self.output_dir / SUMMARY)

    def _raise(self) -> None:
        if self._error is not None:
            raise ImageError(self._error)

    def _collect(self) -> tuple[list[dict[str, Any]], dict[str, str], int]:
        """Summary entries of the images with a result, reasons of the failed ones, number of the others."""
        done: list[dict[str, Any]] = []
        failed: dict[str, str] = {}
        for path, folder in self._folders.items():
            report, failure = self._report_of(path), self._current(self._failure(path), path)
            if report is not None:
                kept = {k: report[k] for k in ("image", *self.summary, "p_value", "warnings") if k in report}
                done.append({**kept, "folder": folder})
            elif failure is not None:
                failed[path] = str(failure["error"])
        return done, failed, len(self._folders) - len(done) - len(failed)

    def _earlier(self) -> list[dict[str, Any]]:
        """Entries of an earlier summary for images that are not of this run and still have their results."""
        with suppress(DataError, OSError, AttributeError, TypeError, KeyError):
            entries = read_json(self.output_dir / SUMMARY)["images"]
            others = [entry for entry in entries if entry["folder"] not in self._folders.values()]
            return [e for e in others if (self.output_dir / e["folder"] / self.report_name).is_file()]
        return []

    def _report_of(self, path: str) -> dict[str, Any] | None:
        return self._current(self._folder(path) / self.report_name, path)

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
            self._stamps[path] = {**_stamp(path), **{key: _stamp(p) for key, p in self._others[path].items()}}
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


def _check_apart(output_dir: Path, folders: Mapping[str, str]) -> None:
    """Refuse results in a folder of images: the next run would take that folder for results alone."""
    sources = {place.resolve() for path in folders for place in (Path(path), Path(path).parent)}
    for path, folder in folders.items():
        if (output_dir / folder).resolve() in sources:
            raise ConfigError(
                f"output_dir {output_dir}: the results of {path} would lie among images, in "
                f"{output_dir / folder}; give another folder."
            )


def _other_files(item: Mapping[str, Any]) -> dict[str, str]:
    """Files of an item beside its image, such as the fixed image of a pair, by key."""
    named = {str(k): str(v) for k, v in item.items() if isinstance(v, str | os.PathLike)}
    return {k: v for k, v in named.items() if v != str(item["image"]) and os.path.exists(v)}


def _stamp(path: str) -> dict[str, Any]:
    try:
        return {"path": path, **input_stamp(path)}
    except OSError:
        return {}


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
