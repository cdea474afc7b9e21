"""All result tables of CIFL on the real images, by one command: prepare, train, evaluate.

    ROBUSTMED_DATA=... python tools/results_cifl.py [--seeds 0 1 2] [--datasets segmentation tables]

Data: labelled slices of OASIS at 128 pixels, T1. 272 subjects train, 30 choose weights, 35 others are
reported on and nothing is chosen by them. ``--datasets`` names the parts to do, in order:

* features: CIFL on synthesised shapes, and how invariant it is on shapes and brains;
* volumes: the same in 3-D, on synthesised volumes and on those of virtual subjects;
* segmentation: U-Nets on T1 (`raw`), on frozen CIFL features (`features`), on remapped T1 (`augmented`), on
  MIND-SSC (`mind`) and on images painted from labels (`synth`), tested on T1 and on contrasts none of them
  saw;
* gated: on the features and the image both, beside `raw` and `features` of `segmentation`;
* registration: the same for registration networks on 100 fixed pairs, also with the features compared in
  place of the images (`compared`), beside methods that learn nothing;
* sweep: features of other settings after a fifth of the training, all measured as in `features`. With one
  seed it takes half an hour of one core: ``--seeds 0``;
* sweep_segmentation: a short training of the U-Net on each of them, measured as in `segmentation`. Likewise;
* tau, tau_segmentation: the rows of tau_gamma of these two, in tables of their own, so with more seeds;
* long_segmentation, long_registration: the features and their rival trained three times as long, since images
  of random contrast teach slowly. Likewise;
* long_features: the features trained for 5,000 steps and for 50,000, two and a half hours. Likewise;
* long_features_segmentation, long_features_registration: what stands on them, beside the others.

Each ends with its table of what is done by then: of the seeds that all rows have that have any.
``registration/raw`` trains one row of a part and makes no table; ``tables`` makes those of all parts and
trains nothing.

The features of a seed are trained when a part first needs them. Every step is one command that anybody can
run alone; it is printed before it runs. Stopped, it goes on where it was. The tables are copied to
``docs/results`` of the bundles.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.data.embedded import embedded_volumes
from tools.results_common import bundle, keep, log, options, run, train

# What one part trains by: overrides of train.json.
SCHEDULES: dict[str, dict[str, Any]] = {
    # What one CPU core does in a quarter of an hour per seed.
    "features": {"max_epochs": 20, "epoch_length": 250, "val_interval": 5},
    # Invariance on brains ceases to rise after some 1,000 steps, so the epoch is chosen by that on shapes.
    "long_features": {"epoch_length": 250, "val_interval": 5, "key_metric_name": "shapes_margin"},
    # 4,000 steps, half an hour.
    "volumes": {"max_epochs": 16, "epoch_length": 250, "val_interval": 4},
    # Three minutes for each setting, measured at its end. Some are known to stop looking at the image: they
    # are trained on all the same.
    "sweep": {"max_epochs": 4, "epoch_length": 250, "val_interval": 4, "min_epochs_before_best": 4},
    # Enough to tell the settings apart: 510 steps, two minutes for each.
    "sweep_segmentation": {"max_epochs": 10, "val_interval": 10},
    "segmentation": {"max_epochs": 40, "val_interval": 5},
    # Every second image is masked, so it takes twice as many epochs to see all of them as often.
    "gated": {"max_epochs": 80, "val_interval": 5},
    "long_segmentation": {"max_epochs": 120, "val_interval": 5},
    # 2,040 steps of 8 pairs: four to six minutes of one core for each row.
    "registration": {"max_epochs": 20, "val_interval": 5},
    "long_registration": {"max_epochs": 60, "val_interval": 5},
}
for task in ("segmentation", "registration"):
    SCHEDULES[f"long_features_{task}"] = SCHEDULES[task]
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
TAUS = [row for row in SWEEP if row.startswith("tau_g")]
LENGTHS = {"5000 steps": {"max_epochs": 20}, "50000 steps": {"max_epochs": 200}}
ROWS: dict[str, list[str]] = {
    "features": ["features"],
    "volumes": ["volumes"],
    "segmentation": ["raw", "features", "augmented", "mind", "synth"],
    "gated": ["raw", "features", "gated"],
    "registration": ["raw", "features", "augmented", "compared", "mind", "synth"],
    "long_segmentation": ["features", "augmented"],
    "long_registration": ["features", "augmented"],
    "sweep": list(SWEEP),
    "sweep_segmentation": list(SWEEP),
    "tau": TAUS,
    "tau_segmentation": TAUS,
    "long_features": list(LENGTHS),
    "long_features_segmentation": list(LENGTHS),
    "long_features_registration": list(LENGTHS),
}
# mm of a pixel, which the pictures do not tell and the weights keep for volumes.
SPACING = 2.0
# Rows that another part trains.
BORROWED = {
    **{("gated", row): "segmentation" for row in ("raw", "features")},
    **{("tau", row): "sweep" for row in TAUS},
    **{("tau_segmentation", row): "sweep_segmentation" for row in TAUS},
}
# Rows of these are overlays of the same name on train.json, but `features`, which is train.json itself.
TASKS = ("volumes", "segmentation", "gated", "registration", "long_segmentation", "long_registration")
# Rows of a task that get the features of their seed.
ON_FEATURES = ("features", "gated", "compared")
# The bundle and the name of each part's table.
TABLES = {
    "features": ("cifl", "features"),
    "volumes": ("cifl", "volumes"),
    "segmentation": ("cifl_segmentation", "oasis"),
    "gated": ("cifl_segmentation", "gated"),
    "registration": ("cifl_registration", "oasis"),
    "sweep": ("cifl", "sweep"),
    "sweep_segmentation": ("cifl_segmentation", "sweep"),
    "tau": ("cifl", "tau"),
    "tau_segmentation": ("cifl_segmentation", "tau"),
    "long_segmentation": ("cifl_segmentation", "long"),
    "long_registration": ("cifl_registration", "long"),
    "long_features": ("cifl", "long_features"),
    "long_features_segmentation": ("cifl_segmentation", "long_features"),
    "long_features_registration": ("cifl_registration", "long_features"),
}
# Overrides of evaluate.json. What learns nothing is measured once.
EVALUATION: dict[str, dict[str, Any]] = {
    "volumes": {
        "spatial_dims": 3,
        "spatial_size": [48, 48, 48],
        "image_size": 64,
        "batch_size": 4,
    },
    "registration": {"amp": True},
    # Both rows are tested against each other on the same subjects.
    "long_features_segmentation": {"against": ["5000 steps"]},
    "long_features_registration": {"amp": True, "controls": {}, "against": ["5000 steps"]},
    "long_registration": {"amp": True, "controls": {}},
}


def folder(part: str, row: str, seed: object, output: Path) -> Path:
    """Where one run is trained."""
    part = BORROWED.get((part, row), part)
    return output / part / (f"{seed}" if part == "features" else f"{row}-{seed}")


def stands_on(part: str, row: str) -> tuple[str, str] | None:
    """Part and row whose features a row is trained on."""
    if part == "sweep_segmentation":
        return "sweep", row
    if part in ("long_features_segmentation", "long_features_registration"):
        return "long_features", row
    return ("features", "features") if part in TASKS and row in ON_FEATURES else None


def train_run(part: str, row: str, seed: int, output: Path) -> str:
    """Train one row of a part with one seed, and the features that it stands on, and return its weights."""
    part = BORROWED.get((part, row), part)
    settings = {"dataset_dir": _images(part, output), "seed": seed, "amp": True, **SCHEDULES[part]}
    if part == "sweep":
        settings |= SWEEP[row]
    if part == "long_features":
        settings |= LENGTHS[row]
    if TABLES[part][0] == "cifl_segmentation":
        settings["spacing"] = SPACING
    if below := stands_on(part, row):
        settings["features_weights"] = Path(train_run(*below, seed, output)).absolute()
    overlays = [row] if part in TASKS and row != "features" else []
    return train(folder(part, row, seed, output), TABLES[part][0], ["train", *overlays], **settings)


def make_table(part: str, output: Path) -> None:
    """Evaluate what is done of a part and copy the table to the bundle's documents."""
    done = {row: _seeds_done(part, row, output) for row in ROWS[part]}
    done = {row: seeds for row, seeds in done.items() if seeds}
    seeds = sorted(set.intersection(*done.values())) if done else []
    if not seeds:
        log.info("no table of %s: there is no seed that all rows have; done: %s", part, done)
        return
    left = {row: sorted(more) for row, found in done.items() if (more := found - set(seeds))}
    log.info("table of %s: rows %s, seeds %s; left out: %s", part, list(done), seeds, left or "none")
    runs = {row: [str(folder(part, row, seed, output) / "model.pt") for seed in seeds] for row in done}
    name, table = TABLES[part]
    place = output / "tables" / part
    settings = {"dataset_dir": _images(part, output), "seeds": seeds, **EVALUATION.get(part, {})}
    bundle(name, ["evaluate"], checkpoints=json.dumps(runs), table_name=table, output_dir=place, **settings)
    keep(name, place / f"{table}.json")


