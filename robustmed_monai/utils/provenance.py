"""Results and benchmarks as files that say which command, code, machine and data made them."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.files import read_json, sha256, write_json
from robustmed_monai.utils.version import full_version

# Folder that holds the package: the repository in an editable installation, site-packages otherwise.
CHECKOUT = Path(__file__).resolve().parents[2]

_HEAD_KEYS = ("command", "commit", "date", "versions", "hardware", "data", "seeds")
# Distributions that results may depend on.
_PACKAGES = (
    "monai", "torch", "numpy", "scipy", "nibabel", "SimpleITK", "pytorch-ignite", "scikit-image",
    "scikit-learn", "nilearn", "medmnist",
)  # fmt: skip
# Keys and types of a row: results of an evaluation, or a benchmark against a peer.
_RESULT_ROW: dict[str, type | tuple[type, ...]] = {
    "row": str, "column": str, "mean": (int, float), "std": (int, float), "n": int,
}  # fmt: skip
_BENCHMARK_ROW: dict[str, type | tuple[type, ...]] = {
    "case": str, "ours": (int, float), "peer": (int, float), "peer_name": str, "unit": str,
    "ratio": (int, float), "iqr": (int, float, list),
}  # fmt: skip


def provenance(
    command: str | None = None,
    seeds: Sequence[int] = (),
    data: Sequence[Mapping[str, str]] = (),
    device: str = "cpu",
) -> dict[str, Any]:
    """Return the head of a results file: command, commit, date, versions, hardware, data and seeds.

    Args:
        command: command that regenerates the results; by default the one that started this process.
        seeds: seeds of the runs that the results summarise.
        data: one mapping ``{"name", "sha256", "split"}`` per data set used; see :func:`data_digest`.
        device: torch device that did the work.

    Raises:
        DataError: when an entry of ``data`` lacks one of its keys.
    """
    for entry in data:
        missing = {"name", "sha256", "split"} - entry.keys()
        if missing:
            raise DataError(
                f"data entry {dict(entry)}: lacks {sorted(missing)}; give name, sha256 and split."
            )
    return {
        "command": command or _command(),
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": _versions(),
        "hardware": _hardware(device),
        "data": [dict(entry) for entry in data],
        "seeds": [int(seed) for seed in seeds],
    }


def data_digest(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> str:
    """Return one sha256 for a set of files: over their sorted relative names and their own sha256.

    The digest does not depend on where the files lie nor on the order in which they are given.

    Args:
        paths: a file, a folder (all files below it), or several of them. Names are relative to the folder
            that all files share.

    Raises:
        DataError: when a path does not exist or there is no file at all.
    """
    given = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    files: set[Path] = set()
    for path in given:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; check the path.")
        found = [path] if path.is_file() else path.rglob("*")
        files.update(file.resolve() for file in found if file.is_file())
    if not files:
        raise DataError(f"{', '.join(map(str, given)) or 'paths'}: no file to digest; check the path.")
    root = Path(os.path.commonpath([file.parent for file in files]))
    digest = hashlib.sha256()
    for name, file in sorted((file.relative_to(root).as_posix(), file) for file in files):
        digest.update(f"{name}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def write_results(
    path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], head: Mapping[str, Any]
) -> Path:
    """Write ``head`` and ``rows`` as one results file, atomically, and return its path.

    Args:
        path: file to write, ``<table>.json``.
        rows: all of ``{"row", "column", "mean", "std", "n"[, "ci95"]}`` (results), or all of
            ``{"case", "ours", "peer", "peer_name", "unit", "ratio", "iqr"}`` (benchmarks). A figure that
            could not be had has no row.
        head: what :func:`provenance` returned.

    Raises:
        DataError: when a key is missing or unknown, a value has the wrong type or is not finite, or a cell is
            given twice.
    """
    content = {**head, "rows": [dict(row) for row in rows]}
    _check_results(path, content)
    return write_json(path, content)


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file that :func:`write_results` wrote.

    Raises:
        DataError: when it is missing or not of that form; the message names it.
    """
    content = read_json(path)
    _check_results(path, content)
    return dict(content)


def _check_results(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    missing = [key for key in (*_HEAD_KEYS, "rows") if key not in content]
    if missing:
        raise DataError(f"{path}: lacks {missing}; make the head with provenance().")
    if not content["rows"]:
        raise DataError(f"{path}: there are no rows; evaluate something first.")
    benchmark = "case" in content["rows"][0]
    cells = set()
    for row in content["rows"]:
        _check_row(path, row, _BENCHMARK_ROW if benchmark else _RESULT_ROW)
        cell = (row["case"], row["peer_name"]) if benchmark else (row["row"], row["column"])
        if cell in cells:
            raise DataError(f"{path}: {cell} is given twice; keep one row of the two.")
        cells.add(cell)


def _check_row(
    path: str | os.PathLike[str], row: Mapping[str, Any], form: Mapping[str, type | tuple[type, ...]]
) -> None:
    optional = {"ci95"} if form is _RESULT_ROW else set()
    wrong = (form.keys() - row.keys()) | (row.keys() - form.keys() - optional)
    if wrong:
        raise DataError(f"{path}: row {dict(row)} lacks or adds {sorted(wrong)}; its keys are {list(form)}.")
    for key, value in row.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        kind = form.get(key, (list, tuple))
        finite = all(isinstance(number, str) or math.isfinite(number) for number in numbers)
        if not isinstance(value, kind) or isinstance(value, bool) or not finite:
            raise DataError(f"{path}: row {dict(row)}: {key} is {value!r}; give a finite value of its type.")


def _command() -> str:
    """Command that started this process, without the paths of this machine."""
    return " ".join(["python", *map(_portable, sys.orig_argv[1:])])


def _portable(word: str) -> str:
    data = os.environ.get("ROBUSTMED_DATA")
    if data and word.startswith(data):
        return f'"$ROBUSTMED_DATA{word.removeprefix(data)}"'
    return shlex.quote(word.replace(f"{CHECKOUT}{os.sep}", ""))


def _commit() -> str | None:
    """Commit of the checkout, ``+dirty`` when code or bundles differ from it; None outside of a checkout."""
    # An installation may lie inside some other project's repository: only our own top folder counts.
    if _git("rev-parse", "--show-toplevel") != str(CHECKOUT):
        return None
    commit = _git("rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    # Results and texts are written after the run that they describe.
    code = ("*.py", "*.json", "*.cfg", "*.pt", ":(exclude,glob)**/results/**")
    changes = _git("status", "--porcelain", "--", *code)
    return f"{commit}+dirty" if changes else commit


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "robustmed_monai": full_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _hardware(device: str) -> dict[str, Any]:
    import torch

    gpu = torch.device(device).type == "cuda" and torch.cuda.is_available()
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
