"""All result tables of RISC on the real images, by one command: train RISC and the controls, evaluate.

    ROBUSTMED_DATA=... python tools/results_risc.py [--seeds 0 1 2] [--output out/risc/results]

Every step is one command that anybody can run alone; it is printed before it runs. Stopped, it goes on where
it was. The tables are copied to ``bundles/risc/docs/results``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere

from tools.results_common import bundle, keep, options
from tools.results_common import train as train_bundle

CONTROLS = ("augmented", "p4")


def train(
    dataset: str, extra: Sequence[str], source: Path, folder: Path, seeds: Sequence[int]
) -> dict[str, list[str]]:
    """Train RISC, or a control, for all seeds and return the weights of its runs."""
    runs: dict[str, list[str]] = {}
    control = next((name for name in extra if name in CONTROLS), None)
    for seed in seeds:
        place = folder.with_name(f"{folder.name}-{seed}")
        weights = train_bundle(
            place, "risc", ["train", dataset, *extra], dataset_dir=source, seed=seed, amp=True
        )
        if control:
            runs.setdefault(control, []).append(str(place / "classifier" / "model.pt"))
        else:
            for part in ("rotnet", "classifier"):
                runs.setdefault(part, []).append(weights)
    return runs


def table(
    configs: Sequence[str],
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
        [*configs, dataset, *extra],
        dataset_dir=source,
        checkpoints=json.dumps(runs),
        table_name=name,
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
        pair = train(dataset, [], source, place / "risc", seeds)
        runs = dict(pair)
        for control in CONTROLS:
            runs |= train(dataset, [control], source, place / control, seeds)
        table(["evaluate"], dataset, dataset, [], runs, source, output, seeds)
        table(["evaluate", "explain"], f"{dataset}_heatmaps", dataset, [], pair, source, output, seeds)
    if "retinamnist" in chosen.datasets:
        _leak(source, output, seeds)


def _leak(source: Path, output: Path, seeds: Sequence[int]) -> None:
    """RotNet with the traces of plain resampling left in, for comparison."""
    extra, place = ["bilinear"], output / "retinamnist"
    runs = train("retinamnist", extra, source, place / "bilinear", seeds)
    table(["evaluate"], "retinamnist_leak", "retinamnist", extra, runs, source, output, seeds)
    # The same RotNets where the traces are gone.
    runs["classifier"] = [str(place / f"risc-{seed}" / "model.pt") for seed in seeds]
    table(["evaluate"], "retinamnist_leak_closed", "retinamnist", [], runs, source, output, seeds)


if __name__ == "__main__":
    main()
