"""unORANIC: two encoders and two decoders that part an image's anatomy from its characteristics."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from robustmed_monai.utils.errors import ConfigError, ImageShapeError

RESIDUAL_SLOPE = 0.01


class ResidualBlock(nn.Module):
    """x + LReLU(BN(conv3(LReLU(BN(conv3(x)))))): the activation comes before the sum, none after it.

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(RESIDUAL_SLOPE, inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(RESIDUAL_SLOPE, inplace=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, X, Y) to the same shape."""
        out: torch.Tensor = x + self.main(x)
        return out


class Encoder(nn.Module):
    """Image to code: a residual block and a convolution of stride 2 per width.

    Args:
        in_channels: image channels.
        image_size: side of the square image in pixels.
        channels: width after each halving; the last one is the size of the code.
        activation_slope: slope of the LeakyReLU after each halving, 1 for none.
    """

    def __init__(
        self, in_channels: int, image_size: int, channels: Sequence[int], activation_slope: float
    ) -> None:
        super().__init__()
        self.shape = (in_channels, image_size, image_size)
        sides = halvings(image_size, len(channels))
        stages: list[nn.Module] = []
        for (a, b), (side, _) in zip(pairwise([in_channels, *channels]), pairwise(sides), strict=True):
            down = nn.Conv2d(a, b, kernel_size(side), stride=2, padding=1, bias=False)
            stages += [ResidualBlock(a), down, nn.BatchNorm2d(b), *_activation(activation_slope)]
        self.stages = nn.Sequential(*stages)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode images (B, C, X, Y) in [0, 1] to (B, channels[-1], side, side), side 1 as published."""
        if x.shape[1:] != self.shape:
            raise ImageShapeError(
                f"the network was built for (B, {', '.join(map(str, self.shape))}) images and got "
                f"{tuple(x.shape)}; resize them, or build it with that in_channels and image_size."
            )
        out: torch.Tensor = self.stages(x)
        return out


class Decoder(nn.Module):
    """Code to image: a transposed convolution of stride 2 and a residual block per width; nothing bounds it.

    Args:
        code_channels: channels of the code.
        out_channels: image channels.
        image_size: side of the square image in pixels.
        channels: the encoder's widths, in the encoder's order.
        activation_slope: slope of the LeakyReLU after each doubling, 1 for none.
    """

    def __init__(
        self,
        code_channels: int,
        out_channels: int,
        image_size: int,
        channels: Sequence[int],
        activation_slope: float,
    ) -> None:
        super().__init__()
        sides = halvings(image_size, len(channels))[-2::-1]
        widths = [code_channels, *channels[-2::-1], out_channels]
        stages: list[nn.Module] = []
        for (a, b), side in zip(pairwise(widths), sides, strict=True):
            up = nn.ConvTranspose2d(a, b, kernel_size(side), stride=2, padding=1, bias=False)
            stages += [up, nn.BatchNorm2d(b), *_activation(activation_slope), ResidualBlock(b)]
        self.stages = nn.Sequential(*stages)

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """Decode (B, code_channels, side, side) to images (B, C, X, Y), about in [0, 1]."""
        out: torch.Tensor = self.stages(code)
        return out


class UNORANIC(nn.Module):
    """An image in, its anatomy image out: the image as it was before it was corrupted.

    ``anatomy_encoder`` (E_A), ``characteristic_encoder`` (E_C), ``anatomy_decoder`` (D_A, from E_A's code)
    and ``image_decoder`` (D, from both codes) are what the objective trains.

    Args:
        in_channels: image channels.
        image_size: side of the square image in pixels; 28 as published.
        channels: width after each halving; the last is the size of each code. Fewer widths than halvings
            (see ``default_channels``) leave a code with a side of more than one pixel. None: the default.
        activation_slope: slope of the LeakyReLU after each halving and doubling. The paper says 0.01; the
            authors' code hands over ``True``, which is 1: no activation; that made the published figures.

    Raises:
        ConfigError: when the size cannot be halved that often.

    Source: Doerrich et al., *unORANIC*, MLMI at MICCAI 2023.

    Example:
        >>> network = UNORANIC(in_channels=3)
        >>> network(torch.zeros(2, 3, 28, 28)).shape, network.anatomy(torch.zeros(2, 3, 28, 28)).shape
        (torch.Size([2, 3, 28, 28]), torch.Size([2, 256]))
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        channels: Sequence[int] | None = None,
        activation_slope: float = 1.0,
    ) -> None:
        super().__init__()
        widths = tuple(channels or default_channels(image_size))
        self.anatomy_encoder = Encoder(in_channels, image_size, widths, activation_slope)
        self.characteristic_encoder = Encoder(in_channels, image_size, widths, activation_slope)
        self.anatomy_decoder = Decoder(widths[-1], in_channels, image_size, widths, activation_slope)
        self.image_decoder = Decoder(2 * widths[-1], in_channels, image_size, widths, activation_slope)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Anatomy images of (B, C, X, Y) in [0, 1]."""
        out: torch.Tensor = self.anatomy_decoder(self.anatomy_encoder(image))
        return out

    def anatomy(self, image: torch.Tensor) -> torch.Tensor:
        """Anatomy codes (B, latent) of images (B, C, X, Y): what does not change under corruptions."""
        return torch.flatten(self.anatomy_encoder(image), 1)

    def characteristics(self, image: torch.Tensor) -> torch.Tensor:
        """Characteristic codes (B, latent) of images (B, C, X, Y): contrast, noise and what else was done."""
        return torch.flatten(self.characteristic_encoder(image), 1)

    def reconstruct(self, image: torch.Tensor) -> torch.Tensor:
        """Full reconstructions of (B, C, X, Y), corruptions included, from both codes."""
        codes = [self.anatomy_encoder(image), self.characteristic_encoder(image)]
        out: torch.Tensor = self.image_decoder(torch.cat(codes, dim=1))
        return out


class AutoEncoder(nn.Module):
    """The control: one of unORANIC's encoders and one of its decoders, with UNORANIC's methods.

    Trained to reproduce corrupted images it is the paper's "AE", trained to undo corruptions a denoising
    auto-encoder. Its one code stands for anatomy and characteristics.

    Args:
        in_channels: image channels.
        image_size: as UNORANIC's.
        channels: as UNORANIC's.
        activation_slope: as UNORANIC's.

    Raises:
        ConfigError: when the size cannot be halved that often.

    Example:
        >>> AutoEncoder()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        channels: Sequence[int] | None = None,
        activation_slope: float = 1.0,
    ) -> None:
        super().__init__()
        widths = tuple(channels or default_channels(image_size))
        self.encoder = Encoder(in_channels, image_size, widths, activation_slope)
        self.decoder = Decoder(widths[-1], in_channels, image_size, widths, activation_slope)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstructions of images (B, C, X, Y) in [0, 1]."""
        out: torch.Tensor = self.decoder(self.encoder(image))
        return out

    def anatomy(self, image: torch.Tensor) -> torch.Tensor:
        """Codes (B, latent) of images (B, C, X, Y)."""
        return torch.flatten(self.encoder(image), 1)

    def characteristics(self, image: torch.Tensor) -> torch.Tensor:
        """The same codes as ``anatomy``: there are no others."""
        return self.anatomy(image)

    def reconstruct(self, image: torch.Tensor) -> torch.Tensor:
        """The same images as ``forward``."""
        out: torch.Tensor = self(image)
        return out


def default_channels(image_size: int) -> tuple[int, ...]:
    """Widths that lead from an image to one pixel of 256 channels.

    28 pixels have the published widths. Other sizes follow the 224-pixel networks of the authors' next
    release: 16, doubling up to 512, and 256 at last.

    Args:
        image_size: side of the square image in pixels, at least 2.

    Returns:
        One width per halving.

    Raises:
        ConfigError: for a size under 2.

    Example:
        >>> default_channels(28), default_channels(64)
        ((32, 64, 128, 256), (16, 32, 64, 128, 256, 256))
        >>> default_channels(224)
        (16, 32, 64, 128, 256, 512, 256)
    """
    if image_size < 2:
        raise ConfigError(f"image_size={image_size}; give at least 2 pixels.")
    if image_size == 28:
        return (32, 64, 128, 256)
    count = image_size.bit_length() - 1
    return (*(min(16 * 2**k, 512) for k in range(count - 1)), 256)


def halvings(image_size: int, count: int) -> list[int]:
    """Sides of an image that is halved ``count`` times, rounding down, itself first.

    Args:
        image_size: side in pixels.
        count: number of halvings, at least 1.

    Raises:
        ConfigError: when less than one pixel is left.

    Example:
        >>> halvings(28, 4)
        [28, 14, 7, 3, 1]
    """
    sides = [image_size >> k for k in range(count + 1)]
    if count < 1 or sides[-1] < 1:
        raise ConfigError(
            f"image_size={image_size} cannot be halved {count} times; give 1 to "
            f"{max(image_size.bit_length() - 1, 1)} channels."
        )
    return sides


def kernel_size(side: int) -> int:
    """Kernel that halves a side (rounding down) with stride 2, padding 1, and doubles it back exactly."""
    return 4 + side % 2


def _activation(slope: float) -> list[nn.Module]:
    return [] if slope == 1 else [nn.LeakyReLU(slope, inplace=True)]
