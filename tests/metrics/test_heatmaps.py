from __future__ import annotations

import pytest
import torch
from torch import nn

from robustmed_monai.metrics.heatmaps import deletion_insertion_auc, rotation_consistency
from robustmed_monai.transforms.rotation import rotate
from robustmed_monai.utils.errors import DataError


def maps(count: int, size: int = 32) -> torch.Tensor:
    """Two heat maps that turn with their images: a spot each, (count, 2, 1, size, size)."""
    x, y = torch.meshgrid(*[torch.arange(size).float()] * 2, indexing="ij")
    spots = [torch.exp(-((x - a) ** 2 + (y - b) ** 2) / 20) for a, b in ((12, 18), (19, 15))]
    return torch.stack([rotate(torch.stack(spots)[:, None], k, count) for k in range(count)])


@pytest.mark.parametrize(("count", "least"), [(4, 0.9999), (8, 0.99)])
def test_maps_that_turn_with_the_image_are_consistent(count: int, least: float) -> None:
    assert (rotation_consistency(maps(count), count) > least).all()


def test_maps_that_stay_where_they_are_are_not() -> None:
    staying = maps(4)[:1].expand(4, -1, -1, -1, -1)
    assert (rotation_consistency(staying, 4) < 0.9).all()


def test_a_flat_map_has_no_consistency() -> None:
    assert rotation_consistency(torch.ones(4, 1, 1, 8, 8), 4).isnan().all()


def test_all_rotations_are_needed() -> None:
    with pytest.raises(DataError, match="maps of 3 rotations; give those of all 4"):
        rotation_consistency(torch.ones(3, 1, 1, 8, 8), 4)


class Spot(nn.Module):
    """Class 1 is as likely as the spot at (2, 3) is brighter than the rest."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        score = 12 * (image[:, 0, 2, 3] - image[:, 0].mean((1, 2)))
        return torch.stack([torch.full_like(score, 3.0), score], 1)


def test_the_pixel_that_counts_is_deleted_first_and_inserted_first() -> None:
    image = torch.full((1, 1, 8, 8), 0.2)
    image[..., 2, 3] = 1
    good, bad = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    good[..., 2, 3], bad[..., 2, 3] = 1, 0
    target = torch.tensor([1])
    deletion, insertion = deletion_insertion_auc(Spot(), image, good, target)
    worse_deletion, worse_insertion = deletion_insertion_auc(Spot(), image, bad, target)
    assert deletion < 0.1 < 0.8 < worse_deletion
    assert worse_insertion < 0.1 < 0.8 < insertion


def test_a_batch_is_its_images() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    images, heat, target = torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 8), torch.tensor([0, 2, 1])
    whole = deletion_insertion_auc(network, images, heat, target, steps=4, batch_size=2)
    for i in range(3):
        single = deletion_insertion_auc(
            network, images[i : i + 1], heat[i : i + 1], target[i : i + 1], steps=4
        )
        torch.testing.assert_close(torch.cat(single), torch.stack(whole)[:, i])
    assert network.training
