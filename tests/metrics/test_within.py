from __future__ import annotations

import numpy as np
import pytest
import torch

from robustmed_monai.metrics.pixel import PixelAnomalyMetric
from robustmed_monai.metrics.within import ranking_within
from robustmed_monai.utils.errors import DataError


def test_each_image_is_ranked_on_its_own() -> None:
    """The level of a map, which differs between scanners, changes nothing within an image."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(5, 1, 16, 16, generator=generator)
    masks = (torch.rand(5, 1, 16, 16, generator=generator) < 0.2).float()
    levels = torch.tensor([1.0, 10.0, 0.1, 3.0, 7.0])[:, None, None, None]
    found, scaled = ranking_within(maps, masks), ranking_within(maps * levels, masks)
    assert all(np.allclose(found[key], scaled[key]) for key in found)
    for i in range(5):
        alone = PixelAnomalyMetric(mantissa_bits=16)
        alone(maps[i : i + 1], masks[i : i + 1])
        assert found["within_ap"][i] == pytest.approx(alone.aggregate()["pixel_ap"], abs=1e-3)
        assert found["pointing"][i] == masks[i].flatten()[maps[i].flatten().argmax()]


def test_a_flat_map_is_chance_and_healthy_images_do_not_count() -> None:
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :2, :2] = 1
    found = ranking_within(torch.ones(2, 1, 4, 4), mask)
    assert found["within_ap"][0] == found["pointing"][0] == 0.25
    assert np.isnan(found["within_ap"][1])
    assert np.isnan(found["pointing"][1])
    with pytest.raises(DataError, match="lowest value"):
        ranking_within(-torch.ones(1, 1, 4, 4), mask[:1])
