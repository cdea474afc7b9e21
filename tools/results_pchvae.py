"""All result tables of pchVAE on the real images, by one command: prepare, train, evaluate.

    ROBUSTMED_DATA=... python tools/results_pchvae.py [--seeds 0 1 2 3 4] [--datasets lgg ixi sweep frame]

* lgg: FLAIR, trained on the tumour-free slices of 45 patients (5 more validate), tested on the other 20:
  tumour slices against tumour-free ones, all (`lgg`) and matched by position (`lgg_matched`, the headline),
  and rendered objects on the tumour-free ones;
* ixi: T1, one slice of each of 420 subjects (44 more validate), tested on 58 others with drawn lesions and
  with rendered objects;
* sweep: pchVAE on lgg with other weights of its terms, test set matched by position;
* frame (not by default): trained on IXI and OASIS together, twice as long, tested as ixi (`ixi_oasis`);
* long (not by default): the same for the paper's 12,500 steps (`ixi_oasis_long`), some 15 hours
  of one core for the five models.

Every step is one command that anybody can run alone; it is printed before it runs. Stopped, it goes on where
it was. The tables are copied to ``bundles/pchvae/docs/results``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from tools.results_common import bundle, keep, options, run, train
from tools.results_memory import prepare

METHODS: dict[str, list[str]] = {
    "pchVAE": [],
    "chVAE": ["chvae"],
    "High VAE": ["high_vae"],
    "Low VAE": ["low_vae"],
    "VQVAE-2": ["vqvae2"],
}
# The paper's 10 epochs see some 80 000 slices each. These sets are a hundredth of that, hence the schedule of
# train.json (Adam 1e-3, batches of 16) and epochs that make nearly eight hundred steps: what two CPU cores
# can do in some hours.
EPOCHS = {"lgg": 16, "ixi": 30, "frame": 16, "long": 500}
# Overlays behind the model's: 500 epochs of 25 batches of 64 are the paper's steps.
SCHEDULE = {"long": ["paper"]}
# Parts tested on IXI: what they are trained on, and the name of their table.
ON_IXI = {"ixi": ("ixi", "ixi"), "frame": ("frame", "ixi_oasis"), "long": ("frame", "ixi_oasis_long")}
# With the variance of train.json, 0.1, "beta 10" is the model of variance 1 and beta 1.
SWEEP: dict[str, dict[str, Any]] = {
    "lambda_1 0.5": {"lambda_primary": 0.5},
    "lambda_1 2": {"lambda_primary": 2.0},
    "beta 10": {"beta": 10.0},
    "lambda_1 0.5, beta 10": {"lambda_primary": 0.5, "beta": 10.0},
    "lambda_1 2, beta 10": {"lambda_primary": 2.0, "beta": 10.0},
    "no zero term": {"loss#zero_term": False},
    "detached sum": {"loss#detach_high_in_sum": True},
    "frozen zero term": {"loss#freeze_high_in_zero": True},
}


def train_all(part: str, folder: Path, seeds: Sequence[int], output: Path) -> dict[str, list[str]]:
    """Train every model with all seeds.

    Returns:
        Weights files by model.
    """
    settings = {"dataset_dir": folder, "max_epochs": EPOCHS[part], "val_interval": 10, "amp": True}
    runs: dict[str, list[str]] = {}
    for method, overlay in METHODS.items():
        configs = ["train", *overlay, *SCHEDULE.get(part, [])]
        folders = {seed: output / part / f"{method}-{seed}" for seed in seeds}
        runs[method] = [train(f, "pchvae", configs, seed=seed, **settings) for seed, f in folders.items()]
    return runs


def sweep(folder: Path, seeds: Sequence[int], output: Path) -> dict[str, list[str]]:
    """Train pchVAE with other weights of its terms; the plain one is that of ``train_all``."""
    settings = {"dataset_dir": folder, "max_epochs": EPOCHS["lgg"], "val_interval": 10, "amp": True}
    return {
        name: [
            train(output / "lgg" / f"{name}-{seed}", "pchvae", ["train"], seed=seed, **settings, **more)
            for seed in seeds
        ]
        for name, more in {"pchVAE": {}, **SWEEP}.items()
    }


def evaluate(
    table: str, configs: Sequence[str], runs: Mapping[str, list[str]], output: Path, **overrides: object
) -> None:
    """Evaluate weights and copy the table to the bundle's documents."""
    folder = output / "tables" / table
    files = ["evaluate", *configs]
    bundle("pchvae", files, checkpoints=json.dumps(runs), table_name=table, output_dir=folder, **overrides)
    keep("pchvae", folder / f"{table}.json")


def main() -> None:
    """Run all steps."""
    chosen = options("pchvae", __doc__, datasets=["lgg", "ixi", "sweep"])
    source, output, seeds = chosen.source, chosen.output, chosen.seeds
    lgg = output / "data" / "lgg"
    if {"lgg", "sweep"} & set(chosen.datasets):
        npz = source / "lgg_mri" / "lgg_slices_128.npz"
        run("-m", "robustmed_monai.data_prep.lgg_volumes", "--source", str(npz), "--output", str(lgg))
    matched = {"dataset_dir": lgg, "test_dir": lgg / "matched.json", "seeds": seeds}
    if "lgg" in chosen.datasets:
        weights = train_all("lgg", lgg, seeds, output)
        evaluate("lgg", [], weights, output, dataset_dir=lgg, seeds=seeds)
        evaluate("lgg_matched", [], weights, output, **matched)
    for part, (name, table) in ON_IXI.items():
        if part in chosen.datasets:
            data = prepare(source, output, ("ixi", name))
            weights = train_all(part, data[name], seeds, output)
            evaluate(table, [], weights, output, dataset_dir=data["ixi"], seeds=seeds)
    if "sweep" in chosen.datasets:
        evaluate("sweep", [], sweep(lgg, seeds, output), output, **matched)


if __name__ == "__main__":
    main()
