"""What sets an image apart from the training images: figures and the appearance."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustmed_monai.transforms.ood_statistics import (
    image_appearance,
    image_figures,
    ood_reasons,
    training_statistics,
)

NAMES = ("brightness", "contrast", "foreground", "foreground_width", "foreground_height")


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
    expected = (0.6, 0.1, 16 * 20 / 32**2, 16 / 32, 20 / 32)
    assert figures == pytest.approx(dict(zip(NAMES, expected, strict=True)))


def test_colour_is_a_figure_of_colour_images() -> None:
    image = torch.tensor([0.6, 0.5, 0.2])[None, :, None, None].expand(1, 3, 8, 8)
    assert float(image_figures(image)["colour"]) == pytest.approx(0.5)
    assert float(image_figures(image * 0)["colour"]) == 0


def test_an_empty_image_has_figures_of_nothing() -> None:
    assert all(float(v) == 0 for v in image_figures(torch.zeros(1, 1, 8, 8)).values())


def test_what_is_measured_of_a_batch_is_that_of_its_images(training: Tensor) -> None:
    together, alone = image_figures(training), image_figures(training[3:4])
    for name in NAMES:
        torch.testing.assert_close(together[name][3:4], alone[name])
    torch.testing.assert_close(image_appearance(training)[3:4], image_appearance(training[3:4]))


def test_texture_tells_noise_from_blur(training: Tensor) -> None:
    noise = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = F.avg_pool2d(noise, 7, 1, 3, count_include_pad=False)
    rough, smooth = (image_appearance(image)[0, -2:] for image in (noise, blurred))
    assert (rough > smooth + 0.1).all()


def test_layout_does_not_see_brightness_and_contrast() -> None:
    image = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    image[..., :20, :] += 3
    layouts = [image_appearance(v)[0, :25] for v in (image / 4, image / 5 + 0.1)]
    torch.testing.assert_close(layouts[0], layouts[1], atol=0.05, rtol=0)


def test_statistics_go_through_json(training: Tensor) -> None:
    statistics = training_statistics(training)
    again = json.loads(json.dumps(statistics))
    assert again == statistics
    assert tuple(again) == (*NAMES, "appearance")
    values = image_figures(training)["brightness"]
    assert again["brightness"]["low"] < values.min() < values.max() < again["brightness"]["high"]
    assert [len(row) for row in again["appearance"]["correlation"]] == list(range(1, 34))


def test_training_images_are_in_distribution(training: Tensor) -> None:
    statistics = training_statistics(training)
    assert all(ood_reasons(training[i : i + 1], statistics) == [] for i in range(len(training)))
    assert ood_reasons(training, statistics) == []


@pytest.mark.parametrize(
    ("image", "outside"),
    [
        (_head(brightness=0.9), "brightness"),
        (_head(noise=0.4), "contrast"),
        (1 - _head(), "foreground"),
        (_head(width=27, height=20), "foreground_width"),
        (_head(width=16, height=6), "foreground_height"),
    ],
    ids=NAMES,
)
def test_what_is_outside_is_named_with_both_figures(training: Tensor, image: Tensor, outside: str) -> None:
    sentences = ood_reasons(image, training_statistics(training))
    named = [s for s in sentences if s.startswith(f"{outside} is ")]
    assert len(named) == 1
    found = float(image_figures(image)[outside])
    assert named[0].startswith(f"{outside} is {found:.2f}; the training images have ")


def test_another_appearance_is_found_where_all_figures_are_right() -> None:
    noise = 0.4 + 0.2 * torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    statistics = training_statistics(noise)
    sorted_values = noise[:1].flatten().sort().values.reshape(1, 1, 32, 32)
    (sentence,) = ood_reasons(sorted_values, statistics)
    assert sentence.startswith("layout and texture are ")
    assert ood_reasons(sorted_values, statistics, tolerance=100) == []


def test_images_that_are_all_alike_leave_some_slack() -> None:
    statistics = training_statistics(_head().expand(8, -1, -1, -1))
    assert ood_reasons(_head(), statistics) == []
    assert ood_reasons(_head(brightness=0.52), statistics) == []
    assert [s for s in ood_reasons(_head(brightness=0.6), statistics) if s.startswith("brightness")]
    assert ood_reasons(_head() * 0, statistics)


def test_ends_of_a_volume_do_not_count(training: Tensor) -> None:
    statistics = training_statistics(training)
    volume = torch.cat([torch.zeros(3, 1, 32, 32), training[:9], torch.zeros(3, 1, 32, 32)])
    assert ood_reasons(volume, statistics) == []
    assert ood_reasons(torch.cat([torch.zeros(20, 1, 32, 32), training[:9]]), statistics)


def test_images_on_another_device_stay_there() -> None:
    """A GPU takes no tensor of the CPU beside its own; the meta device refuses it as well."""
    assert image_appearance(torch.rand(2, 1, 8, 8, device="meta")).device.type == "meta"
