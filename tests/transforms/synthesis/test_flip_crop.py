"""Flips and cropped fields of view."""

from __future__ import annotations

import pytest
import torch

from robustmed_monai.transforms.synthesis.flip_crop import crop, flip, sample_crops, sample_flips


def test_flips_are_those_drawn() -> None:
    maps = torch.randint(0, 9, (4, 1, 5, 6), dtype=torch.uint8)
    flips = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
    flipped = flip(maps, flips)
    expected = [maps[0], maps[1].flip(1), maps[2].flip(2), maps[3].flip(1, 2)]
    assert all(torch.equal(found, wanted) for found, wanted in zip(flipped, expected, strict=True))
    drawn = sample_flips(4000, 2, 0.25, torch.Generator().manual_seed(0))
    assert (drawn.float().mean(0) - 0.25).abs().max() < 0.03


@pytest.mark.parametrize("size", [(50, 40), (50, 40, 30)])
def test_crops_lose_no_more_than_their_share(size: tuple[int, ...]) -> None:
    crops = sample_crops(200, len(size), 0.5, 0.4, torch.Generator().manual_seed(0))
    seen = crop(torch.ones(200, 1, *size, dtype=torch.uint8), crops).float()
    cropped = seen.flatten(1).amin(1) == 0
    assert abs(cropped.float().mean() - 0.5) < 0.1
    for axis, side in enumerate(size):
        others = [k + 2 for k in range(len(size)) if k != axis]
        kept = seen.amax(others)[:, 0].sum(1)
        assert kept.min() >= 0.6 * side - 1
        assert kept.min() < 0.65 * side
        ends = seen.amax(others)[:, 0][cropped][:, [0, -1]].mean(0)
        assert (ends < 0.5).all()  # something is lost at either end
