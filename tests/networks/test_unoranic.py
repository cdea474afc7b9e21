"""unORANIC's network: published sizes, the rule for other sizes, what its parts see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustmed_monai.networks.unoranic import (
    UNORANIC,
    AutoEncoder,
    default_channels,
    halvings,
    kernel_size,
)
from robustmed_monai.utils.errors import ConfigError, ImageShapeError


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("channels", "encoder", "anatomy_decoder", "image_decoder", "total", "autoencoder"),
    [
        (3, 1_447_406, 1_446_900, 2_266_100, 6_607_812, 2_894_306),
        (1, 1_446_230, 1_445_720, 2_264_920, 6_603_100, 2_891_950),
    ],
)
def test_parameters_are_the_published_code_s(
    channels: int, encoder: int, anatomy_decoder: int, image_decoder: int, total: int, autoencoder: int
) -> None:
    network = UNORANIC(channels)
    assert _count(network.anatomy_encoder) == _count(network.characteristic_encoder) == encoder
    assert _count(network.anatomy_decoder) == anatomy_decoder
    assert _count(network.image_decoder) == image_decoder
    assert _count(network) == total
    assert _count(AutoEncoder(channels)) == autoencoder


def test_stages_have_the_published_maps() -> None:
    x = torch.rand(2, 3, 28, 28)
    maps = []
    for layer in UNORANIC(3).eval().anatomy_encoder.stages:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            maps.append((tuple(x.shape[1:]), layer.kernel_size[0]))
    assert maps == [((32, 14, 14), 4), ((64, 7, 7), 4), ((128, 3, 3), 5), ((256, 1, 1), 5)]


@pytest.mark.parametrize(("size", "kernels"), [(64, "444444"), (128, "4444444"), (224, "4444455")])
def test_other_sizes_end_at_one_pixel_too(size: int, kernels: str) -> None:
    channels = tuple(max(2, c // 16) for c in default_channels(size))
    network = UNORANIC(1, size, channels).eval()
    found = [m.kernel_size[0] for m in network.anatomy_encoder.stages if isinstance(m, nn.Conv2d)]
    assert "".join(map(str, found)) == kernels
    x = torch.rand(2, 1, size, size)
    assert network(x).shape == network.reconstruct(x).shape == x.shape
    assert network.anatomy(x).shape == (2, channels[-1])
    assert default_channels(size)[-1] == 256


@pytest.mark.parametrize("size", range(2, 40))
def test_every_size_comes_back(size: int) -> None:
    x = torch.rand(2, 1, size, size)
    channels = [2] * len(default_channels(size))
    assert AutoEncoder(1, size, channels).eval()(x).shape == x.shape
    assert halvings(size, len(channels))[-1] == 1
    assert [kernel_size(s) for s in (28, 14, 7, 3)] == [4, 4, 5, 5]


def test_fewer_widths_leave_a_larger_code() -> None:
    network = UNORANIC(1, 28, (4, 8)).eval()
    x = torch.rand(2, 1, 28, 28)
    assert network.anatomy(x).shape == (2, 8 * 7 * 7)
    assert network.reconstruct(x).shape == x.shape


def test_slope_one_is_no_activation() -> None:
    slopes = {m.negative_slope for m in UNORANIC(1).modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.01}
    faithful, paper = UNORANIC(1), UNORANIC(1, activation_slope=0.01)
    kinds = [sum(isinstance(m, nn.LeakyReLU) for m in n.modules()) for n in (faithful, paper)]
    # Two in each of 4 x 4 residual blocks; in the paper one after each of 4 x 4 changes of size.
    assert kinds == [32, 48]
    assert _count(faithful) == _count(paper)


def test_anatomy_image_ignores_the_characteristics() -> None:
    network = UNORANIC(1, 28, (4, 4, 4, 8)).eval()
    x = torch.rand(2, 1, 28, 28)
    before, full = network(x), network.reconstruct(x)
    with torch.no_grad():
        for p in network.characteristic_encoder.parameters():
            p.add_(0.5)
    torch.testing.assert_close(network(x), before)
    assert not torch.allclose(network.reconstruct(x), full)
    torch.testing.assert_close(network.anatomy_decoder(network.anatomy(x)[:, :, None, None]), before)


def test_autoencoder_has_one_code_and_one_image() -> None:
    network = AutoEncoder(3, 28, (4, 4, 4, 8)).eval()
    x = torch.rand(2, 3, 28, 28)
    assert torch.equal(network.anatomy(x), network.characteristics(x))
    assert torch.equal(network(x), network.reconstruct(x))


def test_batch_equals_singles_in_evaluation() -> None:
    network = UNORANIC(1, 28, (4, 4, 4, 8)).eval()
    x = torch.rand(3, 1, 28, 28)
    singles = torch.cat([network(one[None]) for one in x])
    torch.testing.assert_close(network(x), singles, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 28, 28), (1, 28, 28)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageShapeError, match=r"built for \(B, 1, 28, 28\) images and got"):
        UNORANIC(1)(torch.zeros(shape))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"image_size=28 cannot be halved 5 times; give 1 to 4 channels"):
        UNORANIC(1, 28, (2, 2, 2, 2, 2))
    with pytest.raises(ConfigError, match="image_size=1; give at least 2"):
        default_channels(1)
