"""Encoder and decoder of RA (reversed auto-encoder), without skip connections."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from robustmed_monai.utils.errors import ConfigError, ImageShapeError

SLOPE = 0.2


class Encoding(NamedTuple):
    """What the encoder says: ``mu`` and ``logvar`` (B, latent_size), ``embeddings`` one map per pool."""

    mu: torch.Tensor
    logvar: torch.Tensor
    embeddings: list[torch.Tensor]


class ChannelAffine(nn.Module):
    """A learnable gain and offset per channel: BatchNorm whose statistics stay at mean 0, variance 1.

    The authors' published figures come from networks whose BatchNorm layers were in evaluation mode during
    the whole training, so they never normalised anything. Named like BatchNorm's parameters, so state dicts
    fit both.

    Args:
        channels: number of channels C of the (B, C, X, Y) input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale and shift each channel of ``x`` (B, C, X, Y)."""
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "affine":
        return ChannelAffine(channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    raise ConfigError(
        f"norm={kind!r} is unknown; use 'affine' (published figures) or 'batch' (published text)."
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norms beside a skip; LeakyReLU(0.2) after the sum.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; the skip is a 1x1 convolution only when they differ.
        norm: "affine" or "batch".
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            _norm(norm, out_channels),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            _norm(norm, out_channels),
        )
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, X, Y) to (B, out_channels, X, Y)."""
        out: torch.Tensor = self.act(self.main(x) + self.skip(x))
        return out


class RAEncoder(nn.Module):
    """Image to posterior and to the multi-scale embeddings that the reversed loss compares.

    Args:
        in_channels: image channels.
        image_size: side of the square image in pixels, a multiple of ``2 ** len(channels)``.
        channels: width after each 2x pooling.
        latent_size: dimension of the latent vector (zdim).
        norm: "affine" or "batch".
    """

    def __init__(
        self, in_channels: int, image_size: int, channels: Sequence[int], latent_size: int, norm: str
    ) -> None:
        super().__init__()
        self.image_size = image_size
        side = bottleneck_side(image_size, channels)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels[0], 5, padding=2, bias=False),
            _norm(norm, channels[0]),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.AvgPool2d(2),
        )
        pairs = pairwise(channels)
        self.stages = nn.ModuleList(
            nn.Sequential(ResidualBlock(a, b, norm), nn.AvgPool2d(2)) for a, b in pairs
        )
        self.last = ResidualBlock(channels[-1], channels[-1], norm)
        self.head = nn.Linear(channels[-1] * side * side, 2 * latent_size)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the embeddings of ``x`` (B, C, X, Y): one per pool, (B, channels[k], X / 2^(k+1), ...)."""
        if x.ndim != 4 or x.shape[-2:] != (self.image_size, self.image_size):
            raise ImageShapeError(
                f"RA was built for (B, C, {self.image_size}, {self.image_size}) images and got "
                f"{tuple(x.shape)}; "
                "resize the images or build the network with that image_size."
            )
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps

    def forward(self, x: torch.Tensor) -> Encoding:
        """Encode images (B, C, X, Y) in [0, 1]."""
        embeddings = self.features(x)
        mu, logvar = self.head(self.last(embeddings[-1]).flatten(1)).chunk(2, dim=1)
        return Encoding(mu, logvar, embeddings)


class RADecoder(nn.Module):
    """Latent vector to image in (0, 1).

    Args:
        out_channels: image channels.
        image_size: side of the square image in pixels.
        channels: the encoder's widths, in the encoder's order.
        latent_size: dimension of the latent vector.
        norm: "affine" or "batch".
    """

    def __init__(
        self, out_channels: int, image_size: int, channels: Sequence[int], latent_size: int, norm: str
    ) -> None:
        super().__init__()
        side = bottleneck_side(image_size, channels)
        self.start = (channels[-1], side, side)
        self.fc = nn.Sequential(nn.Linear(latent_size, channels[-1] * side * side), nn.ReLU(inplace=True))
        widths = list(channels[::-1])
        stages: list[nn.Module] = []
        for a, b in zip([widths[0], *widths[:-1]], widths, strict=True):
            stages += [ResidualBlock(a, b, norm), nn.Upsample(scale_factor=2, mode="nearest")]
        self.stages = nn.Sequential(*stages, ResidualBlock(widths[-1], widths[-1], norm))
        self.out = nn.Conv2d(widths[-1], out_channels, 5, padding=2)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Decode latents (B, latent_size) to images (B, C, X, Y) in (0, 1)."""
        return torch.sigmoid(self.out(self.stages(self.fc(z).view(-1, *self.start))))


class ReversedAutoEncoder(nn.Module):
    """RA as one network: an image in, its pseudo-healthy reconstruction out.

    Args:
        in_channels: image channels.
        image_size: side of the square image in pixels, a multiple of ``2 ** len(channels)``.
        channels: width after each 2x pooling; the default of None takes the published widths of
            ``image_size``.
        latent_size: dimension of the latent vector (zdim; 128 as published).
        norm: "affine" (what produced the published figures) or "batch" (what the papers describe).

    Raises:
        ConfigError: when the size does not fit the number of widths, or ``norm`` is unknown.

    Source: Bercea et al., MIDL 2023 and arXiv 2401.10637; network of Soft-IntroVAE (Daniel & Tamar, CVPR
        2021).

    Example:
        >>> network = ReversedAutoEncoder(image_size=32, channels=(4, 8, 8), latent_size=16)
        >>> network(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 1, 32, 32])
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 128,
        channels: Sequence[int] | None = None,
        latent_size: int = 128,
        norm: str = "affine",
    ) -> None:
        super().__init__()
        widths = tuple(channels) if channels else published_channels(image_size)
        self.latent_size = latent_size
        self.encoder = RAEncoder(in_channels, image_size, widths, latent_size, norm)
        self.decoder = RADecoder(in_channels, image_size, widths, latent_size, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruct images (B, C, X, Y) in [0, 1] from their posterior mean."""
        out: torch.Tensor = self.decoder(self.encoder(x).mu)
        return out


def published_channels(image_size: int) -> tuple[int, ...]:
    """Widths for an image size: one pooling per entry, so that the last map is 4x4 (Soft-IntroVAE's rule).

    Args:
        image_size: 32, 64, 128 or 256 pixels.

    Returns:
        Channels per pooling.

    Raises:
        ConfigError: for other sizes.

    Example:
        >>> published_channels(128)
        (64, 128, 256, 512, 512)
    """
    rule = {32: (64, 128, 256), 64: (64, 128, 256, 512), 128: (64, 128, 256, 512, 512)}
    rule[256] = (64, 128, 256, 512, 512, 512)
    if image_size not in rule:
        raise ConfigError(
            f"no published widths for image_size={image_size}; use one of {sorted(rule)} or name channels."
        )
    return rule[image_size]


def bottleneck_side(image_size: int, channels: Sequence[int]) -> int:
    """Side of the last feature map; raises ConfigError when the size cannot be halved that often."""
    factor: int = 2 ** len(channels)
    side, rest = divmod(image_size, factor)
    if rest or side < 1:
        raise ConfigError(
            f"image_size={image_size} cannot be halved {len(channels)} times (channels={tuple(channels)}); "
            f"use a multiple of {factor} or other channels."
        )
    return side
