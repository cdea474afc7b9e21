"""The transforms: MONAI's manners, and the rows of the global draw under torchrun."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from robustmed_monai.engines.multi_optimizer import MultiOptimizerTrainer
from robustmed_monai.transforms.corruption.combine import chain
from robustmed_monai.transforms.corruption.core import Corruption, corrupt, identity
from robustmed_monai.transforms.corruption.filters import gaussian_blur
from robustmed_monai.transforms.corruption.geometry import geometry
from robustmed_monai.transforms.corruption.monai_transforms import (
    BatchCorruption,
    RandCorruption,
    RandCorruptiond,
)
from robustmed_monai.transforms.corruption.mr import mr_artifact
from robustmed_monai.transforms.corruption.noise import gaussian_noise
from robustmed_monai.transforms.corruption.unoranic import unoranic_chain
from robustmed_monai.utils.errors import ConfigError, ImageError, ImageShapeError
from robustmed_monai.utils.random import same_seed_on_all_ranks

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


def _batch(corruption: Corruption, images: Tensor) -> Tensor:
    return BatchCorruption(corruption)({"image": images}, torch.Generator().manual_seed(1))["image"]


@pytest.mark.parametrize("corruption", [NOISE, unoranic_chain(0.5)], ids=["noise", "chain"])
def test_processes_share_the_draw_of_the_global_batch(
    corruption: Corruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(6, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    whole = _batch(corruption, images)
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        assert torch.equal(_batch(corruption, images[rank::2]), whole[rank::2])
        # In validation every process holds all images.
        with same_seed_on_all_ranks():
            assert torch.equal(_batch(corruption, images), whole)


def test_a_trainer_takes_it_as_batch_transform() -> None:
    network, seen = torch.nn.Conv2d(1, 1, 1), []

    def objective(networks: Any, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        seen.append(batch["image"])
        return {"loss": networks["network"](batch["image"]).square().mean()}

    trainer = MultiOptimizerTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[{"image": IMAGE[None], "label": torch.zeros(1)}],
        networks={"network": network},
        optimizers={"all": torch.optim.SGD(network.parameters(), 0.1)},
        objectives={"all": objective},
        batch_transform=BatchCorruption(NOISE),
    )
    trainer.run()
    assert (seen[0] - 0.5).abs().max() > 0.05


def test_a_tensor_is_no_batch() -> None:
    with pytest.raises(ConfigError, match="found Tensor; give a batch, a dictionary with `image`"):
        BatchCorruption(NOISE)(IMAGE[None], torch.Generator())  # type: ignore[arg-type]


def test_memory_format_does_not_matter() -> None:
    images = torch.rand(4, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    chain = unoranic_chain(0.5)
    plain, last = _batch(chain, images), _batch(chain, images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prob", [0.0, 1.0])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((1, 8, 8), 128.0), "values from 128 to 128; give images in"),
        (torch.linspace(-1000, 1000, 64).view(1, 8, 8), "values from -1000"),
        (torch.linspace(-1, 1, 64).view(1, 8, 8), "values from -1 "),
        (torch.full((1, 8, 8), float("nan")), "hold NaN or infinite"),
        (torch.zeros(1, 8, 8, dtype=torch.int16), r"torch\.int16"),
        (np.zeros((1, 8, 8), np.int64), r"torch\.int64"),
    ],
    ids=["0 to 255", "Hounsfield", "-1 to 1", "nan", "int16", "int64"],
)
def test_other_ranges_are_refused_before_the_coin_falls(prob: float, image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        RandCorruption(NOISE, prob=prob)(image)
    with pytest.raises(ImageError, match=message):
        RandCorruptiond("image", NOISE, prob=prob)({"image": image})
    with pytest.raises(ImageError, match=message):
        _batch(chain([NOISE], prob), torch.as_tensor(image)[None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32_and_kept(dtype: torch.dtype) -> None:
    image = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    for corruption in (mr_artifact("gibbs", 3), unoranic_chain(0.5), geometry("rotation", 3)):
        found = _batch(corruption, image[None])
        assert found.dtype == dtype
        assert torch.equal(found, _batch(corruption, image[None].float()).to(dtype))
    assert torch.as_tensor(RandCorruption(NOISE, prob=0.0)(image)).dtype == dtype


def test_what_interpolation_leaves_beyond_the_range_is_clipped() -> None:
    image = torch.tensor([-5e-4, 0.5, 1 + 5e-4]).expand(1, 3, 3)
    assert torch.equal(torch.as_tensor(RandCorruption(NOISE, prob=0.0)(image)), image.clamp(0, 1))


def test_wrong_images_are_told() -> None:
    blur = gaussian_blur(3)
    with pytest.raises(ImageShapeError, match="gaussian_blur: images of shape"):
        RandCorruption(blur, prob=1.0)(torch.zeros(1, 8, 8, 8))
    images = torch.zeros(1, 1, 8, 8, dtype=torch.int64)
    with pytest.raises(ImageError, match=r"torch\.int64"):
        corrupt(images, blur, blur.sample(images.shape, torch.Generator()))


@pytest.mark.parametrize("image", [np.zeros((28, 28), np.float32), torch.zeros(28, 28)])
def test_an_error_names_the_shape_that_was_given(image: Any) -> None:
    transform = RandCorruptiond("image", gaussian_blur(3), prob=1.0)
    with pytest.raises(ImageShapeError, match=r"shape \(28, 28\); it takes \(C, spatial axes\) with 2"):
        transform({"image": image})
