"""The network with straight paths: what it is before training, and what its tone correction can undo."""

from __future__ import annotations

import pytest
import torch

from robustmed_monai.networks.unoranic import UNORANIC
from robustmed_monai.networks.unoranic_pca import PCAUNORANIC, ToneCorrection
from robustmed_monai.utils.errors import DataError, ImageShapeError


def _images(count: int, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    basis = torch.rand(12, channels, 16, 16, generator=generator) - 0.5
    weights = torch.randn(count, 12, generator=generator)
    return torch.einsum("nk,kcxy->ncxy", weights, basis) * 0.1 + 0.5


def _network(channels: int = 1, **settings: int) -> PCAUNORANIC:
    torch.manual_seed(0)
    return PCAUNORANIC(channels, 16, **{"latent_size": 12, "hidden": 8, "tone": 8, **settings}).eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_it_starts_from_principal_components(channels: int) -> None:
    images = _images(60, channels)
    network = _network(channels)
    network.start_from(images, images)
    with torch.no_grad():
        torch.testing.assert_close(network(images), images, atol=2e-4, rtol=0)
        torch.testing.assert_close(network.reconstruct(images), images, atol=2e-4, rtol=0)
        codes = network.anatomy(images)
    torch.testing.assert_close(codes.mean(0), torch.zeros(12), atol=1e-3, rtol=0)
    torch.testing.assert_close(codes.T @ codes / len(codes), torch.eye(12), atol=1e-2, rtol=0)


def test_too_few_images_to_start_from_are_refused() -> None:
    with pytest.raises(DataError, match="12 training images for a code of 12 numbers"):
        _network().start_from(_images(12), _images(12))


def test_codes_are_as_large_as_the_published_ones() -> None:
    image, published, straight = torch.zeros(2, 3, 28, 28), UNORANIC(3).eval(), PCAUNORANIC(3, hidden=8)
    assert straight.anatomy(image).shape == published.anatomy(image).shape == (2, 256)
    assert straight.characteristics(image).shape == published.characteristics(image).shape
    assert straight.reconstruct(image).shape == published.reconstruct(image).shape


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ImageShapeError, match="resize them"):
        _network()(torch.zeros(1, 1, 28, 28))


def test_tone_correction_starts_as_the_identity_and_can_fold_and_invert() -> None:
    tone = ToneCorrection((1, 4, 4), 8)
    x = torch.linspace(-0.5, 0.5, 16).view(1, 1, 4, 4)
    torch.testing.assert_close(tone(x), x)
    with torch.no_grad():
        tone.look.last.bias.copy_(torch.tensor([-2.0, 0.0, 0.1]))
        torch.testing.assert_close(tone(x), 0.1 - x)
        tone.look.last.bias.copy_(torch.tensor([0.0, -2.0, 0.0]))
        torch.testing.assert_close(tone(x), -x.abs())


def test_a_batch_is_its_images() -> None:
    images = _images(5)
    network = _network()
    network.start_from(_images(40), _images(40))
    together = network(images)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_the_gate_head_is_there_when_asked_for() -> None:
    assert "gate_head" not in dict(_network().named_children())
    assert dict(_network(gates=12).named_children())["gate_head"].out_features == 12
