from __future__ import annotations

import math

import pytest
import torch

from robustmed_monai.metrics.free_response import free_response


def test_recall_rises_with_the_false_regions_that_are_accepted() -> None:
    """Two lesions, of which one is fainter than one false region."""
    maps, masks = torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 32, 32)
    masks[0, 0, :4, :4], maps[0, 0, :4, :4] = 1, 3.0
    maps[1, 0, 10:14, 10:14] = 2.0
    masks[1, 0, 20:24, 20:24], maps[1, 0, 20:24, 20:24] = 1, 1.0
    found = free_response(maps, masks, (0, 0.5, 4), thresholds=200)
    assert found == {"recall_at_0": 0.5, "recall_at_0.5": 1.0, "recall_at_4": 1.0}
    # The unit of the map does not count.
    assert free_response(maps * 7, masks, (0, 0.5, 4), thresholds=200) == found


def test_specks_are_shown_to_nobody_and_count_for_nothing() -> None:
    maps, masks = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    masks[..., 20:24, 20:24], maps[..., 20:24, 20:24] = 1, 1.0
    maps[..., 0, ::4] = 2.0
    assert free_response(maps, masks, (0,), thresholds=200) == {"recall_at_0": 1.0}
    assert free_response(maps, masks, (0,), thresholds=200, min_pixels=1) == {"recall_at_0": 0.0}
    maps[..., 20:24, 20:24] = 0
    maps[..., 21, 21] = 3.0
    assert free_response(maps, masks, (4,), thresholds=200) == {"recall_at_4": 0.0}


def test_a_map_that_says_nothing_finds_nothing_and_no_lesion_has_no_recall() -> None:
    masks = torch.zeros(2, 1, 16, 16)
    assert math.isnan(free_response(torch.rand(2, 1, 16, 16), masks)["recall_at_1"])
    masks[0, 0, 4:8, 4:8] = 1
    noise = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert free_response(noise, masks, (0,), min_pixels=200) == {"recall_at_0": 0.0}


def test_of_several_highest_points_each_counts_for_its_share() -> None:
    maps, masks = torch.zeros(1, 1, 20, 20), torch.zeros(1, 1, 20, 20)
    maps[..., 5:12, 5:12], masks[..., 8:12, 8:12] = 1, 1
    found = [free_response(maps.flip(axes), masks.flip(axes)) for axes in ((), (2,), (3,), (2, 3))]
    assert found[0]["recall_at_1"] == pytest.approx(16 / 49)
    assert all(other == found[0] for other in found)
