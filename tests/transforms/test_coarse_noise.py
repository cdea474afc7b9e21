from __future__ import annotations

import pytest
import torch

from robustmed_monai.transforms.coarse_noise import BatchCoarseNoise
from robustmed_monai.utils.errors import ConfigError


def _noise(noise: BatchCoarseNoise, image: torch.Tensor, seed: int = 0) -> torch.Tensor:
    batch = noise({"image": image}, torch.Generator().manual_seed(seed))
    assert torch.equal(batch["label"], image)
    return batch["image"] - image


def test_noise_is_coarse_on_the_head_alone_and_another_in_each_image() -> None:
    image = torch.full((16, 1, 64, 64), 0.5)
    image[..., :8] = 0
    found = _noise(BatchCoarseNoise(std=0.2, cells=8), image)
    assert not found[..., :8].any()
    inside = found[..., 8:]
    assert 0.08 < float(inside.std()) < 0.2, "bilinear means of a standard deviation of 0.2"
    # Neighbours are alike, cells are not; at the seam of the shift noise may jump.
    step = inside.diff(dim=-1).square().mean() / inside.square().mean()
    assert float(step) < 0.1
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found, _noise(BatchCoarseNoise(std=0.2, cells=8), image))
    assert not torch.equal(found, _noise(BatchCoarseNoise(std=0.2, cells=8), image, seed=1))


def test_no_noise_is_no_task() -> None:
    for settings in ({"std": 0.0}, {"cells": 0}):
        with pytest.raises(ConfigError, match="above 0"):
            BatchCoarseNoise(**settings)