def chosen_steps(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Part to the rows to train, and the parts to make the table of.

    Args:
        words: parts, such as "sweep", rows of parts, such as "registration/raw", and "tables".
    """
    rows: dict[str, list[str]] = {}
    tables: list[str] = []
    for word in words:
        part, _, row = word.partition("/")
        if word == "tables":
            tables += [part for part in ROWS if part not in tables]
        elif part not in ROWS or (row and row not in ROWS[part]):
            sys.exit(f"--datasets {word}: choose of tables and {ROWS}, as part or part/row.")
        else:
            rows[part] = [*rows.get(part, []), *([row] if row else ROWS[part])]
            tables += [part] if not row and part not in tables else []
    return rows, tables


def main() -> None:
    """Run all steps."""
    chosen = options("cifl", __doc__, datasets=list(ROWS))
    (parts, tables), output = chosen_steps(chosen.datasets), chosen.output
    source = str(chosen.source / "oasis_slices")
    run("-m", "robustmed_monai.data_prep.oasis_slices", "--source", source, "--output", str(_data(output)))
    for part in dict.fromkeys([*parts, *tables]):
        # All rows of a seed first: stopped, whole seeds are done.
        for seed in chosen.seeds:
            for row in parts.get(part, []):
                train_run(part, row, seed, output)
        if part in tables:
            make_table(part, output)


def _data(output: Path) -> Path:
    return output / "data" / "oasis"


def _images(part: str, output: Path) -> Path | str:
    """What a part is trained and measured on beside shapes: slices, or volumes of virtual subjects."""
    return embedded_volumes() if part == "volumes" else _data(output)


def _seeds_done(part: str, row: str, output: Path) -> set[int]:
    pattern = folder(part, row, "*", output).relative_to(output)
    return {int(done.parent.name.rpartition("-")[2]) for done in output.glob(f"{pattern}/done")}


if __name__ == "__main__":
    main()
