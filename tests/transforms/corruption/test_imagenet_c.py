"""Laws of the fourteen corruptions over severities, batches and seeds, and the published protocol."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.imagenet_c import IMAGENET_C, imagenet_c, imagenet_c_published
from robustmed_monai.utils.errors import ConfigError

Family = Callable[[str, int], Corruption]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(rows: int, channels: int, side: int) -> Tensor:
    """Smooth pictures with edges, in [0, 1]."""
    noise = np.random.default_rng(3).standard_normal((rows, channels, side, side))
    smooth = ndimage.gaussian_filter(noise, (0, 0, side / 12, side / 12), mode="wrap")
    fine = ndimage.gaussian_filter(noise, (0, 0, side / 40, side / 40), mode="wrap")
    field = smooth / smooth.std() + 0.6 * np.sign(smooth) + 0.3 * fine / fine.std()
    return torch.from_numpy((0.45 + 0.16 * field).clip(0, 1)).float()


def run(corruption: Corruption, images: Tensor, seed: int = 0) -> Tensor:
    return corrupt(images, corruption, corruption.sample(images.shape, generator(seed)))


def test_the_fourteen_of_the_curves() -> None:
    assert len(IMAGENET_C) == 14
    assert "glass_blur" not in IMAGENET_C
    for name in IMAGENET_C:
        assert imagenet_c(name, 5).name == name


def distortions(family: Family, name: str, images: Tensor) -> list[float]:
    squares = [(run(family(name, k), images) - images).square().mean() for k in range(6)]
    return [float(square) for square in squares]


# The constants themselves do not go up in these: from 3 to 4 frost takes image away and adds no ice, fog
# becomes rougher and no thicker, and snow may get larger flakes but fewer. Pixelate by 0.6 moves the pixels
# of a 28 pixel image, 16 for 28, and by 0.5 it does not.
NOT_STRICT = {"frost", "fog", "snow"}


@pytest.mark.parametrize(
    ("family", "channels", "side"), [(imagenet_c, 1, 28), (imagenet_c, 3, 112), (imagenet_c_published, 1, 28)]
)
def test_severity_goes_up(family: Family, channels: int, side: int) -> None:
    for name in IMAGENET_C:
        values = distortions(family, name, pictures(6, channels, side))
        assert values[0] == 0
        if name in NOT_STRICT or (family is imagenet_c and (name, side) == ("pixelate", 28)):
            assert 0 < values[1] < values[5], name
        else:
            assert all(low < high for low, high in pairwise(values)), (name, values)


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur", "elastic_transform"])
def test_a_severity_means_the_same_at_any_size(name: str) -> None:
    large = pictures(4, 1, 224)
    small = torch.nn.functional.avg_pool2d(large, 4)
    for severity in (3, 5):
        corruption = imagenet_c(name, severity)
        at_large, at_small = ((run(corruption, x) - x).square().mean() for x in (large, small))
        unscaled = (run(imagenet_c_published(name, severity), small) - small).square().mean()
        assert 0.4 < at_small / at_large < 1.5
        assert unscaled > 2 * at_large


@pytest.mark.parametrize("channels", [1, 3])
def test_published_protocol_around_jpeg(channels: int) -> None:
    images = (pictures(1, channels, 28) * 255).round() / 255
    levels = (images[0] * 255).round().numpy().T.astype(np.uint8)  # rows, columns, channels
    # 28 and 32 both divide 224, so an area mean is a mean of repeated pixels.
    fine = levels.repeat(8, 0).repeat(8, 1).reshape(32, 7, 32, 7, channels)
    large = np.broadcast_to((fine.mean((1, 3)) + 1e-9).round().astype(np.uint8), (32, 32, 3))
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(large)).save(file, "JPEG", quality=10)
    decoded = np.asarray(Image.open(file))
    small = decoded.repeat(7, 0).repeat(7, 1).reshape(28, 8, 28, 8, 3).mean((1, 3)).round()
    expected = small.mean(2, keepdims=True) if channels == 1 else small
    result = run(imagenet_c_published("jpeg_compression", 4), images)[0].numpy().T * 255
    # Ties of the two roundings may fall to either side.
    assert np.abs(result - expected).max() < 1.01
    assert (np.abs(result - expected) > 1e-3).mean() < 0.02


def test_published_protocol_averages_noise_of_three_channels() -> None:
    images = torch.full((64, 1, 28, 28), 128 / 255)
    result = run(imagenet_c_published("gaussian_noise", 1), images)
    scaled = run(imagenet_c("gaussian_noise", 1), images)
    assert float(scaled.std()) == pytest.approx(0.08, rel=0.02)
    assert float(result.std()) < 0.08 / 3**0.5
    assert float(result.mean()) == pytest.approx(127.5 / 255, abs=3e-4)  # decimals are cut off


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'motion_blur'"):
        imagenet_c("motion", 1)
    with pytest.raises(ConfigError, match="severity 6"):
        imagenet_c("fog", 6)
