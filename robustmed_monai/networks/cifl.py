"""CIFL's network: an image to features of the same size that do not depend on its contrast."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from monai.networks.layers.factories import Conv
from torch import nn
from torch.nn import functional as F

from robustmed_monai.utils.errors import ConfigError

NORMS = ("channel", "voxel")
# Lengths below this are taken for 0, so that a map without content becomes 0 and not noise.
_EPS = 1e-6


def unit_maps(
    features: torch.Tensor, norm: str = "channel", center: bool = True, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Feature maps as flat unit vectors r, float32 whatever the input.

    Args:
        features: (B, C, *spatial).
        norm: "channel", each map is a unit vector over the voxels; "voxel", the channels of each voxel are a
            unit vector, divided by the root of the number N of voxels.
        center: subtract each map's mean over the voxels first. Constant maps, an optimum of the published
            loss, become 0.
        mask: (B, 1, *spatial), not 0 in the voxels that count; None counts all.

    Returns:
        (B, C, N); inner products of two rows lie in [-1, 1].

    Source: the L2 layer of CIFL. Which axis it runs over the paper leaves open; only "channel" gives the
        similarities the range for which its temperatures are made.
    """
    flat = features.float().flatten(2)
    if mask is None:
        count: torch.Tensor | int = flat.shape[2]
        if center:
            flat = flat - flat.mean(2, keepdim=True)
    else:
        inside = (mask != 0).flatten(2).float()
        count = inside.sum(2, keepdim=True).clamp(min=1)
        if center:
            flat = flat - (flat * inside).sum(2, keepdim=True) / count
        flat = flat * inside
    if norm == "channel":
        return F.normalize(flat, dim=2, eps=_EPS)
    return F.normalize(flat, dim=1, eps=_EPS) / count**0.5


class CIFL(nn.Module):
    """Convolutions without pooling, then a normalisation: image to features, for images of any size.

    All layers but the last are followed by LeakyReLU(0.2). There is no normalisation within the network: it
    would mix the contrasts of a batch. Borders are padded with zeros, and a network trained without
    ``CIFLLoss``'s crop writes the position into them.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: C, number of features.
        channels: width of the inner layers.
        depth: number of convolutions, at least 2; ``depth`` voxels around a voxel decide its features.
        norm: "channel" or "voxel", see ``unit_maps``.
        center: subtract each feature's mean over the image.

    Raises:
        ConfigError: for an argument out of range.

    Source: Chua and Dalca, *Contrast Invariant Feature Representations for Segmentation and Registration of
        Medical Images* (CIFL): eight convolutions of kernel 3 and an L2 layer. Width, activation and C are
        ours.

    Example:
        >>> features = CIFL(channels=8)(torch.rand(2, 1, 40, 33))
        >>> features.shape
        torch.Size([2, 16, 40, 33])
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 16,
        channels: int = 64,
        depth: int = 8,
        norm: str = "channel",
        center: bool = True,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ConfigError(f"spatial_dims={spatial_dims}; choose 2 or 3.")
        if depth < 2 or min(in_channels, out_channels, channels) < 1:
            raise ConfigError(
                f"depth={depth}, in_channels={in_channels}, out_channels={out_channels}, channels={channels}"
                "; give at least 2 layers and 1 channel each."
            )
        check_norm(norm)
        self.spatial_dims = spatial_dims
        self.out_channels = out_channels
        self.radius = depth
        self.norm = norm
        self.center = center
        widths = [in_channels, *[channels] * (depth - 1), out_channels]
        convolution = Conv[Conv.CONV, spatial_dims]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [convolution(before, after, 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        self.maps = nn.Sequential(*layers[:-1])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features of a batch.

        Args:
            image: (B, in_channels, *spatial) in [0, 1].

        Returns:
            (B, C, *spatial) float32, centred, with root mean square 1: over each map (norm "channel") or
            over the channels of each voxel (norm "voxel").
        """
        return self.normalize(self.maps(image))

    def normalize(self, maps: torch.Tensor) -> torch.Tensor:
        """What the last layer does to the maps of whole images (B, C, *spatial)."""
        count = math.prod(maps.shape[2:]) * (self.out_channels if self.norm == "voxel" else 1)
        return (unit_maps(maps, self.norm, self.center) * math.sqrt(count)).reshape(maps.shape)


def check_norm(norm: str) -> None:
    """Raise a ConfigError for an unknown norm."""
    if norm not in NORMS:
        raise ConfigError(f"norm={norm!r} is unknown; use 'channel' (over the voxels) or 'voxel'.")
