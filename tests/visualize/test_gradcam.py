"""GradCAM: parity with MONAI one by one, and the traps of MONAI 1.6.1 that batches fall into."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets.resnet import ResNet
from monai.visualize import GradCAM

from robustmed_monai.networks.risc import RotNet, resnet2d
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.visualize.gradcam import BatchGradCAM, gradcam, scale_to_peak

CLASSES = torch.tensor([2, 0, 1])


def raw(cam: Any, images: torch.Tensor, class_idx: Any) -> torch.Tensor:
    """The map before it is enlarged and scaled."""
    found: torch.Tensor = cam.compute_map(images, class_idx=class_idx)
    return found


@pytest.fixture
def network() -> ResNet:
    torch.manual_seed(0)
    return resnet2d(3, width=0.125)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))


class TestParity:
    @pytest.mark.parametrize("layer", ["layer1", "layer2.1.conv2", "layer3"])
    def test_each_map_is_monai_s_of_its_image_and_class_alone(
        self, network: ResNet, images: torch.Tensor, layer: str
    ) -> None:
        ours = raw(BatchGradCAM(network, layer), images, CLASSES)
        theirs = torch.cat(
            [raw(GradCAM(network, layer), x[None], int(c)) for x, c in zip(images, CLASSES, strict=True)]
        )
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-4)

    def test_without_a_class_the_most_likely_one_is_shown(
        self, network: ResNet, images: torch.Tensor
    ) -> None:
        with torch.no_grad():
            likely = network.eval()(images).argmax(1)
        cam = BatchGradCAM(network, "layer3")
        torch.testing.assert_close(cam(images), cam(images, likely))

    def test_one_class_for_all(self, network: ResNet, images: torch.Tensor) -> None:
        cam = BatchGradCAM(network, "layer3")
        torch.testing.assert_close(cam(images, 1), cam(images, torch.ones(3, dtype=torch.long)))


class TestTraps:
    def test_monai_s_own_batches_are_wrong(self, network: ResNet, images: torch.Tensor) -> None:
        """When this fails, MONAI has mended it and half of HookedModel can go."""
        ours = raw(BatchGradCAM(network, "layer3"), images, CLASSES)
        theirs = raw(GradCAM(network, "layer3"), images, CLASSES)
        assert (ours - theirs).abs().max() > 0.1 * ours.abs().max()

    def test_the_strongest_place_is_one_and_nothing_is_zero(
        self, network: ResNet, images: torch.Tensor
    ) -> None:
        coarse = raw(BatchGradCAM(network, "layer2"), images, CLASSES)
        shown = BatchGradCAM(network, "layer2", upsampler=lambda _: lambda x: x)(images, CLASSES)
        assert torch.equal(shown.flatten(1).argmax(1), coarse.flatten(1).argmax(1))
        assert shown.flatten(1).amax(1).tolist() == [1, 1, 1]
        assert torch.equal(shown == 0, coarse == 0)

    def test_rounding_of_a_flat_map_is_not_stretched(self) -> None:
        flat = torch.full((1, 1, 4, 4), 3.0)
        flat[..., 0, 0] += 1e-7
        torch.testing.assert_close(scale_to_peak(flat), torch.ones(1, 1, 4, 4))
        assert torch.equal(scale_to_peak(torch.zeros(1, 1, 4, 4)), torch.zeros(1, 1, 4, 4))

    def test_maps_of_one_value_are_refused(self, images: torch.Tensor) -> None:
        network = resnet2d(2, stem="imagenet", width=0.125)
        with pytest.raises(ConfigError, match=r"layer4 gives maps of \(1, 1\) for images of \(32, 32\)"):
            BatchGradCAM(network, "layer4")(images)

    @pytest.mark.parametrize("layer", ["layer4.1.bn2", "bn1", "layer2.0.bn1"])
    def test_layers_before_an_operation_in_place_work(
        self, network: ResNet, images: torch.Tensor, layer: str
    ) -> None:
        assert torch.isfinite(BatchGradCAM(network, layer)(images)).all()

    def test_a_frozen_network_works_and_keeps_its_gradients(
        self, network: ResNet, images: torch.Tensor
    ) -> None:
        expected = BatchGradCAM(network, "layer2")(images, CLASSES)
        kept = torch.rand_like(network.conv1.weight)
        network.conv1.weight.grad = kept.clone()
        network.requires_grad_(False)
        torch.testing.assert_close(BatchGradCAM(network, "layer2")(images, CLASSES), expected)
        assert torch.equal(network.conv1.weight.grad, kept)

    def test_no_hook_stays(self, network: ResNet, images: torch.Tensor) -> None:
        cams = [BatchGradCAM(network, "layer3") for _ in range(3)]
        for cam in cams:
            cam(images)
        with pytest.raises(RuntimeError):
            cams[0](torch.zeros(1, 2, 32, 32))
        for module in network.modules():
            assert not module._forward_hooks
            assert not module._backward_hooks

    def test_the_modes_of_all_modules_are_given_back(self, network: ResNet, images: torch.Tensor) -> None:
        network.train()
        BatchGradCAM(network, "layer3")(images)
        assert all(module.training for module in network.modules())

    def test_unknown_layers_are_named(self, network: ResNet) -> None:
        with pytest.raises(ConfigError, match=r"layers \['layer9'\] are not in the network; it has .*layer3"):
            BatchGradCAM(network, ["layer1", "layer9"])


class TestSeveralLayers:
    def test_come_side_by_side_and_in_parts(self, network: ResNet, images: torch.Tensor) -> None:
        found = gradcam(network, images, ["layer1", "layer3"], CLASSES, batch_size=2)
        assert found.shape == (2, 3, 1, 32, 32)
        torch.testing.assert_close(found[1], BatchGradCAM(network, "layer3")(images, CLASSES))

    def test_of_rotnet_too(self, images: torch.Tensor) -> None:
        found = gradcam(RotNet(4, width=0.125), images, "trunk.layer2")
        assert found.shape == (1, 3, 1, 32, 32)
        assert 0 <= found.min() <= found.max() <= 1
