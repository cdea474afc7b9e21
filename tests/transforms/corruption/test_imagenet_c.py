"""Laws of the fourteen corruptions over severities, batches and seeds, and the published protocol."""

from __future__ import annotations

import io
import pickle
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
from robustmed_monai.transforms.params import draw
from robustmed_monai.utils.errors import ConfigError

DOORS = [imagenet_c, imagenet_c_published]
Door = Callable[[str, int], Corruption]


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


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", IMAGENET_C)
class TestLaws:
    def test_severity_0_changes_nothing(self, name: str, door: Door) -> None:
        images = pictures(2, 1, 28)
        assert torch.equal(run(door(name, 0), images), images)

    @pytest.mark.parametrize("shape", [(3, 1, 28, 28), (2, 3, 40, 33), (2, 2, 17, 28)])
    def test_images_stay_images(self, name: str, door: Door, shape: tuple[int, ...]) -> None:
        images = torch.rand(shape, generator=generator(1))
        before = images.clone()
        for severity in (1, 5):
            result = run(door(name, severity), images)
            assert result.shape == images.shape
            assert result.dtype == torch.float32
            assert result.isfinite().all()
            assert 0 <= result.min() <= result.max() <= 1
            assert not torch.equal(result, images)
        assert torch.equal(images, before)

    def test_black_white_and_constant_images(self, name: str, door: Door) -> None:
        images = torch.tensor([0.0, 1.0, 0.3]).view(3, 1, 1, 1).expand(3, 3, 28, 28).clone()
        assert run(door(name, 5), images).isfinite().all()

    def test_a_batch_is_its_images(self, name: str, door: Door) -> None:
        images, corruption = pictures(4, 3, 30), door(name, 4)
        shape = tuple(images.shape[1:])
        params = draw(corruption.sample, shape, [generator(k) for k in range(4)])
        whole = corrupt(images, corruption, params)
        for k in range(4):
            alone = corrupt(images[k : k + 1], corruption, draw(corruption.sample, shape, [generator(k)]))
            assert torch.equal(alone[0], whole[k])

    def test_an_empty_batch(self, name: str, door: Door) -> None:
        empty = torch.zeros(0, 3, 28, 28)
        assert run(door(name, 3), empty).shape == empty.shape

    def test_the_same_seed_gives_the_same_bits(self, name: str, door: Door) -> None:
        images = pictures(3, 1, 28)
        corruption = pickle.loads(pickle.dumps(door(name, 3)))
        assert torch.equal(run(corruption, images, 5), run(door(name, 3), images, 5))

    def test_uint8_is_converted(self, name: str, door: Door) -> None:
        levels = (pictures(2, 3, 28) * 255).to(torch.uint8)
        corruption = door(name, 2)
        torch.testing.assert_close(run(corruption, levels), run(corruption, levels.float() / 255))

    def test_double_precision_is_kept(self, name: str, door: Door) -> None:
        images = pictures(2, 1, 28).double()
        result = run(door(name, 2), images)
        assert result.dtype == torch.float64
        # Rounding steps (counts, 8 bits) may fall to the other side.
        assert (result - run(door(name, 2), images.float())).abs().mean() < 1e-3


def distortions(door: Door, name: str, images: Tensor) -> list[float]:
    squares = [(run(door(name, k), images) - images).square().mean() for k in range(6)]
    return [float(square) for square in squares]


# The constants themselves do not go up in these: from 3 to 4 frost takes image away and adds no ice, fog
# becomes rougher and no thicker, and snow may get larger flakes but fewer. Pixelate by 0.6 moves the pixels
# of a 28 pixel image, 16 for 28, and by 0.5 it does not.
NOT_STRICT = {"frost", "fog", "snow"}


@pytest.mark.parametrize("name", IMAGENET_C)
@pytest.mark.parametrize("channels_and_side", [(1, 28), (3, 112)])
def test_severity_goes_up(name: str, channels_and_side: tuple[int, int]) -> None:
    values = distortions(imagenet_c, name, pictures(6, *channels_and_side))
    assert values[0] == 0
    if name in NOT_STRICT or (name, channels_and_side[1]) == ("pixelate", 28):
        assert 0 < values[1] < values[5]
    else:
        assert all(low < high for low, high in pairwise(values)), values


@pytest.mark.parametrize("name", IMAGENET_C)
def test_severity_goes_up_as_published(name: str) -> None:
    values = distortions(imagenet_c_published, name, pictures(6, 1, 28))
    if name in NOT_STRICT:
        assert 0 < values[1] < values[5]
    else:
        assert all(low < high for low, high in pairwise(values)), values


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
