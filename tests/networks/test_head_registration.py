"""Registration of whole heads without training: identity, a known warp, its inverse, contrast, bad input."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.networks.gauss_newton import gauss_newton_step
from robustmed_monai.networks.head_registration import HeadRegistration, beyond_chance
from robustmed_monai.transforms import AlignToTemplate
from robustmed_monai.transforms.alignment import resample_to
from robustmed_monai.transforms.fields import compose, folding, integrate, warp
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

FRAME: dict[str, Any] = {"size": 56, "spacing": 4.0, "heights": (-72.0, 88.0)}


@cache
def head(subject: int = 0) -> Tensor:
    """A virtual subject in the frame at 4 mm, (1, 1, X, Y, S) in [0, 1]."""
    frame, image = AlignToTemplate(**FRAME), virtual_subject(0, subject).image
    carried = resample_to(image[None], AFFINE, frame.shape, frame.affine.numpy())
    return torch.from_numpy(carried).float()[None].clamp(0, 1)


@cache
def registration(tissue_weight: float = 0.0) -> HeadRegistration:
    return HeadRegistration(**FRAME, grids=(8.0, 4.0), rounds=8, tissue_weight=tissue_weight).eval()


def smooth_field(seed: int, voxels: float) -> Tensor:
    """A smooth velocity of the given largest length, integrated."""
    coarse = torch.randn(1, 3, 5, 5, 5, generator=torch.Generator().manual_seed(seed))
    velocity = torch.nn.functional.interpolate(coarse, size=head().shape[2:], mode="trilinear")
    return integrate(voxels * velocity / velocity.norm(dim=1).max(), 7)


def inverted(image: Tensor) -> Tensor:
    return torch.where(image > 0.08, 1.1 - image, image).clamp(0, 1)


def test_a_head_onto_itself_stays_where_it_is() -> None:
    found = registration()(head(), head())
    assert float(found["ddf"].abs().max()) < 0.01


@pytest.mark.parametrize("size", [0.01, 50.0])
def test_features_in_place_of_mind_may_have_any_size(size: float) -> None:
    class Sized(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return size * image

    network = HeadRegistration(**FRAME, tissue_weight=0, features=Sized()).eval()
    features = network.represent(head())
    assert float(features.std()) == pytest.approx(0.3)
    torch.testing.assert_close(features * head().std() / 0.3, head())
    assert not network.represent(torch.zeros_like(head())).any()
    both = network.represent(torch.cat([head(), 0.5 * head(1)]))
    torch.testing.assert_close(both[1:], network.represent(0.5 * head(1)), msg="a batch is its members")


@pytest.mark.parametrize("contrast", ["same", "inverted"])
def test_a_known_warp_is_found_in_any_contrast(contrast: str) -> None:
    true = smooth_field(1, 3.0)
    fixed = warp(head(), true)
    moving = inverted(head()) if contrast == "inverted" else head()
    found = registration()(moving, fixed)["ddf"]
    wanted = warp(moving, true)
    before, after = ((image - wanted).abs().mean() for image in (moving, warp(moving, found)))
    assert float(after) < 0.5 * float(before)
    # Within one tissue nothing tells how far it moved.
    inside = (fixed > 0.2).expand_as(true)
    before, after = (field[inside].square().mean().sqrt() for field in (true, true - found))
    assert float(after) < 0.65 * float(before)


def test_the_inverse_leads_back_and_nothing_folds() -> None:
    found = registration()(head(1), head(2))
    there_and_back = compose(found["ddf"], found["inverse_ddf"])
    inner = there_and_back[:, :, 4:-4, 4:-4, 4:-4]
    assert float(inner.norm(dim=1).mean()) < 0.05
    assert float(folding(found["ddf"]).max()) == 0
    assert float(found["ddf"].norm(dim=1).mean()) > 0.2


def test_tissues_are_a_part_of_what_is_compared() -> None:
    channels = registration(0.5).represent(head())
    plain = registration().represent(head())
    assert plain.shape[1] == 12
    assert channels.shape[1] == 16
    torch.testing.assert_close(channels[:, :12], plain)
    assert float(channels[:, 12:].max()) <= 0.5


def test_same_bits_and_a_batch_is_its_members() -> None:
    moving, fixed = torch.cat([head(1), head(2)]), torch.cat([head(2), head(0)])
    both, again = (registration()(moving, fixed)["ddf"] for _ in range(2))
    assert torch.equal(both, again)
    for k in range(2):
        alone = registration()(moving[k : k + 1], fixed[k : k + 1])["ddf"]
        torch.testing.assert_close(both[k : k + 1], alone, atol=1e-3, rtol=1e-3)


def test_noise_alone_moves_little() -> None:
    """Two images of one head in noise of their own; what moved far is believed as before."""
    noise = torch.Generator().manual_seed(3)
    images = [(head() + 0.04 * torch.randn(head().shape, generator=noise)).clamp(0, 1) for _ in range(2)]
    kept = []
    for fixed in (images[1], warp(images[1], smooth_field(1, 3.0))):
        channels = (registration().represent(image) for image in (images[0], fixed))
        velocity = registration().velocity(*channels)
        believed = registration().believed(velocity)
        before, after = (v.norm(dim=1)[head()[0] > 0.2].mean() for v in (velocity, believed))
        kept.append(float(after / before))
    assert kept[0] < 0.6
    assert kept[1] > 0.75


def test_shrinkage_takes_the_share_that_chance_has() -> None:
    velocity = smooth_field(4, 5.0)
    assert torch.equal(beyond_chance(velocity, 0.0, 2.0), velocity)
    for chance in (0.3, 1.0, 30.0):
        shrunk = beyond_chance(velocity, chance, 2.0)
        kept = (shrunk * velocity).sum(1) / velocity.square().sum(1)
        assert 0 <= float(kept.min()) <= float(kept.max()) < 1
        torch.testing.assert_close(shrunk, kept[:, None] * velocity)
    assert not shrunk.any()


def test_a_step_leads_downhill_and_is_no_longer_than_a_voxel() -> None:
    fixed = warp(head(), smooth_field(2, 2.0))
    nothing = torch.zeros(1, 3, *fixed.shape[2:])
    step = gauss_newton_step(head(), fixed, nothing, damping=1e-3)
    assert float(step.norm(dim=1).max()) <= 1 + 1e-5
    before, after = ((warp(head(), d) - fixed).square().mean() for d in (nothing, step))
    assert after < before


def test_bad_settings_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="rounds=0"):
        HeadRegistration(**FRAME, rounds=0)
    with pytest.raises(ConfigError, match="chance=-1"):
        HeadRegistration(**FRAME, chance=-1.0)
    with pytest.raises(ImageShapeError, match="two batches of the same"):
        registration()(head(), head()[..., :-1])
