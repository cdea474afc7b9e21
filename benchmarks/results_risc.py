"""All result tables of RISC on the real images, by one command: train both stages and the controls, evaluate.

    ROBUSTMED_DATA=... python benchmarks/results_risc.py [--seeds 0 1 2] [--output out/risc/results]

Every step is one command that anybody can run alone; it is printed before it runs. Stopped, it goes on where
it was. The tables are copied to ``bundles/risc/docs/results``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks import results_common
from benchmarks.results_common import bundle, keep, options

# Runs by name: the config of the stage, and what is laid over it.
RUNS: dict[str, tuple[str, list[str]]] = {
    "rotnet": ("train_rotnet", []),
    "classifier": ("train_classifier", []),
    "augmented": ("train_classifier", ["augmented"]),
    "p4": ("train_classifier", ["p4"]),
}


def train(name: str, dataset: str, extra: Sequence[str], source: Path, folder: Path, seed: int) -> str:
    """Train one network and return its weights."""
    config, overlays = RUNS[name]
    configs = [config, dataset, *overlays, *extra]
    return results_common.train(folder, "risc", configs, dataset_dir=source, seed=seed, amp=True)


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
        "risc",
        [config, dataset, *extra],
        dataset_dir=source,
        runs=json.dumps(runs),
        table=name,
        seeds=list(seeds),
        output_dir=folder,
    )
    for path in folder.glob(f"{name}*.json"):
        keep("risc", path)


def main() -> None:
    """Run all steps."""
    chosen = options("risc", __doc__, datasets=["pneumoniamnist", "retinamnist"])
    source, output, seeds = chosen.source / "medmnist", chosen.output, chosen.seeds
    for dataset in chosen.datasets:
        place = output / dataset
        runs = {
            name: [train(name, dataset, [], source, place / f"{name}-{seed}", seed) for seed in seeds]
            for name in RUNS
        }
        table("evaluate", dataset, dataset, [], runs, source, output, seeds)
        pair = {k: runs[k] for k in ("rotnet", "classifier")}
        table("explain", f"{dataset}_heatmaps", dataset, [], pair, source, output, seeds)
    if "retinamnist" in chosen.datasets:
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
    # The same RotNets where the traces are gone.
    runs["classifier"] = [str(place / f"classifier-{seed}" / "model.pt") for seed in seeds]
    table("evaluate", "retinamnist_leak_closed", "retinamnist", [], runs, source, output, seeds)


if __name__ == "__main__":
    main()
