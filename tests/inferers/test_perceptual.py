"""Perceptual difference maps against lpips and scipy, and what happens when weights are missing."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustmed_monai.inferers import perceptual
from robustmed_monai.inferers.perceptual import (
    EncoderPerceptual,
    LPIPSPerceptual,
    perceptual_backend,
)
from robustmed_monai.utils.errors import ConfigError, ImageShapeError, WeightsError
from robustmed_monai.utils.files import sha256

OFFICIAL_NAME = "squeezenet1_1-b8a52dc0.pth"


class TinyEncoder(nn.Module):
    """Three convolutions with poolings; a BatchNorm at the end tells training from evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.LeakyReLU(), nn.AvgPool2d(2))
            for i, o in ((1, 4), (4, 8), (8, 16))
        )
        self.norm = nn.BatchNorm2d(16)

    def features(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [*maps[:-1], self.norm(maps[-1])]


@pytest.fixture
def encoder() -> TinyEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyEncoder()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of SqueezeNet 1.1 in a hub cache, under torchvision's file name."""
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    path = tmp_path_factory.mktemp("torch") / "hub" / "checkpoints" / OFFICIAL_NAME
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return path


@pytest.fixture
def random_backbone(backbone: Path, tmp_path: Path) -> Path:
    """The same weights under a name without a hash."""
    path = tmp_path / "random.pth"
    path.write_bytes(backbone.read_bytes())
    return path


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    first, second = torch.from_numpy(rng.random((2, 3, 1, 48, 40))).float()
    return first, second


@pytest.fixture(params=["encoder", "lpips"])
def distance(request: pytest.FixtureRequest, encoder: TinyEncoder, random_backbone: Path) -> Any:
    return perceptual_backend(request.param, encoder=encoder, weights_path=random_backbone)


def test_map_is_a_difference(distance: Any, pair: tuple[Tensor, Tensor]) -> None:
    first, second = pair
    out = distance(first, second)
    assert out.shape == (3, 1, 48, 40)
    assert out.dtype == torch.float32
    assert not out.requires_grad
    assert out.min() >= 0
    assert out.mean() > 0
    assert torch.equal(distance(first, first), torch.zeros_like(out))
    torch.testing.assert_close(distance(second, first), out, rtol=0, atol=1e-6)
    assert torch.equal(distance(first, second), out)


def test_batch_is_its_singles(
    distance: Any, pair: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    singles = torch.cat([distance(a[None], b[None]) for a, b in zip(*pair, strict=True)])
    torch.testing.assert_close(distance(*pair), singles, rtol=0, atol=1e-6)
    monkeypatch.setattr(perceptual, "_CPU_PIXELS", 2 * 48 * 40)  # parts of two and one
    torch.testing.assert_close(distance(*pair), singles, rtol=0, atol=1e-6)


def test_autocast_and_half_input_change_nothing(distance: Any, pair: tuple[Tensor, Tensor]) -> None:
    first, second = (x.bfloat16() for x in pair)
    expected = distance(first.float(), second.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(distance(first, second), expected)


def test_change_is_found_where_it_is(encoder: TinyEncoder) -> None:
    plain = torch.full((1, 1, 64, 64), 0.5)
    changed = plain.clone()
    changed[..., 40:48, 8:16] = 1
    out = EncoderPerceptual(encoder)(plain, changed)[0, 0]
    assert out[40:48, 8:16].mean() > 2 * out.mean()


@pytest.mark.parametrize("shapes", [((1, 1, 32, 32), (2, 1, 32, 32)), ((1, 32, 32), (1, 32, 32))])
def test_shapes_that_do_not_fit(distance: Any, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ImageShapeError, match="one shape"):
        distance(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_encoder_formula(encoder: TinyEncoder, pair: tuple[Tensor, Tensor]) -> None:
    encoder.eval()
    expected = torch.zeros(3, 1, 48, 40)
    with torch.no_grad():
        for a, b in zip(encoder.features(pair[0]), encoder.features(pair[1]), strict=True):
            difference = 2 - 2 * torch.cosine_similarity(a, b, dim=1)[:, None]
            expected += nn.functional.interpolate(difference, (48, 40), mode="bilinear") / 3
    torch.testing.assert_close(EncoderPerceptual(encoder)(*pair), expected, rtol=0, atol=1e-5)


def test_encoder_keeps_its_mode_and_statistics(encoder: TinyEncoder, pair: tuple[Tensor, Tensor]) -> None:
    encoder.train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    EncoderPerceptual(encoder)(*pair)
    assert encoder.training
    assert encoder.norm.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_encoder_layers(encoder: TinyEncoder, pair: tuple[Tensor, Tensor]) -> None:
    each = [EncoderPerceptual(encoder, layers=[k])(*pair) for k in range(3)]
    torch.testing.assert_close(EncoderPerceptual(encoder)(*pair), sum(each) / 3)
    assert not torch.equal(each[0], each[1])
    for layers in ([3], [-1], []):
        with pytest.raises(ConfigError, match="0 to 2"):
            EncoderPerceptual(encoder, layers=layers)(*pair)


def test_lpips_is_the_package(
    backbone: Path, random_backbone: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lpips

    monkeypatch.setenv("TORCH_HOME", str(backbone.parents[2]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's own, about torchvision
        reference = lpips.LPIPS(net="squeeze", spatial=True, verbose=False).eval()
    ours = LPIPSPerceptual(weights_path=random_backbone)
    for channels in (1, 3):
        first, second = torch.from_numpy(rng.random((2, 4, channels, 64, 64))).float()
        with torch.no_grad():
            expected = reference(2 * first - 1, 2 * second - 1)
        assert expected.shape == (4, 1, 64, 64)
        assert torch.equal(ours(first, second), expected)


def test_lpips_finds_the_hub_cache_and_is_silent(
    backbone: Path,
    tmp_path: Path,
    pair: tuple[Tensor, Tensor],
    random_backbone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from torchvision.models import SqueezeNet1_1_Weights

    cached = tmp_path / "hub" / "checkpoints" / f"squeezenet1_1-{sha256(backbone)[:8]}.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(backbone.read_bytes())
    official = SqueezeNet1_1_Weights.IMAGENET1K_V1
    assert official.url.endswith("/" + OFFICIAL_NAME)
    monkeypatch.setattr(
        official, "_value_", type(official.value)(cached.name, official.transforms, official.meta)
    )
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = torch.get_rng_state()
    found = LPIPSPerceptual()(*pair)
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(found, LPIPSPerceptual(weights_path=random_backbone)(*pair))


def test_missing_weights_name_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("tried to download"))
    with pytest.raises(WeightsError) as caught:
        perceptual_backend("lpips")
    message = str(caught.value)
    for words in (
        str(tmp_path / "hub" / "checkpoints" / OFFICIAL_NAME),
        "torchvision.models.squeezenet1_1(weights='IMAGENET1K_V1')",
        "weights_path",
        "perceptual='encoder'",
    ):
        assert words in message


@pytest.mark.parametrize("missing", ["lpips", "torchvision"])
def test_missing_package_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        WeightsError, match=r"pip install 'robustmed_monai\[perceptual\]'.*perceptual='encoder'"
    ):
        LPIPSPerceptual()


def test_altered_cache_is_refused_before_it_is_read(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(backbone.parents[2]))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was deserialised"))
    with pytest.raises(WeightsError, match=f"{OFFICIAL_NAME} is damaged .* b8a52dc0"):
        LPIPSPerceptual()


@pytest.mark.parametrize("content", ["torn", "text", "empty", "list", "other network"])
def test_bad_weight_files(content: str, random_backbone: Path) -> None:
    if content == "torn":
        random_backbone.write_bytes(random_backbone.read_bytes()[:100_000])
    elif content == "text":
        random_backbone.write_text("<html>404</html>")
    elif content == "empty":
        random_backbone.write_bytes(b"")
    else:
        torch.save([1] if content == "list" else {"features.0.weight": torch.zeros(3)}, random_backbone)
    with pytest.raises(WeightsError, match=r"random\.pth"):
        LPIPSPerceptual(weights_path=random_backbone)


@pytest.mark.parametrize("shape", [(1, 2, 64, 64), (1, 1, 16, 64)])
def test_lpips_names_unfit_images(shape: tuple[int, ...], random_backbone: Path) -> None:
    with pytest.raises(ImageShapeError, match="1 or 3 channels and sides of at least 17"):
        LPIPSPerceptual(weights_path=random_backbone)(torch.zeros(shape), torch.zeros(shape))
    assert LPIPSPerceptual(weights_path=random_backbone)(*torch.zeros(2, 1, 1, 17, 17)).shape == (
        1,
        1,
        17,
        17,
    )


def test_backend_names(encoder: TinyEncoder) -> None:
    assert perceptual_backend("none") is None
    assert isinstance(perceptual_backend("encoder", encoder=encoder), EncoderPerceptual)
    with pytest.raises(ConfigError, match="'vgg' is unknown; use 'encoder', 'lpips' or 'none'"):
        perceptual_backend("vgg")
    with pytest.raises(ConfigError, match=r"features.*NoneType"):
        perceptual_backend("encoder")
    with pytest.raises(ConfigError, match=r"features.*Linear"):
        perceptual_backend("encoder", encoder=nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="'resnet' is unknown"):
        perceptual.LPIPSPerceptual("resnet")
