"""RISC from image to class probabilities on one CPU thread, and RotNet's training beside a loader that turns.

    python benchmarks/bench_risc.py [--rounds 7] [--device cpu] [--output results.json]

Latency is that of ``RotationCorrectionInferer`` (RotNet, turning back, classifier) at batch 1 and 64; the
paper reports 9.6 to 12.5 ms per sample on an Apple M1. The peer of a row is what its name says, in the same
rounds. Time does not depend on the weights, so those of the start are used.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data.dataset import CacheDataset
from torch.nn import functional as F
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.timing import Row, Work, interleaved, options, row, same_numbers, save
from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.networks.risc import RotNet, resnet2d
from robustmed_monai.transforms.rotation import RandRotateKd, all_rotations, rotate, rotation_labels

SIZE = 32
# Trunks by name: the bundle's compact one, and the paper's.
NETWORKS: dict[str, dict[str, Any]] = {
    "ResNet-18 x 0.5": {"depth": 18, "stem": "small", "width": 0.5},
    "ResNet-50": {"depth": 50, "stem": "imagenet", "width": 1.0},
}
PAPER_MS = 9.6


def risc(settings: Mapping[str, Any], batch: int, device: str, **how: Any) -> Work:
    """Image to class probabilities of one batch."""
    torch.manual_seed(0)
    rotnet = RotNet(4, 1, **settings).to(device).eval()
    classifier = resnet2d(2, 1, **settings).to(device).eval()
    images = torch.rand(batch, 1, SIZE, SIZE, device=device)
    for network in (rotnet, classifier):
        network.to(memory_format=torch.channels_last)
    inferer = RotationCorrectionInferer(rotnet, outputs="logits", **how)
    return lambda: inferer(images, classifier)


def training(settings: Mapping[str, Any], count: int, batch: int, device: str) -> dict[str, Work]:
    """An epoch of RotNet over all four rotations of ``count`` images: batched, and by a loader that turns.

    The loader's items are single rotations, drawn as MONAI's transforms draw them, so that its epoch is four
    passes over the images.
    """
    images = torch.rand(count, 1, SIZE, SIZE)
    items = [{"image": image} for image in images]
    peer = DataLoader(CacheDataset(items, RandRotateKd("image"), progress=False), 4 * batch, shuffle=True)
    networks = {name: RotNet(4, 1, **settings).to(device) for name in ("batched", "loader")}
    optimizers = {k: torch.optim.SGD(n.parameters(), 1e-6, momentum=0.9) for k, n in networks.items()}

    def step(name: str, views: torch.Tensor, labels: torch.Tensor) -> None:
        loss = F.cross_entropy(networks[name](views.to(device)), labels.to(device))
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()

    def batched() -> None:
        for part in images[torch.randperm(count)].split(batch):
            step("batched", all_rotations(part.to(device)), rotation_labels(len(part), 4, device))

    def loader() -> None:
        for _ in range(4):
            for found in peer:
                step("loader", found["image"], torch.as_tensor(found["rotation"]))

    def turning() -> None:
        for part in images.split(batch):
            all_rotations(part.to(device))

    def loading() -> None:
        for _ in range(4):
            for _ in peer:
                pass

    return {"batched": batched, "loader": loader, "turning": turning, "loading": loading}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results file."""
    chosen = options("risc", __doc__, 7, arguments)
    if chosen.device == "cpu":
        torch.set_num_threads(1)
    _check_same()
    rows = _latency(chosen.rounds, chosen.device, chosen.quick)
    rows += _training(chosen.rounds, chosen.device, chosen.quick)
    save(chosen, rows, seeds=[0], size=SIZE, paper_ms_per_sample=PAPER_MS)


def _check_same() -> None:
    """Both ways of turning give the same images."""
    images = torch.rand(5, 1, SIZE, SIZE)
    single = torch.cat([rotate(x[None], k) for x in images for k in range(4)])
    same_numbers("turned images", all_rotations(images), single, 0.0)


def _latency(rounds: int, device: str, quick: bool) -> list[Row]:
    rows = []
    for batch in (1, 4 if quick else 64):
        works = {
            **{name: risc(settings, batch, device) for name, settings in NETWORKS.items()},
            "bf16": risc(NETWORKS["ResNet-18 x 0.5"], batch, device, amp=True),
            "soft": risc(NETWORKS["ResNet-18 x 0.5"], batch, device, correction="soft", min_weight=0.0),
        }
        seconds = interleaved(works, rounds, device)
        scale = 1000 / batch
        compact, large = (seconds[name] for name in NETWORKS)
        case = f"RISC, batch {batch}"
        rows += [
            row(f"{case}, ResNet-18 x 0.5", compact, large, "ResNet-50", "ms/image", scale),
            row(f"{case}, ResNet-50", large, [PAPER_MS * batch / 1000], "paper, Apple M1", "ms/image", scale),
            row(f"{case}, bfloat16", seconds["bf16"], compact, "float32", "ms/image", scale),
            row(f"{case}, hard", compact, seconds["soft"], "soft over all views", "ms/image", scale),
        ]
    return rows


def _training(rounds: int, device: str, quick: bool) -> list[Row]:
    count, batch = (16, 8) if quick else (256, 32)
    seconds = interleaved(training(NETWORKS["ResNet-18 x 0.5"], count, batch, device), rounds, device)
    scale = 1e6 / (4 * count)
    peer = "CacheDataset, item by item"
    return [
        row("RotNet, training", seconds["batched"], seconds["loader"], peer, "us/view", scale),
        row("RotNet, making the views", seconds["turning"], seconds["loading"], peer, "us/view", scale),
    ]


if __name__ == "__main__":
    main()
