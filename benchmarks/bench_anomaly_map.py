"""RA's anomaly map of a batch at once, beside the same map made image by image.

    python benchmarks/bench_anomaly_map.py [--rounds 15] [--device cpu] [--output results.json]

The peer is what a script does that follows the paper: a loop over the images, each through the network,
``skimage.exposure.equalize_adapthist``, NumPy, the encoder, and ``scipy.ndimage.gaussian_filter``. Both sides
give the same numbers; the largest difference is part of the results.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.exposure import equalize_adapthist as equalize_one
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.timing import (
    COMPACT,
    Row,
    Work,
    brain_slices,
    interleaved,
    memory_rows,
    options,
    peak_memory,
    row,
    same_numbers,
    save,
)
from robustmed_monai.inferers.perceptual import EncoderPerceptual, images_at_once
from robustmed_monai.inferers.ra import AnomalyMapInferer
from robustmed_monai.networks.ra import ReversedAutoEncoder
from robustmed_monai.transforms.clahe import equalize_adapthist
from robustmed_monai.utils.provenance import CHECKOUT
from robustmed_monai.utils.weights import load_into

PEER = "image by image"
WEIGHTS = CHECKOUT / "bundles/ra/models/model.pt"

Array = np.ndarray[Any, Any]


class PerImageMap:
    """The map of ``AnomalyMapInferer``, made image by image; one channel.

    Args:
        perceptual: multiply by the perceptual differences.
        layers: embeddings that they compare.
        sigma: standard deviation in pixels of their Gaussian.
    """

    def __init__(self, perceptual: bool, layers: Sequence[int], sigma: float = 2.0) -> None:
        self.perceptual, self.layers, self.sigma = perceptual, tuple(layers), sigma

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, network: Any) -> dict[str, torch.Tensor]:
        """Reconstruct and compare images (B, 1, X, Y), as the inferer does."""
        preds = torch.cat([network(images[i : i + 1]).clamp(0, 1) for i in range(len(images))])
        return {"pred": preds, "anomaly_map": self.compare(images, preds, network)}

    @torch.no_grad()
    def compare(self, images: torch.Tensor, preds: torch.Tensor, network: Any) -> torch.Tensor:
        """Maps (B, 1, X, Y) of images and their reconstructions."""
        return torch.stack([self._one(x[0], y[0], network) for x, y in zip(images, preds, strict=True)])

    def _one(self, image: torch.Tensor, pred: torch.Tensor, network: Any) -> torch.Tensor:
        x, y = image.cpu().numpy(), pred.cpu().numpy()
        equal_x, equal_y = (equalize_one(a).astype(np.float32) for a in (x, y))
        found = np.abs(equal_y - equal_x)
        if self.perceptual:
            for a, b in ((y, x), (equal_y, equal_x)):
                found = found * gaussian_filter(
                    self.distance(a, b, network.encoder, image.device), self.sigma
                )
        return torch.from_numpy(found)[None]

    def distance(self, a: Array, b: Array, encoder: Any, device: torch.device) -> Array:
        """Perceptual difference (X, Y) of two images (X, Y)."""
        first, second = (encoder.features(torch.from_numpy(i)[None, None].to(device)) for i in (a, b))
        total = torch.zeros(1, 1, *a.shape, device=device)
        for k in self.layers:
            u, v = (F.normalize(features[k], dim=1, eps=1e-10) for features in (first, second))
            total += F.interpolate((u - v).square().sum(1, keepdim=True), a.shape, mode="bilinear")
        found: Array = (total[0, 0] / len(self.layers)).cpu().numpy()
        return found


def network_and_images(count: int, size: int, device: str) -> tuple[ReversedAutoEncoder, torch.Tensor]:
    """The shipped compact network where it is there and fits, else one with random weights; and heads."""
    quick = size != 128
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ReversedAutoEncoder(image_size=size, **({"channels": (4, 8, 8)} if quick else COMPACT))
    if WEIGHTS.is_file() and not quick:
        load_into(network, WEIGHTS)
    return network.eval().to(device).to(memory_format=torch.channels_last), brain_slices(count, size).to(
        device
    )


def build_map(ours: bool, count: int, size: int, device: str) -> Work:
    """The work 'image to map', for the measurement of its memory."""
    network, images = network_and_images(count, size, device)
    inferer = _full(network)[0 if ours else 1]
    return partial(inferer, images, network)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results file."""
    chosen = options("anomaly_map", __doc__, 15, arguments)
    count, size = (4, 32) if chosen.quick else (32, 128)
    network, images = network_and_images(count, size, chosen.device)
    ours, peer = _full(network)
    plain, plain_peer = AnomalyMapInferer(perceptual="none"), PerImageMap(False, ())
    with torch.no_grad():
        preds = peer(images, network)["pred"]
    differences = {
        "map of given reconstructions": same_numbers(
            "map of given reconstructions",
            ours.compare(images, preds, network),
            peer.compare(images, preds, network),
            1e-5,
        ),
        "residual of CLAHE": same_numbers(
            "residual of CLAHE",
            plain.compare(images, preds),
            plain_peer.compare(images, preds, network),
            1e-6,
        ),
        "reconstruction": same_numbers("reconstruction", ours(images, network)["pred"], preds, 1e-5),
    }
    works = _works(network, images, preds)
    seconds = interleaved(works, chosen.rounds, chosen.device)
    cases = dict.fromkeys(name.removesuffix(PEER).removesuffix(", ") for name in works)
    rows: list[Row] = [row(case, seconds[case], seconds[f"{case}, {PEER}"], PEER) for case in cases]
    if not chosen.quick:
        a, b = (
            peak_memory(build_map, side, count, size, chosen.device, device=chosen.device)
            for side in (True, False)
        )
        rows += memory_rows("image to map", a, b, PEER)
    save(chosen, rows, seeds=[0], batch=count, pixels=size, largest_difference=differences)


