"""Tables of the feature memory on real images, by one command: prepare, fill, evaluate.

    ROBUSTMED_DATA=... python tools/results_memory.py [--datasets ixi lgg pneumoniamnist] [--output out/...]

"memory" ships on EfficientNet-Lite0, "on RA's encoder" for those without the extra; "without ..." are parts
of the first. "of IXI", of one side and without outline, and "with grey values" are further ablations. The
weights of the outline, of the other side and of the grey values were chosen on lesions drawn into the 44
validation slices, the former two also on half of the patients with gliomas. With one pass over the images
and less of them than ``limit`` nothing is drawn at random, so one seed is all; the second pass on RA's
encoder and the segmenter have seed 0. The tables are copied to
``bundles/feature_memory/docs/results``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.utils.weights import load_info, load_weights, save_weights
from tools.results_common import bundle, keep, options, run, train

# Heights of the slab at which IXI's slices and most of the gliomas lie.
LEVELS = ("16", "20", "24", "28")
INTENSITY = 4.0
OTHER_SIDE = 0.25
# By backbone: distances of RA's features are smaller, and tell less.
OUTLINE = {"efficientnet_lite0": 0.1, "ra": 0.8}
DATA = ("ixi", "frame", "lgg", "pneumoniamnist")
# Three rows of one file.
ROWS = {
    "memory": {"checkpoints": "shipped"},
    "memory without outline": {"checkpoints": "shipped", "outline": 0.0},
    "memory without outline and other side": {"checkpoints": "shipped", "outline": 0.0, "other_side": 0.0},
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


def segmenter(
    name: str,
    overlays: list[str],
    data: dict[str, Path],
    output: Path,
    folder: str = "segmenter",
    **settings: int | str,
) -> str:
    """Train a segmenter on the images of a name, one seed; return its weights."""
    settings = {"dataset_dir": str(data[name]), "seed": 0, "amp": True, **settings}
    return train(output / name / folder, "ra", ["train", "ixi", *overlays, "segmenter"], **settings)


def segmenter_of_scanners(data: dict[str, Path], output: Path) -> str:
    """The segmenter that ships: of IXI and OASIS, with random scanners."""
    return segmenter("frame", ["scanners"], data, output, max_epochs=30, val_interval=5)


def fill(
    data: Path,
    output: Path,
    grey: bool = False,
    features: str = "efficientnet_lite0",
    sides: bool = False,
    outline_weights: str | None = None,
    passes: int = 1,
) -> list[str]:
    """Fill a memory of the training images of a folder, in some passes over them; return its weights."""
    outlined = outline_weights is not None
    words = [word for word, chosen in (("grey", grey), ("sides", sides), ("outline", outlined)) if chosen]
    folder = output / data.name / "-".join(["memory", features, *words])
    settings: dict[str, Any] = {
        "dataset_dir": data,
        "features": features,
        "spacing": 233 / 128,
        "max_epochs": passes,
    }
    if outlined:
        settings |= {"outline": OUTLINE[features], "outline_weights": outline_weights, "contrast": "T1"}
    weights = {"intensity": INTENSITY * grey, "other_side": OTHER_SIDE * sides}
    return [train(folder, "feature_memory", ["train"], **weights, **settings)]


def in_half_precision(weights: str) -> str:
    """A copy with the segmenter in half precision, as the vectors are; it is what ships."""
    path = Path(weights).with_name("shipped.pt")
    kept = {k: v.half() if k.startswith("segmenter.") else v for k, v in load_weights(weights).items()}
    save_weights(kept, path, load_info(weights))
    return str(path)


def fill_all(name: str, data: dict[str, Path], output: Path) -> dict[str, list[str]]:
    """Weights of a table, by name: rows, but for "shipped", see ``ROWS``."""
    if name == "pneumoniamnist":
        chest = data[name]
        return {
            "memory, EfficientNet": fill(chest, output),
            "memory, grey values": fill(chest, output, grey=True),
            "memory, RA's encoder": fill(chest, output, features="ra"),
        }
    outline = segmenter_of_scanners(data, output)
    outlined = fill(data["frame"], output, sides=True, outline_weights=outline)
    ra = fill(data["ixi"], output, features="ra", sides=True, outline_weights=outline, passes=2)
    return {
        "shipped": [in_half_precision(outlined[0])],
        "memory on RA's encoder": [in_half_precision(ra[0])],
        "memory of IXI": fill(data["ixi"], output),
        "memory of IXI with grey values": fill(data["ixi"], output, grey=True),
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
