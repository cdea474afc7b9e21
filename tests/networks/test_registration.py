"""The registration network: any size, identity at the start, inverse, frozen features, both backbones."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from robustmed_monai.inferers.registration import RegistrationInferer
from robustmed_monai.networks.mind import MINDSSC
from robustmed_monai.networks.registration import (
    BACKBONES,
    RegistrationNet,
    load_registration_net,
    registration_net,
)
from robustmed_monai.transforms.fields import compose, integrate, warp
from robustmed_monai.utils.errors import ConfigError, ImageShapeError, WeightsError
from robustmed_monai.utils.weights import save_weights


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.rand(2, *shape, generator=generator)
    return first, second


def bent(network: RegistrationNet) -> RegistrationNet:
    """The network with a last layer that moves by voxels, as after training."""
    last = [m for m in network.backbone.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)][-1]
    if network.backbone.__class__ is torch.nn.Sequential:
        last = [m for m in network.backbone[1].modules() if isinstance(m, torch.nn.Conv2d)][-1]
    torch.nn.init.normal_(last.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    return network


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("shape", [(2, 1, 33, 21), (1, 1, 9, 12, 10)])
def test_any_size_starts_at_the_identity_and_can_be_copied(backbone: str, shape: tuple[int, ...]) -> None:
    network = RegistrationNet(len(shape) - 2, backbone=backbone)
    found = network(*pair(*shape))
    for name in ("velocity", "ddf", "inverse_ddf"):
        assert found[name].shape == (shape[0], len(shape) - 2, *shape[2:])
        assert found[name].abs().max() < 1e-2
    found["ddf"].square().sum().backward()
    twin = copy.deepcopy(network)
    assert torch.equal(twin(*pair(*shape))["ddf"], found["ddf"])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_inverse_undoes_the_field(backbone: str) -> None:
    network = bent(RegistrationNet(2, backbone=backbone)).eval()
    with torch.no_grad():
        found = network(*pair(1, 1, 32, 40))
        # Smoothed as a trained network's are: noise has no inverse on this grid.
        velocity = torch.nn.functional.avg_pool2d(found["velocity"], 9, 1, 4)
        velocity = 2 * velocity / velocity.abs().max()
    forth, back = integrate(velocity, 7), integrate(-velocity, 7)
    assert forth.abs().max() > 0.5
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    assert compose(forth, back)[inside].abs().mean() < 0.05


def test_a_batch_is_as_many_single_pairs() -> None:
    network = bent(RegistrationNet(2)).eval()
    moving, fixed = pair(3, 1, 24, 17)
    with torch.no_grad():
        whole = network(moving, fixed)["ddf"]
        single = torch.cat([network(moving[i : i + 1], fixed[i : i + 1])["ddf"] for i in range(3)])
    torch.testing.assert_close(whole, single, atol=1e-5, rtol=1e-5)


def test_features_are_frozen_shared_and_can_be_given() -> None:
    settings = {"out_channels": 3, "channels": 4, "depth": 2}
    network = bent(registration_net(2, settings)).train()
    assert not any(p.requires_grad for p in network.features.parameters())  # type: ignore[union-attr]
    assert not network.features.training  # type: ignore[union-attr]
    moving, fixed = pair(1, 1, 24, 24)
    found = network(moving, fixed)
    assert found["moving_features"].shape == (1, 3, 24, 24)
    seen = network.represent(moving), network.represent(fixed)
    given = network(*seen, represented=True, inverse=False)
    assert torch.equal(given["ddf"], found["ddf"])
    assert "inverse_ddf" not in given
    by_inferer = RegistrationInferer(represented=True)(torch.cat(seen, 1), network)
    assert torch.equal(by_inferer["moved"], warp(seen[0], given["ddf"]))


def test_weights_say_how_the_network_is_built(tmp_path: Path) -> None:
    info = {"features": "mind", "backbone": "voxelmorph", "channels": [4, 4], "seed": 3}
    network = registration_net(2, "mind", "voxelmorph", [4, 4])
    assert isinstance(network.features, MINDSSC)
    save_weights(network.state_dict(), tmp_path / "model.pt", info)
    loaded = load_registration_net(tmp_path / "model.pt")
    assert torch.equal(loaded(*pair(1, 1, 16, 16))["ddf"], network(*pair(1, 1, 16, 16))["ddf"])
    save_weights(network.state_dict(), tmp_path / "model.pt", {})
    with pytest.raises(WeightsError):
        load_registration_net(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "settings",
    [{"backbone": "unet"}, {"spatial_dims": 1}, {"channels": [16, 16, 16]}, {"features": "sift"}],
)
def test_settings_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        registration_net(**settings)  # type: ignore[arg-type]


def test_images_that_do_not_fit() -> None:
    with pytest.raises(ImageShapeError, match="common grid"):
        RegistrationNet(2)(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 24))
