"""All result tables of RA on the real images, by one command: prepare, train, evaluate.

    ROBUSTMED_DATA=... python tools/results_ra.py [--seeds 0 1 2] [--datasets compact medium]

* compact: all tables of the compact networks that ship;
* medium (not by default): 2.4 million weights, published losses, 300 epochs, on the brains; is RA better
  than SI-VAE then (`medium`, `medium_lgg`)? Four hours of one core for each of the two.

Every step is one command that anybody can run alone; it is printed before it runs. Stopped, it goes on where
it was. The tables are copied to ``bundles/ra/docs/results``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from tools.results_common import bundle, keep, options, run, train

METHODS = {"RA": [], "SI-VAE": ["sivae"], "VAE": ["vae"], "AE": ["ae"]}
MEDIUM = {"channels": [16, 32, 64, 128, 128], "max_epochs": 300, "val_interval": 10, "amp": True}


def train_all(
    task: str,
    configs: Sequence[str],
    data: Path,
    seeds: Sequence[int],
    output: Path,
    methods: Sequence[str] = tuple(METHODS),
    **overrides: object,
) -> dict[str, list[str]]:
    """Train methods with all seeds.

    Returns:
        Weights files by method.
    """
    weights: dict[str, list[str]] = {method: [] for method in methods}
    for seed in seeds:
        for method in methods:
            folder = output / task / f"{method}-{seed}"
            settings = {"dataset_dir": data, "seed": seed, "val_interval": 5, **overrides}
            weights[method].append(train(folder, "ra", ["train", *configs, *METHODS[method]], **settings))
    return weights


def evaluate(
    table: str, configs: Sequence[str], weights: Mapping[str, list[str]], output: Path, **overrides: object
) -> None:
    """Evaluate weights and copy the table to the bundle's documents."""
    folder = output / "tables" / table
    bundle(
        "ra",
        ["evaluate", *configs],
        checkpoints=json.dumps(weights),
        table_name=table,
        output_dir=folder,
        **overrides,
    )
    keep("ra", folder / f"{table}.json")


def rivals(data: Mapping[str, Path], ra: str, seed: int, output: Path) -> None:
    """Train what a reviewer would ask for beside RA, one seed each, and evaluate all on the same images.

    Args:
        data: "ixi" and "lgg" to their folders.
        ra: weights of RA.
        seed: seed of all.
        output: folder of the runs.
    """
    shared = {"dataset_dir": data["ixi"], "seed": seed}
    denoiser = {**shared, "image_size": 64, "max_epochs": 16, "val_interval": 4}
    weights = {
        "RA": [ra],
        "denoising AE": [train(output / "ixi" / f"DAE-{seed}", "ra", ["train", "ixi", "dae"], **denoiser)],
    }
    for row, features in (("memory, EfficientNet", "efficientnet_lite0"), ("memory, RA's encoder", "ra")):
        settings = {**shared, "features": features, "spacing": 233 / 128}
        weights[row] = [train(output / "ixi" / f"memory-{features}", "feature_memory", ["train"], **settings)]
    for table, test in (("rivals", "ixi"), ("rivals_lgg", "lgg")):
        places = {"dataset_dir": data["ixi"], "test_dir": data[test], "seeds": [seed]}
        evaluate(table, ["rivals"], weights, output, **places)


def denoised_chests(data: Path, seed: int, output: Path) -> None:
    """Train a denoising auto-encoder on chest X-rays and evaluate it, one seed.

    Args:
        data: folder of the images.
        seed: seed of the training.
        output: folder of the runs.
    """
    shared = {"dataset_dir": data, "seed": seed, "max_epochs": 20, "val_interval": 10}
    folder = output / "pneumoniamnist" / f"DAE-{seed}"
    weights = {"denoising AE": [train(folder, "ra", ["train", "pneumoniamnist", "dae"], **shared)]}
    places = {"dataset_dir": data, "seeds": [seed], "denoiser_size": 32}
    evaluate("pneumoniamnist_denoising", ["pneumoniamnist", "rivals"], weights, output, **places)


def prepare(source: Path, output: Path) -> dict[str, Path]:
    """Folders of the images by name, made from the real ones."""
    data = {name: output / "data" / name for name in ("ixi", "lgg", "pneumoniamnist")}
    places = {name: ["--output", str(folder)] for name, folder in data.items()}
    slices = str(source / "ixi_t1_slices")
    run("-m", "robustmed_monai.data_prep.controlled_lesions", "--source", slices, *places["ixi"])
    lgg = source / "lgg_mri" / "lgg_slices_128.npz"
    run("-m", "robustmed_monai.data_prep.lgg", "--source", str(lgg), *places["lgg"], "--percentile", "95")
    chest = source / "medmnist" / "pneumoniamnist.npz"
    run("-m", "robustmed_monai.data_prep.medmnist", "--source", str(chest), *places["pneumoniamnist"])
    return data


def compact(data: Mapping[str, Path], seeds: Sequence[int], output: Path) -> None:
    """All tables of the compact networks."""
    brains = train_all("ixi", ["ixi"], data["ixi"], seeds, output, amp=True)
    evaluate("controlled_lesions", [], brains, output, dataset_dir=data["ixi"], seeds=seeds)
    evaluate("ablation", ["ablation"], brains, output, dataset_dir=data["ixi"], seeds=seeds)
    evaluate("lgg", [], brains, output, dataset_dir=data["ixi"], test_dir=data["lgg"], seeds=seeds)

    rivals(data, brains["RA"][0], seeds[0], output)

    chests = train_all("pneumoniamnist", ["pneumoniamnist"], data["pneumoniamnist"], seeds, output)
    settings = {"dataset_dir": data["pneumoniamnist"], "seeds": seeds}
    evaluate("pneumoniamnist", ["pneumoniamnist"], chests, output, **settings)
    denoised_chests(data["pneumoniamnist"], seeds[0], output)

    # The other normalisation, on the brains.
    shared = {"dataset_dir": data["ixi"], "val_interval": 5, "amp": True, "norm": "affine"}
    folders = {seed: output / "ixi" / f"RA-affine-{seed}" for seed in seeds}
    affine = [train(folder, "ra", ["train", "ixi"], seed=seed, **shared) for seed, folder in folders.items()]
    settings = {"dataset_dir": data["ixi"], "seeds": seeds, "norm": "affine"}
    evaluate("norm_affine", [], {"RA": affine}, output, **settings)


def medium(data: Mapping[str, Path], seeds: Sequence[int], output: Path) -> None:
    """RA and its ablation at a medium width, by the published losses."""
    methods = ("RA", "SI-VAE", "VAE")
    runs = train_all("medium", ["ixi", "paper"], data["ixi"], seeds, output, methods=methods, **MEDIUM)
    shared = {"dataset_dir": data["ixi"], "seeds": seeds, "channels": MEDIUM["channels"], "norm": "affine"}
    evaluate("medium", [], runs, output, **shared)
    evaluate("medium_lgg", [], runs, output, test_dir=data["lgg"], **shared)


def main() -> None:
    """Run all steps."""
    chosen = options("ra", __doc__, datasets=["compact"])
    parts = {"compact": compact, "medium": medium}
    if unknown := set(chosen.datasets) - set(parts):
        sys.exit(f"--datasets {' '.join(sorted(unknown))}: choose of {list(parts)}.")
    data = prepare(chosen.source, chosen.output)
    for name in chosen.datasets:
        parts[name](data, chosen.seeds, chosen.output)


if __name__ == "__main__":
    main()
