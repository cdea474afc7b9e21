from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from robustmed_monai.transforms.slice_selection import (
    OODSlicesd,
    SelectSlicesd,
    in_distribution,
    ood_reasons,
    slice_statistics,
    training_statistics,
)
from robustmed_monai.utils.errors import ConfigError

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
    figures = {k: float(v) for k, v in slice_statistics(image).items()}
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
    assert all(float(v) == 0 for v in slice_statistics(torch.zeros(1, 1, 8, 8)).values())


def test_figures_of_a_batch_are_those_of_its_images(training: Tensor) -> None:
    together = slice_statistics(training)
    for name in NAMES:
        torch.testing.assert_close(together[name][3:4], slice_statistics(training[3:4])[name])


def test_statistics_goes_through_json(training: Tensor) -> None:
    statistics = training_statistics(training)
    again = json.loads(json.dumps(statistics))
    assert tuple(again) == NAMES
    values = slice_statistics(training)["brightness"].double().numpy()
    assert again["brightness"]["mean"] == pytest.approx(values.mean(), rel=1e-5)
    assert again["brightness"]["std"] == pytest.approx(values.std(), rel=1e-4)


def test_training_images_are_in_distribution(training: Tensor) -> None:
    statistics = training_statistics(training)
    assert all(ood_reasons(training[i : i + 1], statistics) == [] for i in range(len(training)))
    assert ood_reasons(training, statistics) == []


@pytest.mark.parametrize(
    ("image", "outside"),
    [
        (_head(brightness=0.9), "brightness"),
        (_head(noise=0.4), "contrast"),
        (_head(width=27, height=20), "head_width"),
        (_head(width=16, height=6), "head_height"),
        (1 - _head(), "head_area"),
    ],
    ids=(*NAMES[:2], "head_width", "head_height", "head_area"),
)
def test_what_is_outside_is_named_with_both_figures(training: Tensor, image: Tensor, outside: str) -> None:
    sentences = ood_reasons(image, training_statistics(training))
    named = [s for s in sentences if s.startswith(f"{outside} is ")]
    assert len(named) == 1
    found = float(slice_statistics(image)[outside])
    assert named[0].startswith(f"{outside} is {found:.2f}; the training images have ")


def test_a_small_deviation_counts_only_beyond_the_spread() -> None:
    statistics = {name: {"mean": 0.5, "std": 0.0} for name in NAMES}
    close, far = (
        {**training_statistics(_head()), "brightness": {"mean": m, "std": 0.0}} for m in (0.52, 0.6)
    )
    assert not [s for s in ood_reasons(_head(), close) if s.startswith("brightness")]
    assert [s for s in ood_reasons(_head(), far) if s.startswith("brightness")]
    assert ood_reasons(_head() * 0, statistics)


def test_ends_of_a_volume_do_not_count(training: Tensor) -> None:
    statistics = training_statistics(training)
    volume = torch.cat([torch.zeros(3, 1, 32, 32), training[:9], torch.zeros(3, 1, 32, 32)])
    assert ood_reasons(volume, statistics) == []
    assert ood_reasons(torch.cat([torch.zeros(20, 1, 32, 32), training[:9]]), statistics)


def _stack(slices: Tensor) -> Tensor:
    return slices.movedim(0, -1)


def test_slices_out_of_distribution_are_left_out_as_long_as_others_are_in(training: Tensor) -> None:
    find = OODSlicesd("image", training_statistics(training))
    odd = 1 - training[:1]
    stack = torch.cat([training[3:5], torch.zeros_like(odd), odd, training[5:6]])
    found = find({"image": _stack(stack)})
    assert {i: bool(why) for i, why in found["ood_reasons"].items()} == {
        0: False,
        1: False,
        3: True,
        4: False,
    }
    assert in_distribution(found["ood_reasons"]) == [0, 1, 4]
    assert found["in_distribution"].amax((0, 1, 2)).tolist() == [1, 1, 0, 0, 1]
    assert found["warnings"][0] == "assessed 3 of 4 slices; the others lie outside of the training data"
    alone = find({"image": _stack(odd), "warnings": ["earlier"]})
    assert in_distribution(alone["ood_reasons"]) == []
    lenient = OODSlicesd("image", training_statistics(training), refuse=False)({"image": _stack(odd)})
    assert lenient["in_distribution"].all()
    assert lenient["warnings"][0] == "1 of 1 slices lie outside of the training data"
    assert alone["warnings"][0] == "earlier"
    assert find({"image": _stack(odd * 0)})["ood_reasons"] == {}


def test_without_statistics_all_slices_count_and_a_warning_says_so(training: Tensor) -> None:
    found = OODSlicesd("image", None)({"image": _stack(training[:3])})
    assert found["ood_reasons"] == {0: [], 1: [], 2: []}
    assert "no training statistics" in found["warnings"][0]


def test_a_range_counts_the_filled_slices_alone() -> None:
    image = torch.zeros(1, 4, 4, 12)
    image[..., 2:] = torch.arange(11.0, 21)
    mask = (image > 15).float()
    kept = SelectSlicesd(["image", "mask"], (0.0, 0.5), allow_missing_keys=True)
    data = kept({"image": image, "mask": mask})
    assert data["image"][0, 0, 0].tolist() == [11, 12, 13, 14, 15]
    assert data["mask"].shape == data["image"].shape
    assert kept({"image": image[..., :1]})["image"].shape[-1] == 1
    with pytest.raises(ConfigError, match="must rise inside"):
        SelectSlicesd("image", (0.5, 0.5))
