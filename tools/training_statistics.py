"""Writes the statistics of the training images into the info beside weights that are there already.

    python tools/training_statistics.py bundles/risc/models/model.pt pneumoniamnist --dataset_dir DATA

The first argument names the weights, the others the overlays on the bundle's train.json that they were
trained with; further options override keys, as those of `monai.bundle run` do. The images are read as for a
training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from monai.bundle import ConfigParser

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.utils.files import read_json, write_json
from tools.update_digests import main as update_digests


def main() -> None:
    """Evaluate the key `training_statistics` of the config and store it."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("overlays", nargs="*")
    chosen, rest = parser.parse_known_args()
    configs = chosen.weights.resolve().parents[1] / "configs"
    config = ConfigParser()
    config.read_config([configs / f"{name}.json" for name in ["train", *chosen.overlays]])
    config.update({key.removeprefix("--"): value for key, value in zip(rest[::2], rest[1::2], strict=True)})
    statistics = config.get_parsed_content("training_statistics")
    sidecar = chosen.weights.with_suffix(".json")
    known = read_json(sidecar)
    info = known["info"]
    # Weights of two networks keep it with the one that gives the answer.
    info.get("classifier", info)["training_statistics"] = statistics
    write_json(sidecar, known)
    update_digests()


if __name__ == "__main__":
    main()
