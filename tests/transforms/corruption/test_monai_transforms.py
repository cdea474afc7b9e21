"""The doors: MONAI's manners, and the rows of the global draw under torchrun."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from robustmed_monai.transforms.corruption.core import corrupt, identity
from robustmed_monai.transforms.corruption.filters import gaussian_blur
from robustmed_monai.transforms.corruption.monai_transforms import (
    BatchCorruption,
    RandCorruption,
    RandCorruptiond,
)
from robustmed_monai.transforms.corruption.noise import gaussian_noise
from robustmed_monai.transforms.corruption.unoranic import unoranic_chain
from robustmed_monai.utils.errors import ImageError, ImageShapeError

NOISE = gaussian_noise(0.1)
IMAGE = torch.full((1, 8, 8), 0.5)


def _seeded(prob: float) -> RandCorruption:
    transform = RandCorruption(NOISE, prob=prob)
    transform.set_random_state(seed=0)
    return transform


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_share_of_corrupted_images_is_prob(prob: float) -> None:
    transform = _seeded(prob)
    count = sum(not torch.equal(torch.as_tensor(transform(IMAGE)), IMAGE) for _ in range(500))
    # Four standard deviations of a share of 500.
    assert count / 500 == pytest.approx(prob, abs=4 * (prob * (1 - prob) / 500) ** 0.5)


def test_seeds_decide_through_compose_too() -> None:
    def run(seed: int) -> torch.Tensor:
        both = Compose([RandCorruption(NOISE, prob=0.5), RandCorruption(NOISE, prob=0.5)])
        both.set_random_state(seed=seed)
        return torch.stack([torch.as_tensor(both(IMAGE)) for _ in range(6)])

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_dictionary_transform_follows_its_own_seed() -> None:
    def run(seed: int) -> torch.Tensor:
        transform = RandCorruptiond("image", NOISE, prob=0.5).set_random_state(seed=seed)
        return torch.stack([torch.as_tensor(transform({"image": IMAGE})["image"]) for _ in range(6)])

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_all_keys_get_one_draw_and_the_rest_stays() -> None:
    data: dict[Any, Any] = {"image": IMAGE, "copy": IMAGE.clone(), "label": 3}
    found = RandCorruptiond(["image", "copy"], NOISE, prob=1.0)(data)
    assert torch.equal(torch.as_tensor(found["image"]), torch.as_tensor(found["copy"]))
    assert not torch.equal(torch.as_tensor(found["image"]), IMAGE)
    assert found["label"] == 3
    assert torch.equal(data["image"], torch.full((1, 8, 8), 0.5))


def test_missing_keys_are_refused_or_allowed() -> None:
    with pytest.raises(KeyError):
        RandCorruptiond(["image", "other"], NOISE, prob=1.0)({"image": IMAGE})
    found = RandCorruptiond(["image", "other"], NOISE, prob=1.0, allow_missing_keys=True)({"image": IMAGE})
    assert set(found) == {"image"}


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_kind_of_array_is_kept_and_bytes_become_float(prob: float) -> None:
    transform = RandCorruption(identity(), prob=prob)
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    meta = transform(MetaTensor(IMAGE, affine=affine))
    assert isinstance(meta, MetaTensor)
    assert torch.equal(meta.affine, affine)
    array = transform(np.full((1, 8, 8), 51, np.uint8))
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, 0.2)


def test_last_draw_can_be_repeated() -> None:
    transform = _seeded(1.0)
    first = torch.as_tensor(transform(IMAGE))
    assert torch.equal(torch.as_tensor(transform(IMAGE, randomize=False)), first)
    assert not torch.equal(torch.as_tensor(transform(IMAGE)), first)


@pytest.mark.parametrize("corruption", [NOISE, unoranic_chain(0.5)], ids=["noise", "chain"])
def test_processes_share_the_draw_of_the_global_batch(
    corruption: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = BatchCorruption(corruption)  # type: ignore[arg-type]
    images = torch.rand(6, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    whole = batch(images, torch.Generator().manual_seed(1))
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        part = batch(images[rank::2], torch.Generator().manual_seed(1))
        assert torch.equal(part, whole[rank::2])


def test_memory_format_does_not_matter() -> None:
    images = torch.rand(4, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    batch = BatchCorruption(unoranic_chain(0.5))
    plain = batch(images, torch.Generator().manual_seed(1))
    last = batch(images.to(memory_format=torch.channels_last), torch.Generator().manual_seed(1))
    torch.testing.assert_close(last, plain, rtol=0, atol=1e-6)


def test_wrong_images_are_told() -> None:
    blur = gaussian_blur(3)
    with pytest.raises(ImageShapeError, match="gaussian_blur: images of shape"):
        RandCorruption(blur, prob=1.0)(torch.zeros(1, 8, 8, 8))
    images = torch.zeros(1, 1, 8, 8, dtype=torch.int64)
    with pytest.raises(ImageError, match=r"torch\.int64"):
        corrupt(images, blur, blur.sample(images.shape, torch.Generator()))
