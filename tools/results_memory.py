"""Tables of the feature memory on real images, by one command: prepare, fill, evaluate.

    ROBUSTMED_DATA=... python tools/results_memory.py [--datasets ixi lgg pneumoniamnist] [--output out/...]

"both sides" ships on EfficientNet-Lite0; "IXI and OASIS" are its weights without the other side, "IXI alone"
and "IXI, grey values" further ablations. The weights of the other side and of the grey values were chosen on
lesions drawn into the 44 validation slices, the former also on half of the patients with gliomas. With one
pass over the images and less of them than ``limit`` nothing is drawn at random, so one seed is all. The
tables are copied to ``bundles/feature_memory/docs/results``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from tools.results_common import bundle, keep, options, run, train

# Heights of the slab at which IXI's slices and most of the gliomas lie.
LEVELS = ("16", "20", "24", "28")
INTENSITY = 4.0
OTHER_SIDE = 0.25
DATA = ("ixi", "frame", "lgg", "pneumoniamnist")
# Two rows of one file.
ROWS = {
    "memory, both sides": {"checkpoints": "shipped"},
    "memory, IXI and OASIS": {"checkpoints": "shipped", "other_side": 0.0},
}
TABLES = {"ixi": "drawn_lesions", "lgg": "lgg", "pneumoniamnist": "pneumoniamnist"}


def prepare(source: Path, output: Path, names: Sequence[str] = DATA) -> dict[str, Path]:
    """Prepare the images of some data sets, or all, that are not there yet; return the folder of each."""
    data = {name: output / "data" / name for name in DATA}
    sources = {
        "ixi": ("controlled_lesions", "ixi_t1_slices"),
        "frame": ("oasis_slab", "oasis_slab_128.npz", "--beside", str(data["ixi"]), "--levels", *LEVELS),
        "lgg": ("lgg", "lgg_mri/lgg_slices_128.npz", "--percentile", "95"),
        "pneumoniamnist": ("medmnist", "medmnist/pneumoniamnist.npz"),
    }
    for name in names:
        if (data[name] / "datalist.json").exists():
            continue
        module, file, *more = sources[name]
        places = ["--source", str(source / file), "--output", str(data[name])]
        run("-m", f"robustmed_monai.data_prep.{module}", *places, *more)
    return data


def fill(
    data: Path, output: Path, grey: bool = False, features: str = "efficientnet_lite0", sides: bool = False
) -> list[str]:
    """Fill a memory of the training images of a folder; return its weights."""
    folder = output / data.name / f"memory-{features}{'-grey' if grey else ''}{'-sides' if sides else ''}"
    settings = {"dataset_dir": data, "features": features, "spacing": 233 / 128, "max_epochs": 1}
    weights = {"intensity": INTENSITY * grey, "other_side": OTHER_SIDE * sides}
    return [train(folder, "feature_memory", ["train"], **weights, **settings)]


def fill_all(name: str, data: dict[str, Path], output: Path) -> dict[str, list[str]]:
    """Weights of a table, by name: rows, but for "shipped", see ``ROWS``."""
    if name == "pneumoniamnist":
        chest = data[name]
        return {
            "memory, EfficientNet": fill(chest, output),
            "memory, grey values": fill(chest, output, grey=True),
            "memory, RA's encoder": fill(chest, output, features="ra"),
        }
    return {
        "shipped": fill(data["frame"], output, sides=True),
        "memory, IXI alone": fill(data["ixi"], output),
        "memory, IXI, grey values": fill(data["ixi"], output, grey=True),
    }


def main() -> None:
    """Run all steps."""
    chosen = options("feature_memory", __doc__, list(TABLES))
    data = prepare(chosen.source, chosen.output)
    for name in chosen.datasets:
        weights = fill_all(name, data, chosen.output)
        folder = chosen.output / "tables" / TABLES[name]
        bundle(
            "feature_memory",
            ["evaluate"],
            dataset_dir=data["pneumoniamnist" if name == "pneumoniamnist" else "ixi"],
            test_dir=data[name],
            checkpoints=json.dumps(weights),
            rows=json.dumps(ROWS),
            table_name=TABLES[name],
            output_dir=folder,
        )
        keep("feature_memory", folder / f"{TABLES[name]}.json")


if __name__ == "__main__":
    main()
