from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch

from robustmed_monai.networks import imagenet
from robustmed_monai.networks.imagenet import load_imagenet
from robustmed_monai.networks.risc import RotNet, resnet2d
from robustmed_monai.utils.errors import WeightsError


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file as torchvision's for depth 18, its name set so that its digest is right."""
    weights = resnet2d(1000, 3, 18, "imagenet").state_dict()
    path = tmp_path / "download.pth"
    torch.save(weights, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(imagenet, "FILES", {18: f"resnet18-{digest[:8]}.pth"})
    return path, weights


def test_without_a_path_nothing_happens() -> None:
    network = resnet2d(2, width=0.125)
    before = network.conv1.weight.clone()
    assert load_imagenet(network, 18) is network
    assert torch.equal(network.conv1.weight, before)


def test_weights_go_into_the_trunk_and_colours_are_summed_for_grey(official: Any) -> None:
    path, weights = official
    network = RotNet(4, 1, 18, "imagenet")
    load_imagenet(network, 18, path)
    torch.testing.assert_close(network.trunk.conv1.weight, weights["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(network.trunk.state_dict()["layer4.1.conv2.weight"], weights["layer4.1.conv2.weight"])
    grey = torch.rand(1, 1, 32, 32)
    colour = resnet2d(None, 3, 18, "imagenet").eval()
    load_imagenet(colour, 18, path)
    features = network.trunk.eval()(grey)
    torch.testing.assert_close(features, colour(grey.expand(1, 3, 32, 32)), atol=1e-4, rtol=1e-4)


def test_a_small_stem_keeps_its_own_start(official: Any) -> None:
    path, weights = official
    network = resnet2d(2, 3, 18, "small")
    before = network.conv1.weight.clone()
    load_imagenet(network, 18, path)
    assert torch.equal(network.conv1.weight, before)
    assert torch.equal(network.state_dict()["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])


def test_an_altered_file_is_refused(official: Any) -> None:
    path, _ = official
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"sha256 .* does not begin with"):
        load_imagenet(resnet2d(2, 3), 18, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth: no such file"):
        load_imagenet(resnet2d(2, 3), 18, tmp_path / "none.pth")


def test_another_width_does_not_fit(official: Any) -> None:
    with pytest.raises(WeightsError, match=r"does not fit ResNet: layer1.*same depth and width 1"):
        load_imagenet(resnet2d(2, 3, width=0.5), 18, official[0])


def test_offline_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsError, match=r"cannot be fetched .*no network.*give its path.*from scratch"):
        load_imagenet(resnet2d(2, 3), 18, download=True)


def test_a_depth_without_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="depth=10 has no ImageNet weights"):
        load_imagenet(resnet2d(2, 3, 10), 10, tmp_path / "x.pth")
