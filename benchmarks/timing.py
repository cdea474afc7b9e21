"""Shared by the benchmarks: rounds in turn, medians, peak memory in a process of its own, one results file.

Both sides of a comparison do the same work on the same data in the same run. They take turns, so that a
machine that warms up or is used by others treats them alike; the first call of each is not counted.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from robustmed_monai.data.virtual_subjects import virtual_subject
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.provenance import provenance, write_results

RESULTS = Path(__file__).resolve().parent / "results"
# The compact network of the RA bundle, see bundles/ra/configs/train.json.
COMPACT: dict[str, Any] = {"channels": (8, 16, 32, 64, 64), "norm": "batch"}

Work = Callable[[], object]
Row = dict[str, Any]
log = logging.getLogger("benchmark")


class Watched(NamedTuple):
    """A finished command: wall clock in seconds, and the largest resident memory of its process in MiB."""

    seconds: float
    peak: float


def options(
    name: str,
    description: str | None,
    rounds: int,
    arguments: Sequence[str] | None,
    peers: Path | None = None,
) -> argparse.Namespace:
    """Read the command line that all benchmarks share, and switch their log lines on, ignite's off.

    Args:
        name: of the benchmark and its results file.
        description: docstring of the script.
        rounds: default of ``--rounds``.
        arguments: the command line; None for that of the process.
        peers: default of ``--peers``, the folder with the packages to compare with; None for no such option.
    """
    parser = argparse.ArgumentParser(description=(description or name).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help=f"rounds to take the median of ({rounds})")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{name}.json", help="results file to write")
    parser.add_argument("--device", default="cpu", help="torch device (cpu)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing"
    )
    parser.add_argument(
        "--no_compile", action="store_true", help="leave out torch.compile, which takes minutes to get ready"
    )
    if peers:
        parser.add_argument(
            "--peers", type=Path, default=peers, help=f"folder with the packages to compare with ({peers})"
        )
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 1:
        parser.error(f"--rounds {chosen.rounds}: give at least 1")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    # Engines tell of every run, and a round is a run.
    logging.getLogger("ignite").setLevel(logging.WARNING)
    return chosen


def interleaved(
    works: Mapping[str, Work], rounds: int, device: str | torch.device = "cpu"
) -> dict[str, list[float]]:
    """Let all works take turns, every other round backwards, after one call of each that is not counted.

    Args:
        works: name to work.
        rounds: calls that count, of each.
        device: waited for at the start and at the end of each call.

    Returns:
        Seconds of each call by name.
    """
    for name, work in works.items():
        log.info("warm-up: %s", name)
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds):
        log.info("round %d of %d", turn + 1, rounds)
        for name in list(works)[:: -1 if turn % 2 else 1]:
            seconds[name].append(_seconds(works[name], device))
    return seconds


def row(
    case: str,
    ours: Sequence[float],
    peer: Sequence[float],
    peer_name: str,
    unit: str = "ms",
    scale: float = 1000.0,
) -> Row:
    """One row of a results file. Less is better in every unit: a ratio above 1 is a win, below 1 a loss.

    Args:
        case: what is measured.
        ours: figures of the rounds, such as seconds.
        peer: those of the peer.
        peer_name: what the peer is.
        unit: unit of the row.
        scale: units of the row per unit of the figures.

    Returns:
        Medians of both, peer / ours as the ratio, and both interquartile ranges.
    """
    middle = [statistics.median(values) * scale for values in (ours, peer)]
    found = {
        "case": case,
        "ours": round(middle[0], 4),
        "peer": round(middle[1], 4),
        "peer_name": peer_name,
        "unit": unit,
        "ratio": round(middle[1] / middle[0], 3),
        "iqr": [round(_quartile_range(values) * scale, 4) for values in (ours, peer)],
    }
    log.info("%(case)s: %(ours)g %(unit)s; %(peer_name)s %(peer)g; ratio %(ratio).2f", found)
    return found


def memory_rows(case: str, ours: float | None, peer: float | None, peer_name: str) -> list[Row]:
    """The row of two peaks in MiB, of one run each; no row where this system does not tell the peak."""
    if ours is None or peer is None:
        return []
    return [row(f"{case}, peak memory", [ours], [peer], peer_name, "MiB", 1.0)]


def save(chosen: argparse.Namespace, rows: Sequence[Row], **head: Any) -> Path:
    """Write the results file.

    Args:
        chosen: command line.
        rows: from ``row``.
        head: more entries for the head; ``data`` and ``seeds`` are those of ``provenance``.
    """
    known = {key: head.pop(key) for key in ("data", "seeds") if key in head}
    content = {**provenance(device=chosen.device, **known), "rounds": chosen.rounds, **head}
    path = write_results(chosen.output, rows, content)
    log.info("written: %s", path)
    return path


def same_numbers(what: str, ours: torch.Tensor, peer: torch.Tensor, tolerance: float) -> float:
    """Largest difference of what both sides computed.

    Raises:
        DataError: when it is above the tolerance: then the times do not compare.
    """
    difference = float((ours.cpu() - peer.cpu()).abs().max())
    if not difference <= tolerance:
        raise DataError(f"{what}: the two sides differ by {difference:.3g}, more than {tolerance:.3g}.")
    log.info("%s: largest difference %.3g", what, difference)
    return difference


def in_new_process(function: Callable[..., Any], *args: Any, env: Mapping[str, str] | None = None) -> Any:
    """Call a function of a module in a fresh process, with more environment variables if wanted."""
    with _environment(env or {}), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def peak_memory(build: Callable[..., Work], *args: Any, device: str = "cpu") -> float | None:
    """Memory that a work needs on top of what was there before its first call, in a process of its own.

    Args:
        build: function of a module; makes the work from ``args``.
        args: arguments of ``build``.
        device: a GPU's own memory is counted in place of the process's.

    Returns:
        MiB, or None where the system does not tell.
    """
    peak: float | None = in_new_process(_peak, build, args, device)
    return peak


def seconds_in_new_process(
    build: Callable[..., Work], *args: Any, rounds: int, env: Mapping[str, str] | None = None
) -> list[float]:
    """Seconds of ``rounds`` calls of a work in a process of its own, after one that is not counted."""
    seconds: list[float] = in_new_process(_repeat, build, args, rounds, env=env)
    return seconds


def watch(command: Sequence[str], cwd: Path | None = None) -> Watched:
    """Run a command to its end and look at its memory on the way.

    Raises:
        DataError: when it fails; the end of what it said is in the message.
    """
    start, peak = time.perf_counter(), 0.0
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while True:
            try:
                said, _ = process.communicate(timeout=0.05)
                break
            except subprocess.TimeoutExpired:
                # The high-water mark only rises, so the last look misses next to nothing.
                peak = max(peak, _status("VmHWM", process.pid) or 0.0)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise DataError(f"{' '.join(command)} ended with {process.returncode}:\n{said[-2000:]}")
    return Watched(seconds, peak)


@cache
def brain_slices(count: int, size: int = 128) -> torch.Tensor:
    """Axial slices of virtual heads, (count, 1, size, size) in [0, 1]: the kind that the bundle trains on."""
    levels = range(24, 56)
    subjects = [virtual_subject(0, index).image for index in range(-(-count // len(levels)))]
    stack = torch.cat(
        [torch.from_numpy(image).movedim(2, 0)[levels.start : levels.stop] for image in subjects]
    )
    images = stack[:count, None].clone()
    return F.interpolate(images, (size, size), mode="area") if size != images.shape[-1] else images


def _seconds(work: Work, device: str | torch.device) -> float:
    _synchronize(device)
    enabled = gc.isenabled()
    gc.disable()
    start = time.perf_counter()
    work()
    _synchronize(device)
    seconds = time.perf_counter() - start
    if enabled:
        gc.enable()
    return seconds


def _synchronize(device: str | torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _quartile_range(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def _repeat(build: Callable[..., Work], args: Sequence[Any], rounds: int) -> list[float]:
    work = build(*args)
    return interleaved({"work": work}, rounds)["work"]


def _peak(build: Callable[..., Work], args: Sequence[Any], device: str) -> float | None:
    work = build(*args)
    gc.collect()
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return float(torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        # What the preparation freed goes back to the system, else the work would get it for nothing; then the
        # high-water mark is set to the present. Both are Linux' own.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    resident = _status("VmRSS")
    work()
    peak = _status("VmHWM")
    return None if peak is None or resident is None else peak - resident


def _status(field: str, pid: int | str = "self") -> float | None:
    """A field of Linux's memory account of a process, in MiB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
