"""All result tables of CIFL on the real images, by one command: prepare, train, evaluate.

    ROBUSTMED_DATA=... python benchmarks/results_cifl.py [--seeds 0 1 2] [--datasets segmentation sweep]

Data: labelled slices of OASIS at 128 pixels, T1. 272 subjects train, 30 choose weights, 35 others are
reported on and nothing is chosen by them. ``--datasets`` names the parts to do:

* segmentation: U-Nets on T1 (`raw`), on frozen CIFL features (`features`), on remapped T1 (`augmented`) and
  on images painted from labels (`synth`), tested on T1 and on contrasts none of them saw;
* registration: the same for registration networks on 100 fixed pairs, also with the images compared in place
  of the features (`images`) and on MIND-SSC (`mind`), beside methods that learn nothing;
* sweep: features of other settings after a shorter training, and a U-Net on each.

The features of a seed are trained when a part first needs them; that is the long step. Every step is one
command that anybody can run alone; it is printed before it runs. Stopped, it goes on where it was. The tables
are copied to ``bundles/cifl_segmentation/docs/results`` and ``bundles/cifl_registration/docs/results``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.results_common import bundle, keep, options, run, train

# What one CPU core does in a quarter of an hour per seed.
FEATURES: dict[str, Any] = {"max_epochs": 20, "epoch_length": 250, "val_interval": 5, "amp": True}
# A shorter training for each setting of the sweep. Some are known to stop looking at the image: they are
# trained to their end all the same, to be measured.
SWEEP_EPOCHS = 10
SWEEP: dict[str, dict[str, Any]] = {
    "tau_g 0.3": {},
    "tau_g 1": {"tau_g": 1.0},
    "tau_g 0.1": {"tau_g": 0.1},
    "tau_g 0.01": {"tau_g": 0.01},
    "C 8": {"out_channels": 8},
    "C 32": {"out_channels": 32},
    "no crop": {"crop": 0},
    "not centred": {"center": False},
    "as printed": {"crop": 0, "center": False},
}
# Rows of each task: the overlays on train.json. Those of ON_FEATURES get the features of their seed.
TASKS: dict[str, dict[str, list[str]]] = {
    "segmentation": {"raw": ["raw"], "features": [], "augmented": ["augmented"], "synth": ["synth"]},
    "registration": {
        "raw": ["raw"],
        "features": [],
        "images": ["images"],
        "mind": ["mind"],
        "augmented": ["augmented"],
        "synth": ["synth"],
    },
}
ON_FEATURES = ("features", "images")
EPOCHS = {"segmentation": 40, "registration": 60}


def train_features(data: Path, seeds: Sequence[int], output: Path) -> list[str]:
    """Train the features with all seeds, chosen on T1 of the choosing subjects, and return their weights."""
    return [
        train(output / "features" / str(seed), "cifl", ["train"], dataset_dir=data, seed=seed, **FEATURES)
        for seed in seeds
    ]


def train_task(
    task: str, name: str, overlays: Sequence[str], features: Sequence[str], context: Mapping[str, Any]
) -> list[str]:
    """Train one row of a task with all seeds.

    Args:
        task: "segmentation" or "registration".
        name: of the row.
        overlays: configs of the bundle beside train.json.
        features: weights of the features, one per seed; none for a row without.
        context: data, seeds and output of this run.

    Returns:
        Weights, one per seed.
    """
    settings = {"dataset_dir": context["data"], "max_epochs": EPOCHS[task], "val_interval": 5, "amp": True}
    found = []
    for number, seed in enumerate(context["seeds"]):
        own = {"features_weights": Path(features[number]).absolute()} if features else {}
        folder = context["output"] / task / f"{name}-{seed}"
        found.append(train(folder, f"cifl_{task}", ["train", *overlays], seed=seed, **settings, **own))
    return found


def evaluate(task: str, table: str, runs: Mapping[str, list[str]], context: Mapping[str, Any]) -> None:
    """Evaluate weights and copy the table to the bundle's documents."""
    folder = context["output"] / "tables" / task
    bundle(
        f"cifl_{task}",
        ["evaluate"],
        runs=json.dumps(runs),
        table=table,
        output_dir=folder,
        dataset_dir=context["data"],
        seeds=context["seeds"],
    )
    keep(f"cifl_{task}", folder / f"{table}.json")


def sweep(context: Mapping[str, Any]) -> None:
    """Features of other settings, a U-Net on each, one table."""
    output, runs = context["output"], {}
    settings = {**FEATURES, "max_epochs": SWEEP_EPOCHS, "grace_epochs": SWEEP_EPOCHS}
    for name, more in SWEEP.items():
        features = [
            train(
                output / "sweep" / f"{name}-{seed}",
                "cifl",
                ["train"],
                dataset_dir=context["data"],
                seed=seed,
                **{**settings, **more},
            )
            for seed in context["seeds"]
        ]
        runs[name] = train_task("segmentation", f"sweep-{name}", [], features, context)
    evaluate("segmentation", "sweep", runs, context)


def main() -> None:
    """Run all steps."""
    chosen = options("cifl", __doc__, datasets=["segmentation", "registration", "sweep"])
    output, seeds = chosen.output, chosen.seeds
    data = output / "data" / "oasis"
    context = {"data": data, "seeds": seeds, "output": output}
    run(
        "-m", "data_prep.oasis_slices", "--source", str(chosen.source / "oasis_slices"), "--output", str(data)
    )
    for task in (task for task in TASKS if task in chosen.datasets):
        features = train_features(data, seeds, output)
        runs = {
            name: train_task(task, name, overlays, features if name in ON_FEATURES else [], context)
            for name, overlays in TASKS[task].items()
        }
        evaluate(task, "oasis", runs, context)
    if "sweep" in chosen.datasets:
        sweep(context)


if __name__ == "__main__":
    main()
