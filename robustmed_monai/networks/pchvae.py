"""pchVAE, chVAE, High VAE and Low VAE: auto-encoders with a high-level code, a low-level code, or both.

Parts are named by what they do, never by the paper's numbers, which change between its figure and equations:
high is the first component (f_gamma1, g_theta1, code z1 at 1/16 of the size), low the second (f_gamma2,
g_theta2, code z2 at 1/4). Images are (B, C, X, Y) of any range; outputs are linear, since x_low is signed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from robustmed_monai.utils.errors import ConfigError, ImageShapeError

CHANNELS = (64, 128, 128, 256)
SLOPE = 0.01
FIRST_LOGVAR = -4.0
NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "instance": nn.InstanceNorm2d,
    "batch": nn.BatchNorm2d,
}


class Posterior(NamedTuple):
    """A code's normal distribution: ``mean`` and ``logvar``, each (B, C, X, Y)."""

    mean: torch.Tensor
    logvar: torch.Tensor


class Quantized(NamedTuple):
    """A code's vectors before and after they are replaced by their nearest in the book, each (B, C, X, Y)."""

    encoded: torch.Tensor
    quantized: torch.Tensor


class Components(NamedTuple):
    """What an image is made of, as an auto-encoder sees it.

    Attributes:
        total: reconstruction (B, C, X, Y), the sum of what follows.
        high: high-level component, None where a model has no such image.
        low: low-level component, signed where there is a high one; None where a model has no such image.
        codes: "high" and "low" (VQVAE-2: "top" and "bottom") to the code behind it.
    """

    total: torch.Tensor
    high: torch.Tensor | None
    low: torch.Tensor | None
    codes: dict[str, Posterior | Quantized]


Sample = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Parts = Mapping[str, nn.Module]


