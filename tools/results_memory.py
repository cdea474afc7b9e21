"""Tables of the feature memory on real images, by one command: prepare, fill, evaluate.

    ROBUSTMED_DATA=... python tools/results_memory.py [--datasets ixi lgg pneumoniamnist] [--output out/...]

"IXI and OASIS" ships on EfficientNet-Lite0; "IXI alone" is the ablation. With one pass over the images and
less of them than ``limit`` nothing is drawn at random, so one seed is all. The tables are copied to
``bundles/feature_memory/docs/results``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from tools.results_common import bundle, keep, options, run, train

# Heights of the slab at which IXI's slices and most of the gliomas lie.
LEVELS = ("16", "20", "24", "28")
TABLES = {"ixi": "drawn_lesions", "lgg": "lgg", "pneumoniamnist": "pneumoniamnist"}


def prepare(source: Path, output: Path) -> dict[str, Path]:
    """Prepare all images; return the folder of each data set."""
    data = {name: output / "data" / name for name in ("ixi", "frame", "lgg", "pneumoniamnist")}
    sources = {
        "ixi": ("controlled_lesions", "ixi_t1_slices"),
        "frame": ("oasis_slab", "oasis_slab_128.npz", "--beside", str(data["ixi"]), "--levels", *LEVELS),
        "lgg": ("lgg", "lgg_mri/lgg_slices_128.npz", "--percentile", "95"),
        "pneumoniamnist": ("medmnist", "medmnist/pneumoniamnist.npz"),
    }
    for name, (module, file, *more) in sources.items():
        places = ["--source", str(source / file), "--output", str(data[name])]
        run("-m", f"robustmed_monai.data_prep.{module}", *places, *more)
    return data


def fill(data: Path, output: Path) -> list[str]:
    """Fill a memory of the training images of a folder; return its weights."""
    folder = output / data.name / "memory-efficientnet_lite0"
    settings = {"dataset_dir": data, "features": "efficientnet_lite0", "spacing": 233 / 128, "max_epochs": 1}
    return [train(folder, "feature_memory", ["train"], **settings)]


def main() -> None:
    """Run all steps."""
    chosen = options("feature_memory", __doc__, list(TABLES))
    data = prepare(chosen.source, chosen.output)
    for name in chosen.datasets:
        healthy = (
            {"IXI and OASIS": "frame", "IXI alone": "ixi"} if name != "pneumoniamnist" else {"chest": name}
        )
        weights = {f"memory, {title}": fill(data[folder], chosen.output) for title, folder in healthy.items()}
        folder = chosen.output / "tables" / TABLES[name]
        bundle(
            "feature_memory",
            ["evaluate"],
            dataset_dir=data["pneumoniamnist" if name == "pneumoniamnist" else "ixi"],
            test_dir=data[name],
            checkpoints=json.dumps(weights),
            table_name=TABLES[name],
            output_dir=folder,
        )
        keep("feature_memory", folder / f"{TABLES[name]}.json")


if __name__ == "__main__":
    main()
