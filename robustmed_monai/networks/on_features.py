"""A network that works on frozen features of an image instead of on the image."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.networks.nets import UNet
from torch import nn

from robustmed_monai.networks.cifl import CIFL
from robustmed_monai.networks.contrast_gate import ContrastGate, ImageAndFeatures
from robustmed_monai.networks.mind import MINDSSC
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.weights import load_info, load_into


class OnFeatures(nn.Module):
    """Image to network(features(image)); both are in one state dict, so one weights file is enough.

    Args:
        network: any network whose input has the channels that ``features`` gives.
        features: image (B, C, *spatial) to features, such as ``CIFL``; None gives the network the image.
        freeze: keep the features as they are: no gradient reaches them and they stay in evaluation mode.

    Example:
        >>> network = OnFeatures(nn.Conv2d(16, 4, 1), CIFL(channels=8, depth=2))
        >>> network(torch.rand(1, 1, 20, 24)).shape
        torch.Size([1, 4, 20, 24])
    """

    def __init__(self, network: nn.Module, features: nn.Module | None = None, freeze: bool = True) -> None:
        super().__init__()
        self.network = network
        self.features = features
        self.freeze = freeze
        if features is not None and freeze:
            features.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> OnFeatures:
        """Set the mode of all but frozen features."""
        super().train(mode)
        if self.features is not None and self.freeze:
            self.features.eval()
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """What the network makes of the features of ``image`` (B, C, *spatial)."""
        if self.features is None:
            found: torch.Tensor = self.network(image)
            return found
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            seen = self.features(image)
        result: torch.Tensor = self.network(seen)
        return result


def feature_settings(weights: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """Arguments of ``CIFL``, but ``spatial_dims``, that weights were trained with; None for no file.

    Raises:
        WeightsError: when the file is missing or altered.
    """
    if weights is None:
        return None
    return _cifl_settings(load_info(weights))


def feature_network(settings: str | Mapping[str, Any] | None, spatial_dims: int = 2) -> CIFL | MINDSSC | None:
    """Features, untrained, from plain settings, which fit into the information beside weights.

    Args:
        settings: arguments of ``CIFL`` but ``spatial_dims``, see ``feature_settings``; "mind" for MIND-SSC;
            None for no features.
        spatial_dims: 2 or 3.

    Raises:
        ConfigError: for settings that are none of these.

    Example:
        >>> feature_network({"out_channels": 8}).out_channels, feature_network("mind").out_channels
        (8, 4)
    """
    if settings is None:
        return None
    if settings == "mind":
        return MINDSSC(spatial_dims)
    if not isinstance(settings, Mapping):
        raise ConfigError(f"features={settings!r}; give the settings of CIFL, 'mind' or none.")
    return CIFL(spatial_dims=spatial_dims, **settings)


def load_features(network: OnFeatures, weights: str | os.PathLike[str] | None) -> OnFeatures:
    """Load the features of a network from a weights file of their own; None leaves them as they are.

    Raises:
        WeightsError: when the weights are missing, altered or do not fit.
    """
    seen = network.features
    if seen is not None and weights is not None:
        load_into(seen.features if isinstance(seen, ImageAndFeatures) else seen, weights)
    return network


def segmentation_unet(
    num_classes: int = 4,
    channels: Sequence[int] = (16, 32, 64, 128),
    features: str | Mapping[str, Any] | None = None,
    spatial_dims: int = 2,
    gated: bool = False,
) -> OnFeatures:
    """MONAI's U-Net, image to logits, on the image, on frozen features of it, or on both.

    Args:
        num_classes: labels are 0 to ``num_classes - 1``.
        channels: widths of the levels; each halves the size.
        features: see ``feature_network``; None works on the image.
        spatial_dims: 2 or 3.
        gated: on the features and, where its contrast is known, on the image too, see ``ContrastGate``.

    Returns:
        Network from (B, 1, *spatial) in [0, 1] to (B, num_classes, *spatial); sides are multiples of
        2 ** (len(channels) - 1).

    Raises:
        ConfigError: when ``gated`` has no features to fall back on.
    """
    seen = feature_network(features, spatial_dims)
    if gated and seen is None:
        raise ConfigError("gated=True without features; give the settings of CIFL or 'mind'.")
    unet = UNet(
        spatial_dims,
        in_channels=(0 if seen is None else seen.out_channels) + (seen is None or gated),
        out_channels=num_classes,
        channels=list(channels),
        strides=[2] * (len(channels) - 1),
    )
    if gated and seen is not None:
        return OnFeatures(ContrastGate(unet), ImageAndFeatures(seen))
    return OnFeatures(unet, seen)


def segmentation_network(info: Mapping[str, Any]) -> OnFeatures:
    """Segmentation network in the sizes that the ``info`` of its weights says, untrained."""
    known = {name: info[name] for name in ("num_classes", "channels", "features", "gated") if name in info}
    return segmentation_unet(**known)


def cifl_network(info: Mapping[str, Any]) -> CIFL:
    """CIFL network in the sizes that the ``info`` of its weights says, untrained."""
    return CIFL(spatial_dims=int(info.get("spatial_dims", 2)), **_cifl_settings(info))


def load_segmenter(weights: str | os.PathLike[str], num_classes: int | None = None) -> OnFeatures:
    """Network of a weights file of ``bundles/cifl_segmentation``, built as its ``info`` says.

    Args:
        weights: the file.
        num_classes: expected number of classes; None takes what the file says.

    Raises:
        ConfigError: when it was trained with another number of classes.
        WeightsError: when the file is missing, altered or no segmentation network of this package.
    """
    info = load_info(weights)
    count = int(info.get("num_classes", 4))
    if num_classes not in (None, count):
        raise ConfigError(f"{weights}: trained with {count} classes, not {num_classes}; give --num_classes.")
    network = segmentation_network(info)
    load_into(network, weights)
    return network


def load_feature_net(weights: str | os.PathLike[str]) -> CIFL:
    """Network of a weights file of ``bundles/cifl``, built as its ``info`` says.

    Raises:
        WeightsError: when the file is missing, altered or no CIFL network.
    """
    network = cifl_network(load_info(weights))
    load_into(network, weights)
    return network


def _cifl_settings(info: Mapping[str, Any]) -> dict[str, Any]:
    names = inspect.signature(CIFL).parameters.keys() - {"spatial_dims"}
    return {name: info[name] for name in sorted(names) if name in info}
