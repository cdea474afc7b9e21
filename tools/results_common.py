"""Steps that the scripts of result tables share: each is one command, printed before it runs."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# The allocator would hand memory back after every step; keeping it saves a sixth of the time on a CPU.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}

log = logging.getLogger("results")


def options(name: str, description: str | None, datasets: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of a script: ``seeds``, ``output``, ``source`` (the folder of real images), ``datasets``.

    Args:
        name: the bundle.
        description: the script's docstring.
        datasets: default of an option ``--datasets``; None for no such option.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("out") / name / "results")
    if datasets is not None:
        parser.add_argument("--datasets", nargs="+", default=list(datasets))
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if "ROBUSTMED_DATA" not in os.environ:
        sys.exit("ROBUSTMED_DATA is not set; set it to the folder of the real images.")
    chosen.source = Path(os.environ["ROBUSTMED_DATA"])
    return chosen


def run(*command: str) -> None:
    """Print and run one command; stop when it fails."""
    log.info("$ %s", shlex.join(command))
    done = subprocess.run([sys.executable, *command], env={**os.environ, **ALLOCATOR})
    if done.returncode:
        sys.exit(done.returncode)


def bundle(name: str, configs: Sequence[str], **overrides: object) -> None:
    """Run a bundle with a list of configs and overrides."""
    files = [f"bundles/{name}/configs/{config}.json" for config in configs]
    words = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
    run("-m", "monai.bundle", "run", "--config_file", str(files), *words)


def train(folder: Path, name: str, configs: Sequence[str], **overrides: object) -> str:
    """Train into a folder unless that was done before; a run that was stopped goes on.

    Returns:
        Path of the weights.
    """
    if not (folder / "done").exists():
        resume = any(folder.rglob("checkpoint.pt"))
        bundle(name, configs, output_dir=folder, resume=resume, **overrides)
        (folder / "done").touch()
    return str(folder / "model.pt")


def keep(name: str, table: Path, title: str | None = None) -> None:
    """Copy a table to the bundle's documents."""
    kept = Path("bundles") / name / "docs/results" / f"{title or table.stem}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(table, kept)
