from __future__ import annotations

import pytest
import torch

from robustmed_monai.networks.ra import (
    ReversedAutoEncoder,
    bottleneck_side,
    published_channels,
)
from robustmed_monai.utils.errors import ConfigError, ImageShapeError


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "total"),
    [(64, 19_989_505), (128, 29_430_785), (256, 38_872_065)],
    ids=["64px", "128px", "256px"],
)
@pytest.mark.parametrize("norm", ["affine", "batch"])
def test_published_widths_have_the_published_parameter_count(size: int, total: int, norm: str) -> None:
    network = ReversedAutoEncoder(image_size=size, norm=norm)
    assert count(network) == total
    if size == 128:
        assert count(network.encoder) == 16_360_896
        assert count(network.decoder) == 13_069_889


def test_shapes_of_the_five_embeddings() -> None:
    network = ReversedAutoEncoder().eval()
    encoding = network.encoder(torch.rand(1, 1, 128, 128))
    assert [tuple(e.shape[1:]) for e in encoding.embeddings] == [
        (64, 64, 64),
        (128, 32, 32),
        (256, 16, 16),
        (512, 8, 8),
        (512, 4, 4),
    ]
    assert encoding.mu.shape == encoding.logvar.shape == (1, 128)


def test_224_px_works_with_five_widths() -> None:
    assert count(ReversedAutoEncoder(image_size=224, channels=(64, 128, 256, 512, 512))) == 35_935_745


def test_both_norms_share_their_state_dict() -> None:
    affine = ReversedAutoEncoder(image_size=32, channels=(4, 8), latent_size=8, norm="affine")
    batch = ReversedAutoEncoder(image_size=32, channels=(4, 8), latent_size=8, norm="batch")
    names = {k for k, _ in batch.named_parameters()}
    assert names == {k for k, _ in affine.named_parameters()}
    affine.load_state_dict({k: v for k, v in batch.state_dict().items() if k in names})
    x = torch.rand(3, 1, 32, 32)
    # BatchNorm in evaluation mode before any training is an affine map, up to its epsilon.
    torch.testing.assert_close(affine.eval()(x), batch.eval()(x), atol=1e-3, rtol=1e-3)


def test_affine_norm_treats_every_image_alone() -> None:
    network = ReversedAutoEncoder(image_size=32, channels=(4, 8), latent_size=8).train()
    x = torch.rand(5, 1, 32, 32)
    singles = torch.cat([network(x[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(network(x), singles, atol=1e-6, rtol=1e-5)


def test_output_is_an_image_and_deterministic() -> None:
    network = ReversedAutoEncoder(in_channels=3, image_size=32, channels=(4, 8), latent_size=8)
    x = torch.rand(2, 3, 32, 32)
    out = network(x).detach()
    assert out.shape == x.shape
    assert 0 < float(out.min()) <= float(out.max()) < 1
    assert torch.equal(out, network(x))


def test_wrong_sizes_are_refused_with_the_remedy() -> None:
    network = ReversedAutoEncoder(image_size=32, channels=(4, 8), latent_size=8)
    with pytest.raises(ImageShapeError, match=r"\(B, C, 32, 32\).*got \(1, 1, 30, 32\)"):
        network(torch.rand(1, 1, 30, 32))
    with pytest.raises(ImageShapeError, match="got"):
        network(torch.rand(1, 32, 32))
    with pytest.raises(ConfigError, match="halved 5 times"):
        ReversedAutoEncoder(image_size=100, channels=(4, 4, 4, 4, 4))
    with pytest.raises(ConfigError, match="no published widths"):
        published_channels(100)
    with pytest.raises(ConfigError, match="affine"):
        ReversedAutoEncoder(image_size=32, channels=(4, 8), norm="layer")
    assert bottleneck_side(224, (1, 1, 1, 1, 1)) == 7
