"""Networks on features: what is frozen stays so, one file holds both, and weights say how they are built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustmed_monai.networks.cifl import CIFL
from robustmed_monai.networks.mind import MINDSSC
from robustmed_monai.networks.on_features import (
    OnFeatures,
    feature_network,
    feature_settings,
    load_features,
    segmentation_unet,
)
from robustmed_monai.utils.errors import ConfigError, WeightsError
from robustmed_monai.utils.weights import save_weights

SMALL: dict[str, Any] = {"out_channels": 5, "channels": 4, "depth": 2}


class Halves(nn.Module):
    """Features with a state of its own that training would change."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.inner(image)
        return made


def test_it_is_the_network_on_the_features() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 1, 12, 16)
    features, network = CIFL(channels=4, depth=2, out_channels=5), nn.Conv2d(5, 2, 1)
    whole = OnFeatures(network, features)
    assert torch.equal(whole(image), network(features(image)))
    alone = nn.Conv2d(1, 2, 1)
    assert torch.equal(OnFeatures(alone)(image), alone(image))


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_features_do_not_learn(freeze: bool) -> None:
    torch.manual_seed(0)
    whole = OnFeatures(nn.Conv2d(3, 2, 1), Halves(), freeze).train()
    assert whole.features is not None
    before = {k: v.clone() for k, v in whole.features.state_dict().items()}
    whole(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for p in whole.network.parameters())
    assert all((p.grad is None) == freeze for p in whole.features.parameters())
    same = all(torch.equal(v, before[k]) for k, v in whole.features.state_dict().items())
    assert same == freeze
    assert whole.network.training
    assert whole.features.training != freeze


def test_weights_say_how_their_features_are_built(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = CIFL(**SMALL, center=False)
    info = {**SMALL, "spatial_dims": 2, "center": False, "tau_g": 0.1, "seed": 3}
    save_weights(made.state_dict(), tmp_path / "model.pt", info)
    settings = feature_settings(tmp_path / "model.pt")
    assert settings == {**SMALL, "center": False}
    network = segmentation_unet(3, (4, 8), settings)
    image = torch.rand(1, 1, 16, 16)
    assert network.features is not None
    assert not torch.equal(network.features(image), made(image))
    assert load_features(network, tmp_path / "model.pt") is network
    assert torch.equal(network.features(image), made(image))
    assert network(image).shape == (1, 3, 16, 16)
    with pytest.raises(WeightsError, match="no such"):
        feature_settings(tmp_path / "none.pt")
    with pytest.raises(WeightsError, match="does not fit"):
        load_features(segmentation_unet(3, (4, 8), {**SMALL, "channels": 6}), tmp_path / "model.pt")


def test_mind_stands_where_cifl_does() -> None:
    image = torch.rand(2, 1, 16, 16)
    network = segmentation_unet(3, (4, 8), "mind").eval()
    assert torch.equal(network(image), network.network(MINDSSC(2)(image)))
    assert segmentation_unet(3, (4, 8), "mind", 3)(torch.rand(1, 1, 8, 8, 8)).shape == (1, 3, 8, 8, 8)
    with pytest.raises(ConfigError, match="'sift'"):
        feature_network("sift")


def test_without_features_it_takes_the_image() -> None:
    assert feature_settings(None) is None
    network = segmentation_unet(2, (4, 8, 16))
    assert load_features(network, None).features is None
    assert network(torch.rand(2, 1, 24, 16)).shape == (2, 2, 24, 16)
    solid = segmentation_unet(2, (4, 8), SMALL, spatial_dims=3)
    assert solid(torch.rand(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)
