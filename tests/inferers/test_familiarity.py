from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from robustmed_monai.inferers.familiarity import (
    image_figures,
    image_reference,
    in_distribution_slices,
    ood_slices,
    ood_warnings,
    unfamiliar,
)

NAMES = ("brightness", "contrast", "head_area", "head_width", "head_height")


def _head(
    brightness: float = 0.5, width: int = 16, height: int = 20, noise: float = 0.05, seed: int = 0
) -> Tensor:
    """One image of 32 x 32 with a rectangle of `width` columns (x) and `height` rows (y)."""
    image = torch.zeros(1, 1, 32, 32)
    generator = torch.Generator().manual_seed(seed)
    values = brightness + noise * (2 * torch.rand(width, height, generator=generator) - 1)
    image[0, 0, 4 : 4 + width, 6 : 6 + height] = values
    return image


@pytest.fixture(scope="module")
def training() -> Tensor:
    spread = torch.linspace(-1, 1, 20).tolist()
    heads = [
        _head(0.5 + 0.03 * s, round(16 + 2 * s), round(20 + 2 * s), seed=i) for i, s in enumerate(spread)
    ]
    return torch.cat(heads)


def test_figures_are_what_they_say() -> None:
    image = _head(noise=0.0)
    image[0, 0, 4:12, 6:26] = 0.7
    figures = {k: float(v) for k, v in image_figures(image).items()}
    assert figures == pytest.approx(
        {
            "brightness": 0.6,
            "contrast": 0.1,
            "head_area": 16 * 20 / 32**2,
            "head_width": 16 / 32,
            "head_height": 20 / 32,
        }
    )


def test_an_empty_image_has_figures_of_nothing() -> None:
    assert all(float(v) == 0 for v in image_figures(torch.zeros(1, 1, 8, 8)).values())


def test_figures_of_a_batch_are_those_of_its_images(training: Tensor) -> None:
    together = image_figures(training)
    for name in NAMES:
        torch.testing.assert_close(together[name][3:4], image_figures(training[3:4])[name])


def test_reference_goes_through_json(training: Tensor) -> None:
    reference = image_reference(training)
    again = json.loads(json.dumps(reference))
    assert tuple(again) == NAMES
    values = image_figures(training)["brightness"].double().numpy()
    assert again["brightness"]["mean"] == pytest.approx(values.mean(), rel=1e-5)
    assert again["brightness"]["std"] == pytest.approx(values.std(), rel=1e-4)


def test_training_images_are_familiar(training: Tensor) -> None:
    reference = image_reference(training)
    assert all(unfamiliar(training[i : i + 1], reference) == [] for i in range(len(training)))
    assert unfamiliar(training, reference) == []


@pytest.mark.parametrize(
    ("image", "foreign"),
    [
        (_head(brightness=0.9), "brightness"),
        (_head(noise=0.4), "contrast"),
        (_head(width=27, height=20), "head_width"),
        (_head(width=16, height=6), "head_height"),
        (1 - _head(), "head_area"),
    ],
    ids=(*NAMES[:2], "head_width", "head_height", "head_area"),
)
def test_what_is_foreign_is_named_with_both_figures(training: Tensor, image: Tensor, foreign: str) -> None:
    sentences = unfamiliar(image, image_reference(training))
    named = [s for s in sentences if s.startswith(f"{foreign} is ")]
    assert len(named) == 1
    found = float(image_figures(image)[foreign])
    assert named[0].startswith(f"{foreign} is {found:.2f}; the training images have ")


def test_a_small_deviation_counts_only_beyond_the_spread() -> None:
    reference = {name: {"mean": 0.5, "std": 0.0} for name in NAMES}
    close, far = ({**image_reference(_head()), "brightness": {"mean": m, "std": 0.0}} for m in (0.52, 0.6))
    assert not [s for s in unfamiliar(_head(), close) if s.startswith("brightness")]
    assert [s for s in unfamiliar(_head(), far) if s.startswith("brightness")]
    assert unfamiliar(_head() * 0, reference)


def test_ends_of_a_volume_do_not_count(training: Tensor) -> None:
    reference = image_reference(training)
    volume = torch.cat([torch.zeros(3, 1, 32, 32), training[:9], torch.zeros(3, 1, 32, 32)])
    assert unfamiliar(volume, reference) == []
    assert unfamiliar(torch.cat([torch.zeros(20, 1, 32, 32), training[:9]]), reference)


def test_foreign_slices_are_left_out_as_long_as_others_are_known(training: Tensor) -> None:
    reference = image_reference(training)
    stack = torch.cat([training[3:5], torch.zeros_like(training[:1]), training[5:6]])
    strange = ood_slices(stack, torch.tensor([0, 2, 3]), reference)
    assert [bool(sentences) for sentences in strange.values()] == [False, True, False]
    assert in_distribution_slices(strange) == [0, 3]
    assert ood_warnings(stack, strange, reference)[0].startswith("1 of 3 slices lie far outside")
    alone = {2: strange[2]}
    assert in_distribution_slices(alone) == [2]
    assert ood_warnings(stack, {}, reference) == ["the image is empty: no voxel is above 0"]
    assert ood_slices(stack, torch.tensor([2]), None) == {2: []}
