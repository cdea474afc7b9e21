"""All result tables of RISC on the real images, by one command: train both stages and the controls, evaluate.

    ROBUSTMED_DATA=... python benchmarks/results_risc.py [--seeds 0 1 2] [--output out/risc/results]

Every step is one command that anybody can run alone; it is printed before it runs. Stopped, it goes on where
it was. The tables are copied to ``bundles/risc/docs/results``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CONFIGS = Path("bundles/risc/configs")
TABLES = Path("bundles/risc/docs/results")
DATASETS = ("pneumoniamnist", "retinamnist")
# Runs by name: the config of the stage, and what is laid over it.
RUNS = {
    "rotnet": ("train_rotnet", []),
    "classifier": ("train_classifier", []),
    "augmented": ("train_classifier", ["augmented"]),
    "p4": ("train_classifier", ["p4"]),
}
# The allocator would hand memory back after every step; keeping it saves a sixth of the time on a CPU.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}

log = logging.getLogger("results_risc")


def bundle(configs: Sequence[str], **overrides: object) -> None:
    """Print and run the bundle with a list of configs and overrides; stop when it fails."""
    files = [str(CONFIGS / f"{name}.json") for name in configs]
    words = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
    command = ["-m", "monai.bundle", "run", "--config_file", str(files), *words]
    log.info("$ python %s", shlex.join(command))
    done = subprocess.run([sys.executable, *command], env={**os.environ, **ALLOCATOR})
    if done.returncode:
        sys.exit(done.returncode)


def train(name: str, dataset: str, extra: Sequence[str], source: Path, folder: Path, seed: int) -> str:
    """Train one network and return its weights; a run whose weights are complete is skipped."""
    config, overlays = RUNS[name]
    if not (folder / "done").exists():
        resume = (folder / "checkpoint.pt").exists()
        bundle(
            [config, dataset, *overlays, *extra],
            dataset_dir=source,
            output_dir=folder,
            seed=seed,
            resume=resume,
            amp=True,
        )
        (folder / "done").touch()
    return str(folder / "model.pt")


def table(
    config: str,
    name: str,
    dataset: str,
    extra: Sequence[str],
    runs: dict[str, list[str]],
    source: Path,
    output: Path,
    seeds: Sequence[int],
) -> None:
    """Evaluate weights and copy the table and its pictures to the bundle's documents."""
    folder = output / "tables" / name
    bundle(
        [config, dataset, *extra],
        dataset_dir=source,
        runs=json.dumps(runs),
        table=name,
        seeds=list(seeds),
        output_dir=folder,
    )
    TABLES.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{name}*.json"):
        shutil.copy(path, TABLES / path.name)


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("out/risc/results"))
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if "ROBUSTMED_DATA" not in os.environ:
        sys.exit("ROBUSTMED_DATA is not set; set it to the folder with medmnist.")
    source, output, seeds = Path(os.environ["ROBUSTMED_DATA"]) / "medmnist", arguments.output, arguments.seeds
    for dataset in arguments.datasets:
        place = output / dataset
        runs = {
            name: [train(name, dataset, [], source, place / f"{name}-{seed}", seed) for seed in seeds]
            for name in RUNS
        }
        table("evaluate", dataset, dataset, [], runs, source, output, seeds)
        pair = {k: runs[k] for k in ("rotnet", "classifier")}
        table("explain", f"{dataset}_heatmaps", dataset, [], pair, source, output, seeds)
    if "retinamnist" in arguments.datasets:
        _leak(source, output, seeds)


def _leak(source: Path, output: Path, seeds: Sequence[int]) -> None:
    """RotNet with the traces of plain resampling left in, for comparison."""
    extra, place = ["bilinear"], output / "retinamnist"
    runs = {
        name: [
            train(name, "retinamnist", extra, source, place / f"{name}-bilinear-{seed}", seed)
            for seed in seeds
        ]
        for name in ("rotnet", "classifier")
    }
    table("evaluate", "retinamnist_leak", "retinamnist", extra, runs, source, output, seeds)


if __name__ == "__main__":
    main()
