"""All result tables of unORANIC on MedMNIST, by one command: train, evaluate.

    ROBUSTMED_DATA=... python tools/results_unoranic.py [--seeds 0 1 2] [--datasets bloodmnist ...]

``--datasets retinamnist/long`` trains the published networks alone, by the published schedule and for the
published 1,001 epochs (four hours of one core), and keeps the course of their validation.

Every step is one command that anybody can run alone; it is printed before it runs. Stopped, it goes on where
it was. The tables are copied to ``bundles/unoranic/docs/results``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from tools.results_common import bundle, keep, options, train

# The published networks get what two CPU cores can do in a morning: about a hundredth of the paper's epochs.
METHODS: dict[str, list[str]] = {"unORANIC": [], "AE": ["ae"], "denoising AE": ["dae"]}
SHORT = {"amp": True, "batch_size": 32}
SUPERVISED = {"amp": True, "batch_size": 64, "no_max_pool": False}
# Small data sets see more epochs, so that all take about as many steps.
EPOCHS = {
    "pneumoniamnist": {"published": 10, "pca": 60, "supervised": 5},
    "retinamnist": {"published": 20, "pca": 300, "supervised": 20},
    "bloodmnist": {"published": 4, "pca": 50, "supervised": 3},
    "breastmnist": {"published": 80, "pca": 600, "supervised": 40},
    "dermamnist": {"published": 7, "pca": 80, "supervised": 4},
}
# Three channels have three times the pixels: the perceptrons are halved, and the weights stay below 25 MB.
COLOUR = ("retinamnist", "bloodmnist", "dermamnist")
# As published: six cycles of the learning rate and a quarter.
LONG = 1001
COURSE = ("val_mse", "val_anatomy_psnr", "val_full_psnr")
TABLES = ("reconstruction", "revision", "classification", "detection")
ROBUSTNESS = ("robustness_imagenet_c", "robustness_medmnist_c")


def train_all(dataset: str, source: Path, seeds: list[int], output: Path) -> dict[str, dict[str, list[str]]]:
    """Train every method and control with all seeds.

    Returns:
        Weights files by method ("checkpoints") and of the supervised nets by task ("supervised").
    """
    epochs, hidden = EPOCHS[dataset], 512 if dataset in COLOUR else 1024
    common: dict[str, Any] = {"dataset": dataset, "dataset_dir": source}
    runs: dict[str, list[str]] = {method: [] for method in (*METHODS, "PCA variant (ours)")}
    supervised: dict[str, list[str]] = {"disease": [], "corruption": []}
    for seed in seeds:
        settings = {**common, "seed": seed}
        folder = output / dataset / f"PCA-{seed}"
        more: dict[str, Any] = {"hidden": hidden, "max_epochs": epochs["pca"], "amp": dataset in COLOUR}
        runs["PCA variant (ours)"].append(train(folder, "unoranic", ["train", "pca"], **settings, **more))
        for method, overlay in METHODS.items():
            folder = output / dataset / f"{method}-{seed}"
            more = {"max_epochs": epochs["published"], **SHORT}
            runs[method].append(train(folder, "unoranic", ["train", *overlay], **settings, **more))
        for task, found in supervised.items():
            folder = output / dataset / f"supervised-{task}-{seed}"
            more = {"max_epochs": epochs["supervised"], "task": task, **SUPERVISED}
            found.append(train(folder, "unoranic", ["train_supervised"], **settings, **more))
    return {"checkpoints": runs, "supervised": supervised}


def train_long(dataset: str, source: Path, seeds: list[int], output: Path) -> dict[str, dict[str, list[str]]]:
    """Train the published networks by the published schedule, and keep the course of their validation.

    Returns:
        Weights files by method ("checkpoints"), as of ``train_all``.
    """
    runs: dict[str, list[str]] = {method: [] for method in METHODS}
    rows = []
    for seed, (method, overlay) in product(seeds, METHODS.items()):
        folder = output / dataset / f"long-{method}-{seed}"
        settings: dict[str, Any] = {"dataset": dataset, "dataset_dir": source, "seed": seed, "amp": True}
        settings |= {"max_epochs": LONG, "val_interval": 20}
        # The overlay last: a method's loss replaces that of which paper.json changes one setting.
        runs[method].append(train(folder, "unoranic", ["train", "paper", *overlay], **settings))
        rows += course(folder, f"{method}, seed {seed}")
    file = source / f"{dataset}.npz"
    data = [{"name": file.name, "sha256": data_digest(file), "split": "val"}]
    write_results(
        output / "tables" / dataset / "long" / "course.json", rows, head=provenance(seeds=seeds, data=data)
    )
    return {"checkpoints": runs}


def course(folder: Path, name: str) -> list[dict[str, Any]]:
    """Rows of the validation's figures by epoch, from the TensorBoard files of a training."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [
        {"row": f"{name}, epoch {event.step}", "column": tag, "mean": event.value, "std": 0.0, "n": 1}
        for tag in COURSE
        for event in events.Scalars(tag)
    ]


def evaluate(dataset: str, source: Path, seeds: list[int], folder: Path, weights: Mapping[str, Any]) -> None:
    """Make all tables of a data set."""
    bundle(
        "unoranic",
        ["evaluate"],
        dataset=dataset,
        dataset_dir=source,
        hidden=512 if dataset in COLOUR else 1024,
        # Of PneumoniaMNIST's training images 74 % are ill, of its test images 63 %.
        class_weight="balanced" if dataset == "pneumoniamnist" else None,
        seeds=seeds,
        output_dir=folder,
        **{key: json.dumps(value) for key, value in weights.items()},
    )


def keep_all(folder: Path, title: str, tables: Sequence[str]) -> None:
    """Copy tables to the bundle's documents."""
    for table in tables:
        keep("unoranic", folder / f"{table}.json", f"{title}/{table}")


def main() -> None:
    """Run all steps."""
    chosen = options("unoranic", __doc__, datasets=["pneumoniamnist", "retinamnist"])
    source = chosen.source / "medmnist"
    for title in chosen.datasets:
        dataset, _, long = title.partition("/")
        weights = (train_long if long else train_all)(dataset, source, chosen.seeds, chosen.output)
        folder = chosen.output / "tables" / title
        evaluate(dataset, source, chosen.seeds, folder, weights)
        keep_all(folder, title, ("course", *TABLES) if long else (*TABLES, *ROBUSTNESS))


if __name__ == "__main__":
    main()
