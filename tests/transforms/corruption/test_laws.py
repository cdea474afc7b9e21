"""What holds for every corruption of every family, whatever it does to an image."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from robustmed_monai.transforms.corruption.acquisition import ACQUISITION, acquisition
from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.geometry import GEOMETRY, geometry
from robustmed_monai.transforms.corruption.imagenet_c import IMAGENET_C, imagenet_c, imagenet_c_published
from robustmed_monai.transforms.corruption.medmnist_c import MEDMNIST_C, medmnist_c
from robustmed_monai.transforms.corruption.monai_transforms import (
    BatchCorruption,
    RandCorruption,
    RandCorruptiond,
)
from robustmed_monai.transforms.corruption.mr import MR_ARTIFACTS, mr_artifact
from robustmed_monai.transforms.corruption.unoranic import (
    UNORANIC,
    unoranic_chain,
    unoranic_corruption,
    unoranic_detection,
)
from robustmed_monai.transforms.params import Params, draw, index_params
from tools.corruption_gallery import colour_image

Maker = Callable[[int], Corruption]

# One data set for each name: the others differ in parameters alone, which test_medmnist_c compares.
_DATASETS = {name: dataset for dataset, names in MEDMNIST_C.items() for name in names}
GRADED: dict[str, Maker] = {
    **{f"imagenet_c-{name}": partial(imagenet_c, name) for name in IMAGENET_C},
    "published-motion_blur": partial(imagenet_c_published, "motion_blur"),
    "published-impulse_noise": partial(imagenet_c_published, "impulse_noise"),
    **{f"{dataset}-{name}": partial(medmnist_c, dataset, name) for name, dataset in _DATASETS.items()},
    **{f"mr-{name}": partial(mr_artifact, name) for name in MR_ARTIFACTS},
    **{f"geometry-{name}": partial(geometry, name) for name in GEOMETRY},
    **{f"acquisition-{name}": partial(acquisition, name) for name in ACQUISITION if name != "thick_slices"},
}


def _by_function() -> dict[str, Corruption]:
    """One corruption for each function: entries of a table that share one differ in parameters alone."""
    found: dict[object, tuple[str, Corruption]] = {}
    entries = {name: make(4) for name, make in GRADED.items()}
    entries |= {f"unoranic-{name}": unoranic_corruption(name) for name in UNORANIC}
    for name, corruption in entries.items():
        functions = [getattr(part, "func", part) for part in (corruption.sample, corruption.apply)]
        found.setdefault(tuple(functions), (name, corruption))
    chains = {"unoranic_chain": unoranic_chain(0.5), "unoranic_detection": unoranic_detection()}
    return {**dict(found.values()), **chains}


ALL = _by_function()
SOLID = {name: corruption for name, corruption in ALL.items() if 3 in corruption.spatial_dims}

# Published constants that do not rise: each step of the weather trades one thing for another, and the last
# two black corners stand the wrong way round. A rotation by more brings other cells where the first were.
NOT_MONOTONE = {
    "imagenet_c-snow",
    "imagenet_c-frost",
    "imagenet_c-fog",
    "dermamnist-black_corner",
    "geometry-rotation",
}

every = pytest.mark.parametrize("corruption", ALL.values(), ids=ALL)
graded = pytest.mark.parametrize(
    "make",
    [make for name, make in GRADED.items() if name in ALL],
    ids=[name for name in GRADED if name in ALL],
)


def _images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(7))


def _seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _sample(corruption: Corruption, shape: Sequence[int], seed: int = 3) -> Params:
    return corruption.sample(shape, *_seeded(seed))


def _corrupted(corruption: Corruption, images: Tensor, seed: int = 3) -> Tensor:
    return corrupt(images, corruption, _sample(corruption, images.shape, seed))


@every
def test_array_dictionary_and_batch_give_the_same(corruption: Corruption) -> None:
    image = _images(3, 28, 28)
    array = RandCorruption(corruption, prob=1.0)
    array.set_random_state(seed=5)
    found = array(image)
    batched = BatchCorruption(corruption)({"image": image[None]}, *_seeded(array.seed))["image"][0]
    dictionary = RandCorruptiond("image", corruption, prob=1.0)
    dictionary.transform.set_random_state(seed=5)  # the seed of the array transform inside
    assert torch.equal(torch.as_tensor(found), batched)
    assert torch.equal(torch.as_tensor(dictionary({"image": image})["image"]), batched)


@every
def test_a_batch_is_its_singles(corruption: Corruption) -> None:
    for channels in (1, 3):
        images, seeds = _images(5, channels, 28, 28), range(5)
        params = draw(corruption.sample, images.shape[1:], _seeded(*seeds))
        batch = corrupt(images, corruption, params)
        singles = [_corrupted(corruption, images[i : i + 1], i) for i in seeds]
        assert torch.equal(batch, torch.cat(singles))
        for rows in (torch.tensor([1, 3, 4]), torch.zeros(0, dtype=torch.long)):
            part = corrupt(images[rows], corruption, index_params(params, rows))
            assert torch.equal(part, batch[rows])
    nothing = _sample(corruption, (0, 1, 28, 28))
    assert nothing.keys() == params.keys()
    assert all(len(value) == 0 for value in nothing.values() if isinstance(value, Tensor))


@every
def test_same_seed_same_bits_whatever_the_process_and_the_type(corruption: Corruption) -> None:
    levels = (_images(4, 3, 28, 28) * 255).to(torch.uint8)
    images = levels / 255
    before = images.clone()
    copy = pickle.loads(pickle.dumps(corruption))
    first = _corrupted(corruption, images)
    assert copy.name == corruption.name
    assert torch.equal(_corrupted(copy, images), first)
    assert torch.equal(_corrupted(corruption, levels), first)
    assert torch.equal(images, before)
    assert first.data_ptr() != images.data_ptr()
    double = _corrupted(corruption, images.double())
    assert double.dtype == torch.float64
    # Thresholds may fall on the other side for a pixel or two.
    assert (double - first).abs().median() < 1e-5


@every
def test_finite_in_range_and_of_the_same_shape(corruption: Corruption) -> None:
    for shape in ((1, 28, 28), (2, 33, 28), (3, 28, 28), (3, 96, 112)):
        # What divides by a spread, a maximum or a mean has to survive flat images.
        images = torch.stack([torch.zeros(shape), torch.ones(shape), _images(*shape)])
        found = _corrupted(corruption, images)
        assert (found.shape, found.dtype) == (images.shape, torch.float32)
        assert found.isfinite().all()
        assert found.min() >= 0
        assert found.max() <= 1


@graded
def test_severity_is_monotone_and_scales_one_draw(make: Maker, request: pytest.FixtureRequest) -> None:
    image = colour_image(112)[None]
    distortions, states = [], []
    for severity in range(1, 6):
        (generator,) = _seeded(11)
        corruption = make(severity)
        found = corrupt(image, corruption, corruption.sample(image.shape, generator))
        distortions.append(float((found - image).abs().mean()))
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states), "severities draw different numbers"
    assert distortions[0] > 0
    if request.node.callspec.id not in NOT_MONOTONE:
        assert distortions == sorted(distortions)
    assert torch.equal(_corrupted(make(0), image), image)


@pytest.mark.parametrize("corruption", SOLID.values(), ids=SOLID)
def test_volumes(corruption: Corruption) -> None:
    volumes = torch.stack([torch.zeros(1, 18, 16, 12), torch.ones(1, 18, 16, 12), _images(1, 18, 16, 12)])
    params = draw(corruption.sample, volumes.shape[1:], _seeded(0, 1, 2))
    found = corrupt(volumes, corruption, params)
    assert found.shape == volumes.shape
    assert found.isfinite().all()
    assert torch.equal(found[1:2], corrupt(volumes[1:2], corruption, index_params(params, torch.tensor([1]))))
