"""VQVAE-2: shapes, quantization against the nearest vector, learning code books."""

from __future__ import annotations

import pytest
import torch

from robustmed_monai.networks.pchvae import Quantized
from robustmed_monai.networks.vqvae2 import VQVAE2, Quantizer
from robustmed_monai.utils.errors import ImageShapeError


def network() -> VQVAE2:
    return VQVAE2(channels=8, residual_channels=4, book_size=16, book_width=4)


@pytest.mark.parametrize("size", [16, 64, 96])
def test_shapes(size: int) -> None:
    found = network().eval().components(torch.randn(2, 1, size, size))
    assert found.total.shape == (2, 1, size, size)
    assert found.high is None
    assert found.low is None
    assert {k: code[1].shape[1:] for k, code in found.codes.items()} == {
        "top": (4, size // 8, size // 8),
        "bottom": (4, size // 4, size // 4),
    }
    with pytest.raises(ImageShapeError, match="that 8 divides"):
        network()(torch.zeros(1, 1, 20, 16))


def test_vectors_are_the_nearest_of_the_book() -> None:
    quantizer = Quantizer(7, 3, 0.99).eval()
    encoded, quantized = quantizer(torch.randn(2, 3, 4, 4))
    book = quantizer.book.quantizer.embedding.weight
    flat = encoded.permute(0, 2, 3, 1).reshape(-1, 3)
    expected = book[torch.cdist(flat, book).argmin(1)].view(2, 4, 4, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(quantized, expected)


def test_books_learn_in_training_only_and_not_by_gradient() -> None:
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items() if "embedding" in k}
    x = torch.randn(2, 1, 16, 16)
    model.eval()(x)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    model.train()
    model(x).sum().backward()
    assert not any(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None for name, p in model.named_parameters() if "embedding" in name)
    assert all(p.grad is not None for name, p in model.named_parameters() if "embedding" not in name)


def test_autocast_leaves_the_book_in_float32() -> None:
    model = network().eval()
    with torch.autocast("cpu", torch.bfloat16):
        found = model.components(torch.randn(1, 1, 16, 16))
    code = found.codes["bottom"]
    assert isinstance(code, Quantized)
    assert code.encoded.dtype == code.quantized.dtype == found.total.dtype == torch.float32