def _full(network: Any) -> tuple[AnomalyMapInferer, PerImageMap]:
    """The whole map of both sides."""
    ours = AnomalyMapInferer()
    return ours, PerImageMap(True, ours.layers or range(len(network.encoder.stages) + 1))


def _works(network: Any, images: torch.Tensor, preds: torch.Tensor) -> dict[str, Work]:
    ours, peer = _full(network)
    plain, plain_peer = AnomalyMapInferer(perceptual="none"), PerImageMap(False, ())
    pairs = torch.cat([images, preds])
    encoder = EncoderPerceptual(network.encoder, ours.layers)

    def equalize_each() -> None:
        for image in pairs.cpu().numpy():
            equalize_one(image[0])

    def distance_each() -> None:
        with torch.no_grad():
            for a, b in zip(preds.cpu().numpy(), images.cpu().numpy(), strict=True):
                peer.distance(a[0], b[0], network.encoder, images.device)

    def reconstruct_each() -> None:
        with torch.no_grad():
            for image in images.split(1):
                network(image)

    def reconstruct() -> None:
        with torch.no_grad():
            for part in images.split(images_at_once(images)):
                network(part)

    both: dict[str, tuple[Work, Work]] = {
        "CLAHE of images and reconstructions": (lambda: equalize_adapthist(pairs), equalize_each),
        "residual of CLAHE of given reconstructions": (
            lambda: plain.compare(images, preds),
            lambda: plain_peer.compare(images, preds, network),
        ),
        "perceptual difference of given reconstructions": (lambda: encoder(preds, images), distance_each),
        "map of given reconstructions": (
            lambda: ours.compare(images, preds, network),
            lambda: peer.compare(images, preds, network),
        ),
        "network alone": (reconstruct, reconstruct_each),
        "image to residual of CLAHE": (
            lambda: plain(images, network),
            lambda: plain_peer(images, network),
        ),
        "image to map": (lambda: ours(images, network), lambda: peer(images, network)),
    }
    return {n: w for case, (a, b) in both.items() for n, w in ((case, a), (f"{case}, {PEER}", b))}


if __name__ == "__main__":
    main()
