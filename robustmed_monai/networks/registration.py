"""Registration network: two images to the diffeomorphic field that carries one onto the other."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.networks.nets.voxelmorph import VoxelMorphUNet
from torch import nn
from torch.nn import functional as F

from robustmed_monai.networks.on_features import feature_network
from robustmed_monai.transforms.fields import integrate
from robustmed_monai.utils.errors import ConfigError, ImageShapeError
from robustmed_monai.utils.weights import load_info, load_into

BACKBONES = ("monai", "voxelmorph")
# Two numbers per level of the U-Net: features on the way down and on the way up. With VoxelMorph's 32 at
# the top of the way up a step takes 1.7 times as long.
_CHANNELS = (16, 16, 32, 32, 32, 32)
# The first field moves nothing: training starts from the identity.
_INITIAL_STD = 1e-5


class RegistrationNet(nn.Module):
    """Pair of images to velocity, displacement and inverse displacement (VoxelMorph, diffeomorphic).

    Images of any size are padded inside and the field is cropped back. With ``features`` the network sees
    what that module makes of each image instead of the image; the module is frozen and its weights are part
    of the state dict, so that one file holds all that registration needs.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of each image or, with ``features``, of what that makes of an image.
        backbone: U-Net of "monai" or of the package "voxelmorph" (needs voxelmorph 0.3.4).
        channels: features of the U-Net. "monai": (down, up) per level, coarsest last, as many halvings as
            levels; "voxelmorph": one number per level. None takes (16, 16, 32, 32, 32, 32), or five times 16.
        integration_steps: squarings in the integration of the velocity.
        features: module, image (B, 1, *S) to (B, in_channels, *S); None takes images as they are.

    Raises:
        ConfigError: for an argument out of range.

    Source: Balakrishnan et al., "VoxelMorph", TMI 2019; Dalca et al., "Unsupervised learning of probabilistic
    diffeomorphic registration", MedIA 2019.

    Example:
        >>> field = RegistrationNet(2)(torch.rand(1, 1, 30, 21), torch.rand(1, 1, 30, 21))
        >>> field["ddf"].shape, bool(field["ddf"].abs().max() < 0.01)
        (torch.Size([1, 2, 30, 21]), True)
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        backbone: str = "monai",
        channels: Sequence[int] | None = None,
        integration_steps: int = 7,
        features: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3) or in_channels < 1 or integration_steps < 1:
            raise ConfigError(
                f"spatial_dims={spatial_dims}, in_channels={in_channels}, integration_steps="
                f"{integration_steps}; give 2 or 3 dimensions, at least 1 channel and 1 step."
            )
        if backbone not in BACKBONES:
            raise ConfigError(f"backbone={backbone!r}; choose one of {list(BACKBONES)}.")
        self.spatial_dims = spatial_dims
        self.integration_steps = integration_steps
        self.features = features
        if features is not None:
            features.requires_grad_(False).eval()
        make = _monai_unet if backbone == "monai" else _voxelmorph_unet
        self.backbone, self.divisor = make(spatial_dims, 2 * in_channels, channels)

    def train(self, mode: bool = True) -> RegistrationNet:
        """Set the mode of all but the frozen features, which stay in evaluation."""
        super().train(mode)
        if self.features is not None:
            self.features.eval()
        return self

    def represent(self, image: torch.Tensor) -> torch.Tensor:
        """What the network sees of an image: its features, or the image itself."""
        if self.features is None:
            return image
        with torch.no_grad():
            made: torch.Tensor = self.features(image)
        return made

    def velocity(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """Stationary velocity (B, d, *S) in voxels between two representations (B, in_channels, *S)."""
        pair = torch.cat([moving, fixed], dim=1)
        sizes = pair.shape[2:]
        missing = [-size % self.divisor for size in sizes]
        pair = F.pad(pair, [n for m in reversed(missing) for n in (0, m)])
        field: torch.Tensor = self.backbone(pair)
        return field[(slice(None), slice(None), *(slice(size) for size in sizes))]

    def forward(
        self, moving: torch.Tensor, fixed: torch.Tensor, inverse: bool = True, represented: bool = False
    ) -> dict[str, torch.Tensor]:
        """Register.

        Args:
            moving: (B, C, *S) image to be carried onto ``fixed``, in [0, 1].
            fixed: (B, C, *S), same size.
            inverse: also integrate the inverse.
            represented: ``moving`` and ``fixed`` went through ``features`` before.

        Returns:
            `velocity`, `ddf` and `inverse_ddf`, (B, d, *S) in voxels and float32; ``fields.warp(moving,
            ddf)`` lies on ``fixed`` and ``warp(fixed, inverse_ddf)`` on ``moving``. `moving_features` and
            `fixed_features` (B, in_channels, *S): what the U-Net saw.

        Raises:
            ImageShapeError: when the images differ in size or have other dimensions.
        """
        if moving.shape != fixed.shape or moving.ndim != self.spatial_dims + 2:
            raise ImageShapeError(
                f"moving {tuple(moving.shape)} and fixed {tuple(fixed.shape)}; give two batches of the same "
                f"shape with {self.spatial_dims} spatial dimensions, resampled to a common grid."
            )
        seen = (moving, fixed) if represented else (self.represent(moving), self.represent(fixed))
        velocity = self.velocity(*seen).float()
        fields = {"velocity": velocity, "ddf": integrate(velocity, self.integration_steps)}
        if inverse:
            fields["inverse_ddf"] = integrate(-velocity, self.integration_steps)
        return {**fields, "moving_features": seen[0], "fixed_features": seen[1]}


def registration_net(
    spatial_dims: int = 2,
    features: str | Mapping[str, Any] | None = None,
    backbone: str = "monai",
    channels: Sequence[int] | None = None,
    integration_steps: int = 7,
) -> RegistrationNet:
    """Registration network from plain settings, which fit into the information beside its weights.

    Args:
        spatial_dims: 2 or 3.
        features: see ``on_features.feature_network``; None works on the images.
        backbone: see RegistrationNet.
        channels: see RegistrationNet.
        integration_steps: see RegistrationNet.
    """
    seen = feature_network(features, spatial_dims)
    width = 1 if seen is None else seen.out_channels
    return RegistrationNet(spatial_dims, width, backbone, channels, integration_steps, seen)


def registration_network(info: Mapping[str, Any]) -> RegistrationNet:
    """Registration network in the sizes that the ``info`` of its weights says, untrained."""
    names = inspect.signature(registration_net).parameters
    return registration_net(**{name: info[name] for name in names if name in info})


def load_registration_net(weights: str | os.PathLike[str]) -> RegistrationNet:
    """Network of a weights file of ``bundles/cifl_registration``, built as its ``info`` says.

    Raises:
        WeightsError: when the file is missing, altered or no registration network of this package.
    """
    network = registration_network(load_info(weights))
    load_into(network, weights)
    return network


def _monai_unet(spatial_dims: int, in_channels: int, channels: Sequence[int] | None) -> tuple[nn.Module, int]:
    """MONAI's backbone and what sizes must be divisible by; never its half-resolution wrapper."""
    widths = list(channels or _CHANNELS)
    if len(widths) < 2 or len(widths) % 2 or min(widths) < 1:
        raise ConfigError(f"channels={widths}; give pairs (down, up), one per level, such as {_CHANNELS}.")
    network = VoxelMorphUNet(spatial_dims, in_channels, widths[1], widths, [widths[0], widths[0]])
    last: Any = network.net[1].final_conv_out.conv  # type: ignore[union-attr]
    nn.init.normal_(last.weight, std=_INITIAL_STD)
    nn.init.zeros_(last.bias)
    return network, 2 ** (len(widths) // 2)


def _voxelmorph_unet(
    spatial_dims: int, in_channels: int, channels: Sequence[int] | None
) -> tuple[nn.Module, int]:
    """The package's backbone and what sizes must be divisible by.

    Its ``VxmPairwise`` keeps a tensor of the last graph when it integrates, which cannot be copied; so only
    its U-Net and its flow layer are taken.
    """
    try:
        from voxelmorph.nn.models import VxmPairwise
    except ImportError as error:
        raise ConfigError(
            "backbone='voxelmorph' needs the package: pip install 'voxelmorph>=0.3.4', or take 'monai'."
        ) from error
    widths = list(channels or (16,) * 5)
    pair = VxmPairwise(spatial_dims, in_channels // 2, in_channels // 2, widths, integration_steps=0)
    return nn.Sequential(pair.model, pair.flow_layer), 2 ** len(widths)