def posterior_mean(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """Return ``mean``: the code that scores and maps are made of."""
    return mean


def components(parts: Parts, image: torch.Tensor, sample: Sample = posterior_mean) -> Components:
    """Encode and decode with whatever parts there are.

    Args:
        parts: "trunk"; for a high-level code "high_encoder" and "coarse_decoder" (up to 1/4 of the size), and
            "fine_decoder" for its own image; for a low-level code "low_encoder" and "low_decoder". With both,
            the low ones are given the coarse decoder's output beside their own input (the condition on z1).
        image: (B, C, X, Y).
        sample: function of (mean, logvar) that gives the code.

    Returns:
        The components; x_sum = x_high + x_low.
    """
    features = parts["trunk"](image)
    codes: dict[str, Posterior | Quantized] = {}
    coarse = z_low = None
    if "high_encoder" in parts:
        codes["high"] = high = Posterior(*parts["high_encoder"](features).chunk(2, dim=1))
        coarse = parts["coarse_decoder"](sample(*high))
    if "low_encoder" in parts:
        codes["low"] = low = Posterior(*parts["low_encoder"](_beside(features, coarse)).chunk(2, dim=1))
        z_low = sample(*low)
    return Components(*decode(parts, coarse, z_low), codes)


def decode(
    parts: Parts, coarse: torch.Tensor | None, z_low: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Images of codes.

    Args:
        parts: see ``components``.
        coarse: output of "coarse_decoder" for z_high, None without a high-level code.
        z_low: low-level code, None without.

    Returns:
        x_sum, x_high, x_low.

    Raises:
        ConfigError: when the parts draw no image.
    """
    high = parts["fine_decoder"](coarse) if "fine_decoder" in parts else None
    low = parts["low_decoder"](_beside(z_low, coarse)) if z_low is not None else None
    drawn = [image.float() for image in (high, low) if image is not None]
    if not drawn:
        raise ConfigError(f"parts {sorted(parts)} draw no image; add 'fine_decoder' or 'low_decoder'.")
    return torch.stack(drawn).sum(0), high, low


class HierarchicalVAE(nn.Module):
    """An auto-encoder of the family as one network: an image in, its reconstruction x_sum out.

    Args:
        parts: see ``components``.

    Source: Zimmerer, Petersen and Maier-Hein, arXiv 1911.12161; layers where it names none: own choice.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def components(self, image: torch.Tensor, sample: Sample = posterior_mean) -> Components:
        """Components of images (B, C, X, Y).

        Raises:
            ImageShapeError: when a side cannot be halved as often as needed.
        """
        parts = dict(self.named_children())
        multiple = 16 if "high_encoder" in parts else 4
        if image.ndim != 4 or any(side % multiple or not side for side in image.shape[2:]):
            raise ImageShapeError(
                f"got images of {tuple(image.shape)}; give (B, C, X, Y) with sides that {multiple} divides."
            )
        return components(parts, image, sample)

    def decode(self, z_high: torch.Tensor | None, z_low: torch.Tensor | None) -> torch.Tensor:
        """Image x_sum of codes, for samples and traversals; None for a code that the model lacks."""
        parts = dict(self.named_children())
        coarse = None if z_high is None else parts["coarse_decoder"](z_high)
        return decode(parts, coarse, z_low)[0]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstruct images (B, C, X, Y) from the means of their codes."""
        return self.components(image).total


def pchvae(
    in_channels: int = 1,
    channels: Sequence[int] = CHANNELS,
    high_channels: int = 16,
    low_channels: int = 1,
    low_width: int | None = None,
    norm: str = "none",
) -> HierarchicalVAE:
    """pchVAE: both codes, an image of each; the low one is given the high one.

    Args:
        in_channels: image channels.
        channels: width after each halving.
        high_channels: channels of z1, at 1/16 of the size.
        low_channels: channels of z2, at 1/4 of the size. 16 and 1 share 512 latents evenly at 64 pixels.
        low_width: width of the low encoder and decoder at 1/4 of the size; None takes ``channels[1]``.
        norm: "none", "instance" or "batch".

    Raises:
        ConfigError: for an unknown norm or other than four widths.

    Example:
        >>> pchvae(channels=(4, 8, 8, 8), high_channels=2)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 1, 32, 32])
    """
    wide = low_width or channels[1]
    fine = {"fine_decoder": _fine_decoder(in_channels, channels[:2], norm)}
    high = _high_parts(in_channels, channels, high_channels, norm)
    return HierarchicalVAE({**high, **fine, **_low_parts(in_channels, channels, low_channels, wide, norm)})


def chvae(
    in_channels: int = 1,
    channels: Sequence[int] = CHANNELS,
    high_channels: int = 16,
    low_channels: int = 1,
    low_width: int | None = 160,
    norm: str = "none",
) -> HierarchicalVAE:
    """chVAE: both codes, one image; pchVAE without the image of the high code and without the zero term.

    Args:
        in_channels: see ``pchvae``, as the other arguments.
        channels: see there.
        high_channels: see there.
        low_channels: see there.
        low_width: 160 makes up for the missing decoder, so that it has no fewer parameters than pchVAE.
        norm: see there.
    """
    wide = low_width or channels[1]
    high = _high_parts(in_channels, channels, high_channels, norm)
    return HierarchicalVAE({**high, **_low_parts(in_channels, channels, low_channels, wide, norm)})


def high_vae(
    in_channels: int = 1,
    channels: Sequence[int] = (64, 144, 144, 288),
    high_channels: int = 32,
    norm: str = "none",
) -> HierarchicalVAE:
    """High VAE: a plain VAE with its code at 1/16 of the size, as many latents and weights as pchVAE.

    Args:
        in_channels: see ``pchvae``, as the other arguments.
        channels: see there.
        high_channels: see there.
        norm: see there.
    """
    fine = {"fine_decoder": _fine_decoder(in_channels, channels[:2], norm)}
    return HierarchicalVAE({**_high_parts(in_channels, channels, high_channels, norm), **fine})


def low_vae(
    in_channels: int = 1,
    channels: Sequence[int] = (64, 256),
    low_channels: int = 2,
    depth: int = 2,
    norm: str = "none",
) -> HierarchicalVAE:
    """Low VAE: a plain VAE with its code at 1/4 of the size, as many latents and weights as pchVAE.

    Args:
        in_channels: image channels.
        channels: width after each of the two halvings.
        low_channels: channels of the code.
        depth: 3x3 convolutions at 1/4 of the size before the code and after it.
        norm: see ``pchvae``.
    """
    wide = channels[1]
    more = [[_conv(wide, wide, norm) for _ in range(depth)] for _ in range(2)]
    encoder = nn.Sequential(*more[0], _posterior(wide, low_channels))
    decoder = nn.Sequential(
        _conv(low_channels, wide, norm), *more[1], _fine_decoder(in_channels, channels, norm)
    )
    trunk = _trunk(in_channels, channels, norm)
    return HierarchicalVAE({"trunk": trunk, "low_encoder": encoder, "low_decoder": decoder})


def _high_parts(
    in_channels: int, channels: Sequence[int], high_channels: int, norm: str
) -> dict[str, nn.Module]:
    if len(channels) != 4:
        raise ConfigError(f"channels={list(channels)}: give four widths, one for each halving.")
    _, quarter, eighth, wide = channels
    return {
        "trunk": _trunk(in_channels, channels[:2], norm),
        "high_encoder": nn.Sequential(
            _down(quarter, eighth, norm),
            _down(eighth, wide, norm),
            _posterior(wide, high_channels),
        ),
        "coarse_decoder": nn.Sequential(
            _conv(high_channels, wide, norm), _up(wide, eighth, norm), _up(eighth, quarter, norm)
        ),
    }


def _low_parts(
    in_channels: int, channels: Sequence[int], low_channels: int, wide: int, norm: str
) -> dict[str, nn.Module]:
    half, quarter = channels[:2]
    return {
        "low_encoder": nn.Sequential(_conv(2 * quarter, wide, norm), _posterior(wide, low_channels)),
        "low_decoder": nn.Sequential(
            _conv(low_channels + quarter, wide, norm), _fine_decoder(in_channels, (half, wide), norm)
        ),
    }


def _trunk(in_channels: int, channels: Sequence[int], norm: str) -> nn.Module:
    return nn.Sequential(_down(in_channels, channels[0], norm), _down(channels[0], channels[1], norm))


def _fine_decoder(out_channels: int, channels: Sequence[int], norm: str) -> nn.Module:
    last = nn.ConvTranspose2d(channels[0], out_channels, 4, 2, 1)
    return nn.Sequential(_up(channels[1], channels[0], norm), last)


def _down(before: int, after: int, norm: str) -> nn.Module:
    return _finished(nn.Conv2d(before, after, 4, 2, 1), after, norm)


def _up(before: int, after: int, norm: str) -> nn.Module:
    return _finished(nn.ConvTranspose2d(before, after, 4, 2, 1), after, norm)


def _conv(before: int, after: int, norm: str) -> nn.Module:
    return _finished(nn.Conv2d(before, after, 3, padding=1), after, norm)


def _posterior(before: int, code_channels: int) -> nn.Module:
    """Layer that gives mean and log-variance; it starts with sharp codes.

    A code that starts as noise is soon ignored by its decoder, and then never used (posterior collapse).
    """
    layer = nn.Conv2d(before, 2 * code_channels, 3, padding=1)
    weight, bias = layer.weight, layer.get_parameter("bias")
    nn.init.kaiming_normal_(weight[:code_channels], nonlinearity="linear")
    nn.init.zeros_(weight[code_channels:])
    nn.init.zeros_(bias[:code_channels])
    nn.init.constant_(bias[code_channels:], FIRST_LOGVAR)
    return layer


def _finished(layer: nn.Conv2d | nn.ConvTranspose2d, width: int, norm: str) -> nn.Module:
    if norm not in NORMS:
        raise ConfigError(f"norm={norm!r} is unknown; use one of {list(NORMS)}.")
    make = NORMS[norm]
    # Torch's own start halves the signal from layer to layer: without norms, deep parts would learn nothing.
    nn.init.kaiming_normal_(layer.weight, SLOPE)
    nn.init.zeros_(layer.get_parameter("bias"))
    return nn.Sequential(layer, *([make(width)] if make else []), nn.LeakyReLU(SLOPE, inplace=True))


def _beside(first: torch.Tensor | None, coarse: torch.Tensor | None) -> torch.Tensor | None:
    if first is None or coarse is None:
        return first
    return torch.cat([first.to(coarse.dtype), coarse], dim=1)
