"""The five models of the comparison: shapes, equal sizes, and what their parts are given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from robustmed_monai.networks.pchvae import (
    HierarchicalVAE,
    chvae,
    components,
    decode,
    high_vae,
    low_vae,
    pchvae,
)
from robustmed_monai.networks.vqvae2 import VQVAE2
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

SMALL = (4, 6, 6, 8)
MAKERS: dict[str, Callable[[], HierarchicalVAE]] = {
    "pchVAE": lambda: pchvae(channels=SMALL, high_channels=4),
    "chVAE": lambda: chvae(channels=SMALL, high_channels=4, low_width=None),
    "High VAE": lambda: high_vae(channels=SMALL, high_channels=8),
    "Low VAE": lambda: low_vae(channels=SMALL[:2], depth=1),
}


def weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def latents(network: HierarchicalVAE, size: int = 64) -> int:
    counted = []

    def sample(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        assert mean.shape == logvar.shape
        counted.append(mean[0].numel())
        return mean

    network.components(torch.zeros(1, 1, size, size), sample)
    return sum(counted)


def test_sizes_of_the_paper_scale_models() -> None:
    networks = {"pchVAE": pchvae(), "chVAE": chvae(), "High VAE": high_vae(), "Low VAE": low_vae()}
    counts = {name: weights(network) for name, network in networks.items()}
    assert counts["pchVAE"] == 2_527_076
    assert (counts["High VAE"], counts["Low VAE"]) == (2_537_793, 2_901_125)
    counts["VQVAE-2"] = weights(VQVAE2(channels=192, residual_channels=48))
    for name, count in counts.items():
        assert 1.0 <= count / counts["pchVAE"] <= 1.15, name
    assert {latents(network) for network in networks.values()} == {512}
    assert weights(VQVAE2()) == 1_384_769, "the PyTorch version that the paper compares with"


@pytest.mark.parametrize("size", [16, 64, 96, 128])
@pytest.mark.parametrize("name", MAKERS)
def test_shapes(name: str, size: int) -> None:
    x = torch.randn(2, 1, size, size + 16)
    found = MAKERS[name]().components(x)
    assert found.total.shape == x.shape
    assert set(found.codes) == {
        "pchVAE": {"high", "low"}, "chVAE": {"high", "low"}, "High VAE": {"high"}, "Low VAE": {"low"},
    }[name]  # fmt: skip
    side = {"high": size // 16, "low": size // 4}
    assert all(found.codes[k][0].shape[2] == side[k] for k in found.codes)
    drawn = {"high": found.high is not None, "low": found.low is not None}
    assert drawn == {
        "pchVAE": {"high": True, "low": True}, "chVAE": {"high": False, "low": True},
        "High VAE": {"high": True, "low": False}, "Low VAE": {"high": False, "low": True},
    }[name]  # fmt: skip


def test_sum_and_batches() -> None:
    network = MAKERS["pchVAE"]()
    x = torch.randn(3, 1, 32, 32)
    found = network.components(x)
    assert found.high is not None
    assert found.low is not None
    torch.testing.assert_close(found.total, found.high + found.low)
    single = torch.cat([network(image[None]) for image in x])
    torch.testing.assert_close(network(x), single, atol=1e-5, rtol=1e-5)
    codes = [code[0] for code in found.codes.values()]
    torch.testing.assert_close(network.decode(codes[0], codes[1]), found.total)


@pytest.mark.parametrize("name", ["pchVAE", "chVAE"])
def test_the_low_component_is_given_the_high_code(name: str) -> None:
    network = MAKERS[name]()
    x = torch.randn(1, 1, 32, 32)
    shifts = []
    for shift in (0.0, 5.0):
        asked: list[torch.Tensor] = []

        def sample(
            mean: torch.Tensor, logvar: torch.Tensor, asked: list[torch.Tensor] = asked, shift: float = shift
        ) -> torch.Tensor:
            asked.append(mean)
            return mean + shift if len(asked) == 1 else mean

        low = network.components(x, sample).low
        assert low is not None
        shifts.append((low, asked[1]))
    assert not torch.allclose(shifts[0][1], shifts[1][1]), "posterior of z2"
    assert not torch.allclose(shifts[0][0], shifts[1][0]), "decoder of z2"


@pytest.mark.parametrize(("norm", "layer"), [("instance", nn.InstanceNorm2d), ("batch", nn.BatchNorm2d)])
def test_norms(norm: str, layer: type[nn.Module]) -> None:
    layers = [m for m in pchvae(channels=SMALL, norm=norm).modules() if isinstance(m, layer)]
    assert len(layers) == 2 + 2 + 3 + 1 + 1 + 2, "one behind every convolution but those of codes and images"


def test_errors() -> None:
    with pytest.raises(ImageShapeError, match=r"\(1, 1, 24, 32\); give .* that 16 divides"):
        MAKERS["pchVAE"]()(torch.zeros(1, 1, 24, 32))
    assert MAKERS["Low VAE"]()(torch.zeros(1, 1, 24, 32)).shape == (1, 1, 24, 32)
    with pytest.raises(ConfigError, match="four widths"):
        pchvae(channels=(4, 4))
    with pytest.raises(ConfigError, match=r"norm='group' is unknown; use one of \['none'"):
        pchvae(channels=SMALL, norm="group")
    with pytest.raises(ConfigError, match="draw no image"):
        decode({"trunk": nn.Identity()}, None, None)
    with pytest.raises(ConfigError, match="draw no image"):
        components({"trunk": nn.Identity()}, torch.zeros(1, 1, 4, 4))
