from __future__ import annotations

from typing import Any

import pytest
import torch

from robustmed_monai.transforms.adapters import BatchCompose
from robustmed_monai.transforms.batch_rotation import (
    BatchAllRotations,
    BatchRandIntensity,
    BatchRandRotation,
    BatchRotationFilter,
)
from robustmed_monai.transforms.rotation import rotate
from robustmed_monai.utils.errors import ConfigError


def batch(count: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.rand(count, 1, 8, 8, generator=generator), "label": torch.arange(count) % 3}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_all_rotations_are_labelled_by_their_rotation() -> None:
    found = BatchAllRotations(4)(batch(), generator())
    for image, label, source in zip(found["image"], found["label"], range(24), strict=True):
        assert torch.equal(image, rotate(batch()["image"][source // 4][None], int(label))[0])


def test_or_by_the_class_of_their_image() -> None:
    found = BatchAllRotations(4, keep_label=True)(batch(), generator())
    assert found["label"].tolist() == batch()["label"].repeat_interleave(4).tolist()


def test_random_rotations_are_drawn_by_the_generator_alone() -> None:
    once, again = (BatchRandRotation(4)(batch(), generator(5))["image"] for _ in range(2))
    other = BatchRandRotation(4)(batch(), generator(6))["image"]
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    options = torch.stack([rotate(batch()["image"], k) for k in range(4)], 1)
    assert all(any(torch.equal(x, o) for o in row) for x, row in zip(once, options, strict=True))


def test_upright_changes_nothing_of_four_and_filters_for_eight() -> None:
    image = batch()["image"]
    assert torch.equal(BatchRotationFilter(4)(batch(), generator())["image"], image)
    assert torch.equal(BatchRotationFilter(8)(batch(), generator())["image"], rotate(image, 0, 8))


def test_tone_without_ranges_is_the_identity() -> None:
    found = BatchRandIntensity(0, 0, 0)(batch(), generator())["image"]
    torch.testing.assert_close(found, batch()["image"])


def test_tone_stays_in_range_and_differs_between_images() -> None:
    same = {"image": batch(1)["image"].expand(5, 1, 8, 8)}
    found = BatchRandIntensity(0.3, 0.5, 0.5)(same, generator())["image"]
    assert found.min() >= 0
    assert found.max() <= 1
    assert len({float(x.mean()) for x in found}) == 5


def test_compose_keeps_the_order() -> None:
    chain = BatchCompose([BatchRandIntensity(), BatchAllRotations(4)])
    found = chain(batch(2), generator())
    toned = BatchRandIntensity()(batch(2), generator())
    assert torch.equal(found["image"], BatchAllRotations(4)(toned, generator())["image"])


def test_three_rotations_are_refused_at_once() -> None:
    for kind in (BatchAllRotations, BatchRandRotation, BatchRotationFilter):
        with pytest.raises(ConfigError, match="num_rotations=3"):
            kind(3)
    with pytest.raises(ConfigError, match="must not be negative"):
        BatchRandIntensity(-0.1)


def test_lists_are_run_in_their_place_and_none_is_left_out() -> None:
    def step(number: int) -> Any:
        return lambda batch, generator: {"image": batch["image"] * 10 + number}

    run = BatchCompose([None, [step(1), step(2)], step(3)])
    assert run({"image": torch.zeros(1)}, torch.Generator())["image"].item() == 123
