"""The twelve training corruptions: their order, their chances, and what the chain does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustmed_monai.transforms.corruption.core import corrupt
from robustmed_monai.transforms.corruption.unoranic import (
    UNORANIC,
    unoranic_chain,
    unoranic_corruption,
    unoranic_detection,
)
from robustmed_monai.utils.errors import ConfigError

SHAPE = (4000, 1, 6, 6)


def test_the_chain_is_its_links_one_after_the_other() -> None:
    images = torch.rand(64, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    chain = unoranic_chain(0.25)
    params = chain.sample(images.shape, torch.Generator().manual_seed(1))
    expected = images.clone()
    for k, name in enumerate(UNORANIC):
        rows = np.flatnonzero(params["gates"][:, k].numpy())
        for place, row in enumerate(rows):
            own = {key: value[place : place + 1] for key, value in params[str(k)].items()}
            expected[row] = corrupt(expected[row : row + 1], unoranic_corruption(name), own)[0]
    torch.testing.assert_close(corrupt(images, chain, params), expected, atol=1e-6, rtol=0)


def test_an_image_meets_three_corruptions_on_average_and_few_meet_none() -> None:
    gates = unoranic_chain(0.25).sample(SHAPE, torch.Generator().manual_seed(0))["gates"]
    assert gates.float().mean(0).numpy() == pytest.approx(np.full(12, 0.25), abs=0.03)
    assert (~gates.any(1)).float().mean().item() == pytest.approx(0.75**12, abs=0.01)


def test_a_share_can_be_left_clean() -> None:
    gates = unoranic_chain(0.25, clean=0.3).sample(SHAPE, torch.Generator().manual_seed(0))["gates"]
    assert (~gates.any(1)).float().mean().item() == pytest.approx(0.3 + 0.7 * 0.75**12, abs=0.025)
    assert gates[gates.any(1)].float().mean().item() == pytest.approx(0.25 / (1 - 0.75**12), abs=0.01)
    with pytest.raises(ConfigError):
        unoranic_chain(0.25, clean=1.5)


def test_detection_corrupts_half_of_the_images_by_exactly_one() -> None:
    gates = unoranic_detection().sample(SHAPE, torch.Generator().manual_seed(0))["gates"]
    assert set(gates.sum(1).tolist()) == {0, 1}
    assert gates.any(1).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert gates.float().mean(0).numpy() == pytest.approx(np.full(12, 1 / 24), abs=0.012)


def test_noise_is_that_of_release_1_3_and_not_sixteen_times_stronger() -> None:
    noise = UNORANIC["gaussian_noise"].sample((2000, 1, 16, 16), torch.Generator().manual_seed(0))["noise"]
    assert (noise * 255).var().item() == pytest.approx(30, rel=0.03)


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'sharpen'"):
        unoranic_corruption("sharpn")
