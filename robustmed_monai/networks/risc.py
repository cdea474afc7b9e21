"""RotNet and classifiers on MONAI's ResNet for small 2-D images, and RISC as one network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from monai.networks.nets.resnet import ResNet
from torch import nn

from robustmed_monai.transforms.rotation import all_rotations, check_rotations, rotate
from robustmed_monai.utils.errors import ConfigError, WeightsError
from robustmed_monai.utils.weights import load_info, load_into

# Block, and blocks per stage.
DEPTHS: dict[int, tuple[str, list[int]]] = {
    10: ("basic", [1, 1, 1, 1]),
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
}
# Kernel and stride of the first convolution, and whether max pooling follows.
STEMS = {"cifar": (3, 1, False), "small": (3, 1, True), "monai": (7, 1, True), "imagenet": (7, 2, True)}


def resnet2d(
    num_classes: int | None,
    in_channels: int = 1,
    depth: int = 18,
    stem: str = "small",
    width: float = 1.0,
) -> ResNet:
    """MONAI's ResNet in 2-D with a stem for the size of the images; its names are torchvision's.

    Args:
        num_classes: outputs; None leaves out the last layer, so that features come out.
        in_channels: image channels.
        depth: 10, 18, 34 or 50.
        stem: "cifar" (3x3, no pooling: 32 px stay 32), "small" (3x3 and max pooling: 16), "monai" (7x7 and
            max pooling: 16) or "imagenet" (7x7 stride 2 and max pooling: 8, the layer of ImageNet weights).
        width: factor on all widths; 0.5 makes a ResNet-18 of 2.8 million parameters.

    Raises:
        ConfigError: for an unknown depth or stem, or fewer than two classes.

    Example:
        >>> resnet2d(3, width=0.25)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 3])
    """
    if depth not in DEPTHS or stem not in STEMS:
        raise ConfigError(
            f"depth={depth}, stem={stem!r}; choose a depth of {list(DEPTHS)} and a stem of {list(STEMS)}."
        )
    if num_classes is not None and num_classes < 2:
        raise ConfigError(f"num_classes={num_classes}; give at least 2.")
    block, layers = DEPTHS[depth]
    kernel, stride, pooled = STEMS[stem]
    return ResNet(
        block,
        layers,
        [64, 128, 256, 512],
        spatial_dims=2,
        n_input_channels=in_channels,
        conv1_t_size=kernel,
        conv1_t_stride=stride,
        no_max_pool=not pooled,
        widen_factor=width,
        num_classes=num_classes or 2,
        feed_forward=num_classes is not None,
        bias_downsample=False,
    )


def feature_width(trunk: nn.Module) -> int:
    """Number of features that a ResNet's last stage gives."""
    last = [m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    return int(last.num_features)


class RotNet(nn.Module):
    """Tells by which multiple of 360 / ``num_rotations`` degrees an image is rotated.

    Args:
        num_rotations: 4 or 8; the number of outputs.
        in_channels: image channels.
        depth: of the ResNet trunk, 50 as published.
        stem: see ``resnet2d``.
        width: factor on the trunk's widths.
        head: widths of the two hidden fully connected layers. The paper says "three fully connected layers"
            and gives no widths, activation or dropout; these are ours.
        dropout: before each hidden layer's successor.
        image_size: side in pixels of the images that it is trained on; RotationCorrectionInferer brings
            others to it. None: any size.
        temperature: its logits divided by this make calibrated probabilities; see ``fit_temperature``.

    Raises:
        ConfigError: when an argument is out of range.

    Source: RISC (MethodsX 2024), figure 2; RotNet: Gidaris et al., ICLR 2018.

    Example:
        >>> RotNet(4, width=0.25)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        num_rotations: int = 4,
        in_channels: int = 1,
        depth: int = 18,
        stem: str = "small",
        width: float = 1.0,
        head: Sequence[int] = (512, 128),
        dropout: float = 0.2,
        image_size: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_rotations(num_rotations)
        if len(head) != 2:
            raise ConfigError(f"head={tuple(head)}; three fully connected layers have two hidden widths.")
        self.num_rotations = num_rotations
        self.in_channels = in_channels
        self.image_size = image_size
        self.temperature = temperature
        self.trunk = resnet2d(None, in_channels, depth, stem, width)
        widths = [feature_width(self.trunk), *head]
        hidden = [
            nn.Sequential(nn.Linear(a, b), nn.ReLU(inplace=True), nn.Dropout(dropout))
            for a, b in pairwise(widths)
        ]
        self.head = nn.Sequential(*hidden, nn.Linear(head[-1], num_rotations))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_rotations) of images (B, C, X, Y) in [0, 1], X and Y equal."""
        logits: torch.Tensor = self.head(self.trunk(image))
        return logits


class GroupPooledResNet(nn.Module):
    """A classifier blind to rotation: one trunk on all rotations, its features' maximum, one layer.

    The dependency-free stand-in for a group-equivariant (p4) network: exactly invariant for four rotations,
    at four times the cost.

    Args:
        num_classes: outputs.
        in_channels: image channels.
        depth: of the ResNet trunk.
        stem: see ``resnet2d``.
        width: factor on the trunk's widths.
        num_rotations: 4, or 8 (then invariant as far as resampling is).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 1,
        depth: int = 18,
        stem: str = "small",
        width: float = 1.0,
        num_rotations: int = 4,
    ) -> None:
        super().__init__()
        check_rotations(num_rotations)
        self.num_rotations = num_rotations
        self.trunk = resnet2d(None, in_channels, depth, stem, width)
        self.fc = nn.Linear(feature_width(self.trunk), num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_classes) of images (B, C, S, S) in [0, 1]."""
        features = self.trunk(all_rotations(image, self.num_rotations))
        logits: torch.Tensor = self.fc(features.unflatten(0, (-1, self.num_rotations)).amax(1))
        return logits


class RotationCorrectedNet(nn.Module):
    """RISC as one network: RotNet finds the rotation, it is undone, and the classifier sees what is left.

    For probabilities, confidence and soft correction use RotationCorrectionInferer; this is what is
    exported, loaded by ``monai.bundle.load`` and stored in one file.

    Args:
        rotnet: image to rotation logits, with ``num_rotations``.
        classifier: image to class logits.
    """

    def __init__(self, rotnet: RotNet, classifier: nn.Module) -> None:
        super().__init__()
        self.rotnet = rotnet
        self.classifier = classifier

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Class logits (B, num_classes) of images (B, C, X, Y) in [0, 1], X and Y equal, however rotated."""
        found = self.rotnet(image).argmax(1)
        logits: torch.Tensor = self.classifier(rotate(image, -found, self.rotnet.num_rotations))
        return logits


def risc_network(info: Mapping[str, Any]) -> RotationCorrectedNet:
    """RISC in the sizes that the ``info`` of its weights says, untrained.

    Args:
        info: with what is known of `rotnet` and of `classifier`.

    Raises:
        WeightsError: when it is that of something else.
    """
    rotnet, classifier = info.get("rotnet"), info.get("classifier")
    if not isinstance(rotnet, dict) or not isinstance(classifier, dict) or "num_classes" not in classifier:
        raise WeightsError(
            "the weights are not RISC's two networks; give the model.pt that train.json leaves."
        )
    if rotnet.get("axes", "XY") != "XY":
        raise WeightsError(f"RotNet was trained on axes {rotnet['axes']}; train it on (B, C, X, Y).")
    return RotationCorrectedNet(
        RotNet(
            rotnet.get("num_rotations", 4),
            **_sizes(rotnet),
            image_size=rotnet.get("image_size"),
            temperature=rotnet.get("temperature", 1.0),
        ),
        resnet2d(classifier["num_classes"], **_sizes(classifier)),
    )


def load_risc(path: str | os.PathLike[str]) -> RotationCorrectedNet:
    """RISC of a weights file: built by the sizes in its ``info``, with its weights.

    Args:
        path: weights file that holds both networks, such as ``models/model.pt``.

    Raises:
        WeightsError: when the file is missing, altered or of something else.
    """
    network = risc_network(load_info(path))
    load_into(network, path)
    return network


def _sizes(info: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {"channels": 1, "depth": 18, "stem": "small", "width": 0.5}
    sizes = {key: info.get(key, value) for key, value in defaults.items()}
    return {"in_channels": sizes.pop("channels"), **sizes}
