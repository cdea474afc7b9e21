"""All result tables of RA on the real images, by one command: prepare, train, evaluate.

    ROBUSTMED_DATA=... python benchmarks/results_ra.py [--seeds 0 1 2] [--output out/ra/results]

Every step is one command that anybody can run alone; it is printed before it runs. Stopped, it goes on where
it was. The tables are copied to ``bundles/ra/docs/results``.
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
from collections.abc import Mapping, Sequence
from pathlib import Path

CONFIGS = Path("bundles/ra/configs")
TABLES = Path("bundles/ra/docs/results")
METHODS = {"RA": [], "SI-VAE": ["sivae"], "VAE": ["vae"], "AE": ["ae"]}
# The allocator would hand memory back after every step; keeping it saves a sixth of the time on a CPU.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}

log = logging.getLogger("results_ra")


def run(*command: str) -> None:
    """Print and run one command; stop when it fails."""
    log.info("$ %s", shlex.join(command))
    done = subprocess.run([sys.executable, *command], env={**os.environ, **ALLOCATOR})
    if done.returncode:
        sys.exit(done.returncode)


def bundle(configs: Sequence[str], **overrides: object) -> None:
    """Run the bundle with a list of configs and overrides."""
    files = [str(CONFIGS / f"{name}.json") for name in configs]
    words = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
    run("-m", "monai.bundle", "run", "--config_file", str(files), *words)


def train(
    task: str, configs: Sequence[str], data: Path, seeds: Sequence[int], output: Path, **overrides: object
) -> None:
    """Train all methods with all seeds; a run whose weights are complete is skipped."""
    for seed in seeds:
        for method, overlay in METHODS.items():
            folder = output / task / f"{method}-{seed}"
            if (folder / "done").exists():
                continue
            resume = (folder / "checkpoint.pt").exists()
            bundle(
                ["train", *configs, *overlay],
                dataset_dir=data,
                output_dir=folder,
                seed=seed,
                resume=resume,
                **overrides,
            )
            (folder / "done").touch()


def evaluate(
    table: str, configs: Sequence[str], weights: Mapping[str, list[str]], output: Path, **overrides: object
) -> None:
    """Evaluate weights and copy the table to the bundle's documents."""
    folder = output / "tables" / table
    bundle(["evaluate", *configs], runs=json.dumps(weights), table=table, output_dir=folder, **overrides)
    TABLES.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / f"{table}.json", TABLES / f"{table}.json")


def weights_of(task: str, seeds: Sequence[int], output: Path) -> dict[str, list[str]]:
    """Weights files of a task by method."""
    return {m: [str(output / task / f"{m}-{seed}" / "model.pt") for seed in seeds] for m in METHODS}


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("out/ra/results"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if "ROBUSTMED_DATA" not in os.environ:
        sys.exit("ROBUSTMED_DATA is not set; set it to the folder with ixi_t1_slices, lgg_mri and medmnist.")
    source, output, seeds = Path(os.environ["ROBUSTMED_DATA"]), arguments.output, arguments.seeds
    data = {name: output / "data" / name for name in ("ixi", "lgg", "pneumoniamnist")}
    run(
        "-m",
        "data_prep.controlled_lesions",
        "--source",
        str(source / "ixi_t1_slices"),
        "--output",
        str(data["ixi"]),
    )
    lgg = source / "lgg_mri" / "lgg_slices_128.npz"
    run("-m", "data_prep.lgg", "--source", str(lgg), "--output", str(data["lgg"]), "--percentile", "95")
    chest = source / "medmnist" / "pneumoniamnist.npz"
    run("-m", "data_prep.medmnist", "--source", str(chest), "--output", str(data["pneumoniamnist"]))

    train("ixi", ["ixi"], data["ixi"], seeds, output, val_interval=5, amp=True)
    brains = weights_of("ixi", seeds, output)
    evaluate("controlled_lesions", [], brains, output, dataset_dir=data["ixi"], seeds=seeds)
    evaluate("ablation", ["ablation"], brains, output, dataset_dir=data["ixi"], seeds=seeds)
    evaluate("lgg", [], brains, output, dataset_dir=data["ixi"], test_dir=data["lgg"], seeds=seeds)

    affine = output / "ixi" / f"RA-affine-{seeds[0]}"
    if not (affine / "done").exists():
        bundle(
            ["train", "ixi"],
            dataset_dir=data["ixi"],
            output_dir=affine,
            seed=seeds[0],
            val_interval=5,
            amp=True,
            norm="affine",
        )
        (affine / "done").touch()
    weights = {"RA": [str(affine / "model.pt")]}
    evaluate("norm_affine", [], weights, output, dataset_dir=data["ixi"], seeds=seeds[:1], norm="affine")

    train("pneumoniamnist", ["pneumoniamnist"], data["pneumoniamnist"], seeds, output, val_interval=5)
    chests = weights_of("pneumoniamnist", seeds, output)
    evaluate(
        "pneumoniamnist", ["pneumoniamnist"], chests, output, dataset_dir=data["pneumoniamnist"], seeds=seeds
    )


if __name__ == "__main__":
    main()
