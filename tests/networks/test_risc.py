from __future__ import annotations

import pytest
import torch
from torch import nn

from robustmed_monai.networks.risc import (
    STEMS,
    GroupPooledResNet,
    RotationCorrectedNet,
    RotNet,
    resnet2d,
)
from robustmed_monai.transforms.rotation import all_rotations, rotate
from robustmed_monai.utils.errors import ConfigError


class TestResNet:
    @pytest.mark.parametrize(("stem", "side"), [("cifar", 32), ("small", 16), ("monai", 16), ("imagenet", 8)])
    def test_stems_give_the_maps_they_promise(self, stem: str, side: int) -> None:
        network = resnet2d(3, stem=stem, width=0.125)
        maps: dict[str, torch.Size] = {}
        network.layer1.register_forward_hook(lambda *a: maps.update(first=a[2].shape))
        assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
        assert maps["first"][2:] == (side, side)

    def test_names_and_shapes_are_those_of_torchvision(self) -> None:
        torchvision = pytest.importorskip("torchvision")
        for depth in (18, 50):
            with torch.device("meta"):
                ours = resnet2d(1000, 3, depth, "imagenet")
                theirs = getattr(torchvision.models, f"resnet{depth}")()
            shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (ours, theirs)]
            assert shapes[0] == shapes[1]

    def test_what_it_computes_is_what_torchvision_computes(self) -> None:
        torchvision = pytest.importorskip("torchvision")
        theirs = torchvision.models.resnet18(num_classes=5).eval()
        ours = resnet2d(5, 3, 18, "imagenet").eval()
        ours.load_state_dict(theirs.state_dict())
        image = torch.rand(2, 3, 64, 64)
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("wrong", [{"depth": 19}, {"stem": "tiny"}])
    def test_unknown_settings_are_named(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ConfigError, match=r"depth of \[10, 18, 34, 50\] and a stem of"):
            resnet2d(2, **wrong)  # type: ignore[arg-type]

    def test_one_class_is_none(self) -> None:
        with pytest.raises(ConfigError, match="num_classes=1; give at least 2"):
            resnet2d(1)


class TestRotNet:
    def test_the_published_one_is_a_resnet50_with_three_layers(self) -> None:
        with torch.device("meta"):
            network = RotNet(4, 3, depth=50, stem="imagenet")
        assert len([m for m in network.head.modules() if isinstance(m, nn.Linear)]) == 3
        assert sum(p.numel() for p in network.trunk.parameters()) == 23_508_032

    def test_the_compact_pair_stays_below_25_megabytes_in_one_file(self) -> None:
        with torch.device("meta"):
            pair = RotationCorrectedNet(RotNet(4, width=0.5), resnet2d(2, width=0.5))
        assert sum(v.numel() * v.element_size() for v in pair.state_dict().values()) < 25e6

    def test_three_rotations_and_other_heads_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="num_rotations=3"):
            RotNet(3)
        with pytest.raises(ConfigError, match="three fully connected layers"):
            RotNet(4, head=(8,))

    def test_every_stem_takes_images_of_28_pixels(self) -> None:
        for stem in STEMS:
            assert RotNet(8, 3, 10, stem, 0.125).eval()(torch.zeros(1, 3, 28, 28)).shape == (1, 8)


class TestGroupPooled:
    def test_is_invariant(self) -> None:
        network = GroupPooledResNet(3, width=0.125).eval()
        image = torch.rand(2, 1, 32, 32)
        logits = network(all_rotations(image)).unflatten(0, (2, 4))
        torch.testing.assert_close(logits, logits[:, :1].expand_as(logits), atol=1e-5, rtol=1e-5)
        assert (logits[0] - logits[1]).abs().max() > 1e-5

    def test_three_rotations_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="num_rotations=3"):
            GroupPooledResNet(2, num_rotations=3)


def test_risc_is_the_classifier_on_what_rotnet_turned_back() -> None:
    class Told(RotNet):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(torch.tensor([1, 3]), 4).float()

    classifier = resnet2d(3, width=0.125).eval()
    image = torch.rand(2, 1, 32, 32)
    turned = rotate(image, torch.tensor([1, 3]))
    network = RotationCorrectedNet(Told(width=0.125), classifier)
    torch.testing.assert_close(network(turned), classifier(image))
