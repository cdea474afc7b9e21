"""Chains with coins, and one of several."""

from __future__ import annotations

import pytest
import torch

from robustmed_monai.transforms.corruption.combine import chain, one_of
from robustmed_monai.transforms.corruption.core import Corruption, corrupt, identity
from robustmed_monai.transforms.corruption.filters import gaussian_blur
from robustmed_monai.transforms.corruption.noise import gaussian_noise
from robustmed_monai.transforms.corruption.orientation import orientation
from robustmed_monai.transforms.corruption.tone import brightness, invert
from robustmed_monai.transforms.params import index_params
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

IMAGES = torch.rand(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def _run(corruption: Corruption, seed: int = 1) -> torch.Tensor:
    return corrupt(IMAGES, corruption, corruption.sample(IMAGES.shape, torch.Generator().manual_seed(seed)))


def test_a_chain_with_certain_links_is_one_after_the_other_clipped_between() -> None:
    found = _run(chain([brightness(2.0), invert()]))
    torch.testing.assert_close(found, 1 - (IMAGES * 2).clamp(0, 1), rtol=0, atol=0)


@pytest.mark.parametrize("combine", [chain, one_of])
def test_prob_0_is_identity(combine: type) -> None:
    assert torch.equal(_run(combine([invert(), brightness(0.5)], prob=0.0)), IMAGES)


def test_each_link_has_its_own_coin() -> None:
    links = chain([identity(), identity(), identity()], prob=0.25)
    gates = links.sample((4000, 1, 2, 2), torch.Generator().manual_seed(0))["gates"].float()
    # Four standard deviations of a share of 4000; independent coins do not correlate.
    assert gates.mean(0).tolist() == pytest.approx([0.25] * 3, abs=0.028)
    assert gates.T.corrcoef().fill_diagonal_(0).abs().max() < 0.065


def test_one_of_chooses_evenly_and_at_most_one() -> None:
    choice = one_of([identity() for _ in range(4)], prob=0.5)
    gates = choice.sample((4000, 1, 2, 2), torch.Generator().manual_seed(0))["gates"]
    assert gates.sum(1).max() == 1
    assert gates.float().mean(0).tolist() == pytest.approx([0.125] * 4, abs=0.021)


def test_images_that_a_link_passes_by_stay_and_get_no_parameters() -> None:
    noise = chain([gaussian_noise(0.2), gaussian_blur(3)], prob=0.5)
    params = noise.sample(IMAGES.shape, torch.Generator().manual_seed(3))
    untouched = ~params["gates"].any(1)
    assert untouched.any()
    assert not untouched.all()
    assert torch.equal(corrupt(IMAGES, noise, params)[untouched], IMAGES[untouched])
    assert len(params["0"]["noise"]) == params["gates"][:, 0].sum()


def test_chains_nest() -> None:
    inner = chain([gaussian_noise(0.2), brightness(0.5)], prob=0.5, name="inner")
    outer = one_of([inner, invert()], prob=0.9)
    params = outer.sample(IMAGES.shape, torch.Generator().manual_seed(2))
    rows = torch.tensor([5, 0, 3])
    part = corrupt(IMAGES[rows], outer, index_params(params, rows))
    assert torch.equal(part, corrupt(IMAGES, outer, params)[rows])


def test_dimensions_are_those_that_all_parts_can_do() -> None:
    assert chain([identity(), gaussian_noise(0.1)]).spatial_dims == (2, 3)
    assert chain([identity(), gaussian_blur(3)]).spatial_dims == (2,)


@pytest.mark.parametrize("prob", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(prob: float) -> None:
    with pytest.raises(ConfigError, match="prob="):
        chain([invert()], prob=prob)


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 corruptions"):
        one_of([])


def test_a_quarter_turn_of_some_images_needs_squares() -> None:
    turned = one_of([orientation("turn_90"), invert()])
    assert _run(turned).shape == IMAGES.shape
    slim = IMAGES[..., :8]
    with pytest.raises(ImageShapeError, match="crop or pad to X = Y"):
        corrupt(slim, turned, turned.sample(slim.shape, torch.Generator().manual_seed(1)))
