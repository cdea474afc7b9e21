"""Stores the perceptrons of unORANIC's PCA variant in 8 bits, which takes 15 MB off the shipped files.

    ROBUSTMED_DATA=... python tools/shrink_weights.py bundles/unoranic/models/pca_pneumoniamnist.pt

The weights are rounded against the training images, as they are and corrupted, so that the outputs stay: the
differences on the test images are printed, and more than a grey level of 256 is refused. The linear probes
beside the file follow it. ``tools/update_digests.py`` comes next.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.data.medmnist import image_dataset
from robustmed_monai.inferers.probe import heads_file
from robustmed_monai.networks.unoranic_pca import PCAUNORANIC, unoranic_network
from robustmed_monai.transforms.corruption.core import corrupt
from robustmed_monai.transforms.corruption.unoranic import unoranic_chain
from robustmed_monai.utils.eight_bits import SCALE, restored, rounded_for, row_scales
from robustmed_monai.utils.errors import WeightsError
from robustmed_monai.utils.weights import load_info, load_weights, save_weights

LAYERS = ("bent.first", "bent.second", "bent.last")
LIMIT = 1 / 255  # largest difference of a pixel

log = logging.getLogger("shrink")


def images_of(dataset: str, section: str) -> Tensor:
    """Images (N, C, X, Y) of a section, each also corrupted by the chain of the training, seed 0."""
    folder = Path(os.environ["ROBUSTMED_DATA"]) / "medmnist"
    clean = image_dataset(section, dataset, folder).tensors["image"]
    chain = unoranic_chain(prob=0.25)
    params = chain.sample(tuple(clean.shape), torch.Generator().manual_seed(0))
    return torch.cat([clean, corrupt(clean, chain, params)])


def inputs_of(network: PCAUNORANIC, images: Tensor) -> dict[str, Tensor]:
    """What each of the layers to be rounded is given, by its name."""
    found: dict[str, Tensor] = {}
    layers = {name: layer for name, layer in network.named_modules() if name.endswith(LAYERS)}
    handles = [
        layer.register_forward_hook(lambda _, given, __, name=name: found.__setitem__(name, given[0]))
        for name, layer in layers.items()
    ]
    outputs(network, images)
    for handle in handles:
        handle.remove()
    return found


def outputs(network: PCAUNORANIC, images: Tensor) -> Tensor:
    """Anatomy images and full reconstructions, (2, N, C, X, Y)."""
    with torch.no_grad():
        return torch.stack([network(images), network.reconstruct(images)])


def shrink(path: Path) -> None:
    """Write a file of weights again, its perceptrons in 8 bits, and the probes beside it.

    Raises:
        WeightsError: when it is none of the PCA variant's, was shrunk before, or would answer otherwise.
    """
    info, weights = load_info(path), load_weights(path)
    if info.get("method") != "PCA variant" or "stored" in info:
        raise WeightsError(f"{path}: is no file of the PCA variant in half precision; give one.")
    dataset = info["dataset"]
    train, test = images_of(dataset, "training"), images_of(dataset, "test")
    network = cast(PCAUNORANIC, unoranic_network(info, in_channels=train.shape[1]).eval())
    network.load_state_dict(weights)
    before, stored = outputs(network, test), dict(weights)
    for name, given in inputs_of(network, train).items():
        matrix = weights[f"{name}.weight"].float()
        stored[f"{name}.weight"] = rounded_for(matrix, given)
        stored[f"{name}.weight{SCALE}"] = row_scales(matrix)
    network.load_state_dict(restored(stored, path))
    change = (outputs(network, test) - before).abs()
    log.info(
        "%s: pixels of the test images change by %.5f on average, %.5f at most",
        path.name,
        change.mean(),
        change.max(),
    )
    if change.max() > LIMIT:
        raise WeightsError(f"{path}: its outputs would change by more than a grey level; keep it as it is.")
    heads = heads_file(path)
    probes, known = load_weights(heads), load_info(heads)
    digest = save_weights(
        stored, path, {**info, "stored": "perceptrons in 8 bits, the rest in half precision"}
    )
    save_weights(probes, heads, {**known, "weights": digest})


def main() -> None:
    """Shrink the files that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for path in parser.parse_args().files:
        shrink(path)


if __name__ == "__main__":
    main()
