"""Batches of two views: pure in seed and index, one geometry, real label maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from robustmed_monai.data import SyntheticViews
from robustmed_monai.transforms.synthesis import DiffeomorphicDeform, LabelShapes, LabelsToImage
from robustmed_monai.utils.errors import ConfigError

Batch = dict[str, torch.Tensor]
FLAT = LabelsToImage(std=(0, 0), zero_background=0, blur=0, bias_std=0, gamma_std=0)


def same(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def five() -> list[Batch]:
    return list(SyntheticViews((32, 28), 2, 5, seed=7, label_map_cache=3, refresh=2))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_same_bits_for_any_number_of_workers(five: list[Batch], workers: int) -> None:
    views = SyntheticViews((32, 28), 2, 5, seed=7, label_map_cache=3, refresh=2)
    # Spawned workers would take seconds to start, and forked ones do not get on with threads: there is one.
    found = list(DataLoader(views, batch_size=None, num_workers=workers))
    assert len(found) == 5
    assert all(map(same, found, five))


def test_a_batch_depends_on_seed_and_index_alone(five: list[Batch]) -> None:
    views = SyntheticViews((32, 28), 2, 5, seed=7, label_map_cache=3, refresh=2)
    assert all(same(views.batch(i), five[i]) for i in (4, 0, 3, 1))
    late = SyntheticViews((32, 28), 2, 2, seed=7, label_map_cache=3, refresh=2, start=3)
    assert all(map(same, late, five[3:]))
    assert not same(SyntheticViews((32, 28), 2, 1, seed=8, label_map_cache=3, refresh=2).batch(0), five[0])
    assert not torch.equal(five[0]["image"], five[1]["image"])


@pytest.mark.parametrize("size", [(64, 48), (32, 28, 24)])
@pytest.mark.parametrize("cache", [0, 4])
def test_views_share_the_geometry_to_the_voxel(size: tuple[int, ...], cache: int) -> None:
    batch = SyntheticViews(size, 3, 1, label_map_cache=cache, to_image=FLAT).batch(5)
    assert batch["label"].dtype == torch.uint8
    assert batch["image"].dtype == torch.float32
    assert {key: value.shape for key, value in batch.items()} == {
        "image": (6, 1, *size),
        "label": (3, 1, *size),
    }
    for row in range(3):
        labels = batch["label"][row]
        for image in batch["image"][row::3]:
            values = torch.stack([image[labels == label].unique() for label in labels.unique()])
            assert values.shape[1] == 1  # one intensity per label: the image changes where the labels do
            assert values.min() == 0
            assert values.max() == 1


def test_contrasts_of_the_views_differ() -> None:
    batch = SyntheticViews((64, 64), 8, 1).batch(0)
    stacked = batch["image"].view(2, 8, -1).transpose(0, 1)
    correlation = torch.stack([torch.corrcoef(pair)[0, 1] for pair in stacked])
    assert correlation.abs().mean() < 0.6
    assert correlation.min() < 0


def test_the_cache_of_maps_is_refreshed_slot_by_slot() -> None:
    still: dict[str, Any] = {"flip_prob": 0.0, "deform": DiffeomorphicDeform(std=0), "label_map_cache": 2}
    maps: dict[bytes, set[int]] = {}
    views = SyntheticViews((20, 20), 4, 40, refresh=10, **still)
    for number, batch in enumerate(views):
        for labels in batch["label"]:
            maps.setdefault(labels.numpy().tobytes(), set()).add(number)
    lives = sorted((min(numbers), max(numbers)) for numbers in maps.values())
    # Two at the start; then one is replaced after every tenth batch, each lives for twenty.
    assert len(lives) == 5
    assert all(last // 10 - first // 10 <= 1 for first, last in lives)
    forever = SyntheticViews((20, 20), 4, 40, refresh=0, **still)
    assert len({labels.numpy().tobytes() for batch in forever for labels in batch["label"]}) == 2
    anew = SyntheticViews((20, 20), 4, 5, **{**still, "label_map_cache": 0})
    assert len({labels.numpy().tobytes() for batch in anew for labels in batch["label"]}) == 20


def test_real_label_maps_and_a_wanted_contrast() -> None:
    x, y = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48), indexing="ij")
    radius = (x**2 + y**2).sqrt()
    brain = (radius < 0.9).to(torch.uint8) + (radius < 0.6) + (radius < 0.3)
    t2 = LabelsToImage(means=[0, 0.9, 0.6, 0.3], std=(0, 0.05), bias_std=0.1, gamma_std=0.1)
    views = SyntheticViews((48, 48), 4, 1, label_maps=brain[None, None], to_image=t2)
    batch = views.batch(0)
    assert not torch.equal(batch["label"][0], batch["label"][1])
    for view in batch["image"].split(4):
        means = [view[batch["label"] == label].mean() for label in range(4)]
        assert means[0] < means[3] < means[2] < means[1]


def test_cropping_and_own_shapes() -> None:
    shapes = LabelShapes(3)
    plain = SyntheticViews((48, 48), 8, 1, shapes=shapes).batch(0)["label"]
    cropped = SyntheticViews((48, 48), 8, 1, shapes=shapes, crop_prob=1.0, crop=0.6).batch(0)["label"]
    assert int(plain.max()) == 2
    border = torch.ones(48, 48, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    assert (cropped[..., border] == 0).float().mean() > (plain[..., border] == 0).float().mean() + 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spatial_size": (8,)}, "spatial_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"crop": 1.5}, "crop"),
        ({"seed": -1}, "seed"),
        ({"label_maps": torch.zeros(2, 1, 9, 8, dtype=torch.uint8)}, "shape"),
        ({"label_maps": torch.zeros(2, 1, 8, 8)}, "integer"),
        (
            {
                "label_maps": torch.full((2, 1, 8, 8), 2, dtype=torch.uint8),
                "to_image": LabelsToImage(means=(0, 1)),
            },
            "labels up to 2, to_image has 2 means",
        ),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticViews(**{"spatial_size": (8, 8), "batch_size": 1, "length": 1, **settings})
