"""Rendered objects: deterministic, where they should be, and nothing else changed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from robustmed_monai.transforms.foreign_objects import (
    PICTURES,
    SHAPES,
    ForeignObject,
    RandForeignObject,
    RandForeignObjectd,
    draw_object,
    sample_object,
)
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError


def ellipse(size: int = 64) -> np.ndarray:
    x, y = np.mgrid[:size, :size]
    inside: np.ndarray = ((x - size / 2) / (0.35 * size)) ** 2 + ((y - size / 2) / (0.45 * size)) ** 2 < 1
    return inside


def slice_of(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    brain = torch.from_numpy(ellipse(size).astype(np.float32))[None]
    noise = torch.rand(1, size, size, generator=torch.Generator().manual_seed(3))
    return torch.where(brain > 0, 0.8 * noise - 0.4, torch.tensor(-1.5)), brain


@pytest.mark.parametrize("name", [*PICTURES, *SHAPES])
def test_every_object_changes_its_mask_and_little_else(name: str) -> None:
    image, brain = slice_of()
    render = RandForeignObject(objects=[name], size=(0.3, 0.3), prob=1.0)
    after, mask = (torch.as_tensor(t) for t in render.set_random_state(seed=1)(image, brain))
    assert render.spec is not None
    assert render.spec.name == name
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    changed = (after - image).abs() > 1e-6
    assert (changed & (mask > 0)).sum() > 0.7 * mask.sum()
    # Soft edges, and what is thinner than a pixel, are not in the mask.
    grown = torch.nn.functional.max_pool2d(mask[None], 9, 1, 4)[0]
    assert not (changed & (grown == 0)).any()
    assert after.min() >= image.min() - 1e-5
    assert after.max() <= image.max() + 1e-5


def test_deterministic_by_seed() -> None:
    image, brain = slice_of()

    def render(seed: int) -> torch.Tensor:
        return torch.as_tensor(RandForeignObject(prob=1.0).set_random_state(seed=seed)(image, brain)[0])

    assert torch.equal(render(4), render(4))
    assert not torch.equal(render(4), render(5))
    repeated = RandForeignObject(prob=1.0).set_random_state(seed=4)
    first = repeated(image, brain)[0]
    assert torch.equal(torch.as_tensor(first), torch.as_tensor(repeated(image, brain, randomize=False)[0]))


def test_share_size_and_place() -> None:
    image, brain = slice_of()
    render = RandForeignObject(objects=["disc"], size=(0.2, 0.4), prob=0.5).set_random_state(seed=0)
    widths, areas, drawn = 0.7 * 64, [], 0
    for _ in range(60):
        _, mask = render(image, brain)
        pixels = torch.as_tensor(mask)
        if render.spec is None:
            assert not pixels.any()
            continue
        drawn += 1
        assert 0.19 * widths <= render.spec.side <= 0.41 * widths
        areas.append(pixels.sum().item() / (math.pi * (render.spec.side / 2) ** 2))
        assert (pixels * brain).sum() >= 0.8 * pixels.sum()
    assert 20 <= drawn <= 40
    assert 0.8 < np.mean(areas) < 1.2, "the mask is as large as the object"


def test_contrast() -> None:
    image = np.zeros((32, 32), np.float32)
    image[0, 0], image[-1, -1] = -1, 1
    spans = []
    for contrast in (1.0, 0.25):
        after, mask = draw_object(image, ForeignObject("disc", (16.0, 16.0), 16.0, 0.0, contrast))
        spans.append(float(np.ptp(after[mask])))
    assert spans[1] == pytest.approx(spans[0] / 4, rel=0.1)


def test_where_nothing_fits_the_smallest_goes_to_the_deepest_place() -> None:
    brain = np.zeros((40, 40), bool)
    brain[10:30, 20:22] = True
    spec = sample_object(brain, np.random.default_rng(0), ["disc"], (1.0, 1.0), overlap=1.0)
    assert spec.side == 20
    assert brain[int(spec.center[0]), int(spec.center[1])]


def test_types_and_dictionary() -> None:
    image, brain = slice_of()
    meta = MetaTensor(image)
    after, mask = RandForeignObject(prob=1.0).set_random_state(seed=0)(meta, brain)
    assert isinstance(after, MetaTensor)
    array, _ = RandForeignObject(prob=1.0).set_random_state(seed=0)(image.numpy(), brain.numpy())
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, torch.as_tensor(after))
    item: dict[Any, Any] = {"image": image, "brain": brain, "subject": "a"}
    done = RandForeignObjectd("image", prob=1.0).set_random_state(seed=0)(item)
    assert torch.equal(torch.as_tensor(done["image"]), torch.as_tensor(after).as_subclass(torch.Tensor))
    assert torch.equal(torch.as_tensor(done["mask"]), torch.as_tensor(mask).as_subclass(torch.Tensor))
    assert done["kind"] in PICTURES
    assert torch.equal(item["image"], image)
    spared = RandForeignObjectd("image", prob=0.0)(item)
    assert (spared["kind"], spared["mask"].any()) == ("healthy", False)
    assert RandForeignObjectd("other", allow_missing_keys=True)(item).keys() == item.keys()


def test_errors() -> None:
    image, brain = slice_of()
    with pytest.raises(ConfigError, match=r"objects: found \['gorilla'\]; choose .*'face'"):
        RandForeignObject(objects=["gorilla"])
    with pytest.raises(ConfigError, match="size: found"):
        RandForeignObject(size=(0.4, 0.2))
    estimated = RandForeignObject(prob=1.0).set_random_state(seed=0)(image)
    assert torch.equal(
        *(
            torch.as_tensor(t)
            for t in (estimated[1], RandForeignObject(prob=1.0).set_random_state(seed=0)(image, brain)[1])
        )
    )
    with pytest.raises(ImageShapeError, match=r"give both as \(1, X, Y\)"):
        RandForeignObject()(image[0], brain)
    with pytest.raises(DataError, match="holds no brain"):
        RandForeignObject(prob=1.0)(image, torch.zeros_like(brain))
