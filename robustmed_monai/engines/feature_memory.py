"""A feature memory is filled, not trained: healthy images pass through its backbone once or a few times."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from tqdm import tqdm

from robustmed_monai.engines.multi_optimizer import BatchTransform
from robustmed_monai.networks.feature_memory import FeatureMemory
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.weights import load_info, load_into, save_weights


def fill_memory(
    network: FeatureMemory,
    images: Iterable[Mapping[str, Any]],
    path: str | os.PathLike[str],
    info: Mapping[str, Any],
    passes: int = 1,
    augmentation: BatchTransform | None = None,
    limit: int = 2000,
    seed: int = 0,
    resume: bool = False,
    device: torch.device | str = "cpu",
) -> None:
    """Fill the memory of a network with healthy images and keep it as weights.

    Args:
        network: its memory is replaced.
        images: batches with `image` (B, C, X, Y) in [0, 1]; read once per pass.
        path: weights file to write.
        info: kept with the weights.
        passes: how often the images are shown: first as they are, then augmented.
        augmentation: batched augmentation on the device, (batch, generator) to batch.
        limit: images whose features are held at once; more are drawn from at random.
        seed: seed of the augmentation and of that draw.
        resume: leave weights that are there, and load them.
        device: where the backbone runs.

    Raises:
        DataError: when there are less than two images.
    """
    if resume and Path(path).is_file() and load_info(path):
        load_into(network, path)
        return
    generator = torch.Generator().manual_seed(seed)
    kept: list[torch.Tensor] = []
    seen = 0
    for number in range(passes):
        for batch in tqdm(images, desc=f"healthy images, pass {number + 1}", leave=False, disable=None):
            shown = {"image": torch.as_tensor(batch["image"]).to(device)}
            if number and augmentation is not None:
                shown = augmentation(shown, generator)
            for vectors in network.features(shown["image"]).half().cpu():
                seen += 1
                if len(kept) < limit:
                    kept.append(vectors)
                    continue
                # Each image seen so far stays with the same probability.
                place = int(torch.randint(seen, (1,), generator=generator))
                if place < limit:
                    kept[place] = vectors
    if len(kept) < 2:
        raise DataError(f"{len(kept)} healthy images for the memory; it needs at least 2, better 50 or more.")
    network.cpu().remember(torch.stack(kept).float())
    if idist.get_rank() == 0:
        save_weights(network.state_dict(), path, {**info, "images": seen})
    idist.barrier()
    network.to(device)
