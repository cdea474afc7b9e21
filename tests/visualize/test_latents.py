"""Samples and traversals of codes."""

from __future__ import annotations

import pytest
import torch

from robustmed_monai.networks.pchvae import HierarchicalVAE, low_vae, pchvae
from robustmed_monai.networks.vqvae2 import VQVAE2
from robustmed_monai.visualize.grids import image_grid
from robustmed_monai.visualize.latents import latent_pictures


@pytest.fixture
def network() -> HierarchicalVAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return pchvae(channels=(4, 6, 6, 8), high_channels=2)


def test_both_codes_are_shown(network: HierarchicalVAE) -> None:
    image = torch.zeros(1, 1, 32, 32)
    found = latent_pictures(network, image, count=3)
    assert list(found["samples"]) == ["sample", "new high code", "new low code"]
    assert list(found["traversals"])[:2] == ["high -3", "high -1.5"]
    assert len(found["traversals"]) == 10
    for columns in found.values():
        assert {tuple(v.shape) for v in columns.values()} == {(3, 1, 32, 32)}
        assert len(image_grid(columns).axes) == 3 * len(columns)
    again = latent_pictures(network, image, count=3)
    assert torch.equal(found["samples"]["sample"], again["samples"]["sample"])
    moved = [found["traversals"][f"low {v}"] for v in ("-3", "+3")]
    assert not torch.equal(*moved)


def test_one_code_or_none() -> None:
    found = latent_pictures(low_vae(channels=(4, 6), depth=1), torch.zeros(1, 1, 16, 16), count=2)
    assert list(found["samples"]) == ["sample"]
    assert latent_pictures(VQVAE2(1, 8, 1, 4, 8, 4), torch.zeros(1, 1, 16, 16)) == {}
