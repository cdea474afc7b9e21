"""A whole training step of unORANIC: views corrupted in one batch, or image by image as a DataLoader does.

    python benchmarks/bench_unoranic.py [--rounds 9] [--device cpu] [--output results.json]

On one CPU thread, 28-pixel grey images. The authors feed the step by Albumentations, one image after the
other in the training process; that side runs in an environment of its own (see ``bench_corruptions.py``) and
hands nothing over, which flatters it. ``--quick`` leaves it out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.bench_corruptions import (
    ALBUMENTATIONS_ITEMS,
    MONAI_ITEMS,
    albumentations_works,
    each,
    images_of,
    monai_chain,
)
from benchmarks.timing import Row, Work, interleaved, options, row, save
from robustmed_monai.losses.unoranic import UNORANICLoss
from robustmed_monai.networks.unoranic import UNORANIC
from robustmed_monai.networks.unoranic_pca import PCAUNORANIC
from robustmed_monai.transforms.corruption.unoranic import unoranic_chain
from robustmed_monai.transforms.corruption.views import CorruptedViews

# Of the configs train.json and pca.json: images in a batch, variants beside the first view.
CASES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "published network": (UNORANIC, 64, 3),
    "PCA variant": (PCAUNORANIC, 128, 1),
}


class Step:
    """One step of training on images (B, 1, 28, 28) of 8 bits.

    Args:
        network: what is trained.
        images: the batch.
        variants: views beside the first.
    """

    def __init__(self, network: nn.Module, images: Tensor, variants: int) -> None:
        self.images, self.variants = images, variants
        self.networks = dict(network.to(memory_format=torch.channels_last).named_children())
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
        self.loss = UNORANICLoss()
        self.views = CorruptedViews(unoranic_chain(), variants)
        self.generator = torch.Generator().manual_seed(0)
        self.chain = monai_chain().set_random_state(seed=0)

    def batched(self) -> None:
        """Corrupt all views at once."""
        self._learn(self.views({"image": self.images / 255}, self.generator))

    def per_item(self) -> None:
        """Corrupt view after view by MONAI's transforms."""
        views = [each(self.chain, self.images) for _ in range(self.variants + 1)]
        self._learn_views(views)

    def learn_only(self) -> None:
        """Take views that were corrupted elsewhere."""
        self._learn_views([self.images / 255] * (self.variants + 1))

    def _learn_views(self, views: Sequence[Tensor]) -> None:
        self._learn({"image": self.images / 255, "corrupted": torch.cat(list(views))})

    def _learn(self, batch: dict[str, Tensor]) -> None:
        batch["corrupted"] = batch["corrupted"].contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.networks, batch, self.generator)["loss"].backward()
        self.optimizer.step()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results file."""
    chosen = options("unoranic", __doc__, 9, arguments)
    torch.set_num_threads(1)
    rows = [r for case in CASES for r in _rows(case, chosen)]
    save(chosen, rows, seeds=[0])


def _rows(case: str, chosen: Any) -> list[Row]:
    build, count, variants = CASES[case]
    count = 4 if chosen.quick else count
    images = images_of(1, count, 28)
    torch.manual_seed(0)
    step = Step(build(), images, variants)
    works: dict[str, Work] = {"ours": step.batched, MONAI_ITEMS: step.per_item}
    many = images.repeat(variants + 1, 1, 1, 1)
    with ExitStack() as stack:
        if not chosen.quick:
            corrupt_elsewhere = stack.enter_context(albumentations_works({case: many}))[case]

            def fed() -> None:
                corrupt_elsewhere()
                step.learn_only()

            works[ALBUMENTATIONS_ITEMS] = fed
        seconds = interleaved(works, chosen.rounds, chosen.device)
    return [
        row(f"step of the {case}, per image", seconds["ours"], seconds[peer], peer, "ms", 1000.0 / count)
        for peer in works
        if peer != "ours"
    ]


if __name__ == "__main__":
    main()
