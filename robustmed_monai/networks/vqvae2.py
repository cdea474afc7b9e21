"""VQVAE-2 with two levels: the comparison of pchVAE that has code books in place of normal distributions."""

from __future__ import annotations

import torch
from monai.networks.layers.vector_quantizer import EMAQuantizer, VectorQuantizer
from torch import nn

from robustmed_monai.networks.pchvae import Components, Parts, Quantized
from robustmed_monai.utils.errors import ImageShapeError


class ResidualBlock(nn.Module):
    """ReLU, 3x3, ReLU, 1x1, added to the input.

    Args:
        channels: width of input and output.
        hidden: width between the convolutions.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, channels, X, Y) to the same shape."""
        out: torch.Tensor = x + self.main(x)
        return out


class Quantizer(nn.Module):
    """MONAI's code book in float32, also inside autocast, and the vectors that it replaced.

    Args:
        size: vectors in the book.
        width: length of a vector.
        decay: of the moving averages that the book learns by.
    """

    def __init__(self, size: int, width: int, decay: float) -> None:
        super().__init__()
        book = EMAQuantizer(2, size, width, decay=decay)
        # As MONAI starts them, a vector that the first batch does not choose flies off (its sum is divided by
        # a count of 0), and most are not chosen: one is shorter than the others. So: short, and counted once.
        nn.init.uniform_(book.embedding.weight, -1 / size, 1 / size)
        book.ema_w.copy_(book.embedding.weight)
        nn.init.ones_(book.ema_cluster_size)
        self.book = VectorQuantizer(book)

    def forward(self, encoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoded vectors (B, width, X, Y) as float32, and the quantized ones with a straight gradient."""
        encoded = encoded.float()
        with torch.autocast(encoded.device.type, enabled=False):
            _, quantized = self.book(encoded)
        return encoded, quantized


class VQVAE2(nn.Module):
    """Image in, reconstruction out; top codes at 1/8 of the size, bottom codes at 1/4.

    Args:
        in_channels: image channels.
        channels: width of the convolutions.
        residual_blocks: residual blocks in each encoder and decoder.
        residual_channels: width inside them.
        book_size: vectors in each code book.
        book_width: length of a vector.
        decay: of the moving averages that the books learn by.

    The defaults are those of the PyTorch version that the pchVAE paper compares with (1 384 769 weights for
    one channel). Its 20 480 code values at 64 pixels cannot be made equal to the VAEs' 512 latents.

    Source: Razavi, van den Oord and Vinyals, arXiv 1906.00446.

    Example:
        >>> network = VQVAE2(channels=8, residual_channels=4, book_size=8, book_width=4)
        >>> network(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 128,
        residual_blocks: int = 2,
        residual_channels: int = 32,
        book_size: int = 512,
        book_width: int = 64,
        decay: float = 0.99,
    ) -> None:
        super().__init__()

        def blocks() -> list[nn.Module]:
            made = [ResidualBlock(channels, residual_channels) for _ in range(residual_blocks)]
            return [*made, nn.ReLU(inplace=True)]

        half, up = channels // 2, nn.ConvTranspose2d
        self.bottom_encoder = nn.Sequential(
            nn.Conv2d(in_channels, half, 4, 2, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, channels, 4, 2, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            *blocks(),
        )
        self.top_encoder = nn.Sequential(
            nn.Conv2d(channels, half, 4, 2, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, channels, 3, padding=1),
            *blocks(),
            nn.Conv2d(channels, book_width, 1),
        )
        self.top_quantizer = Quantizer(book_size, book_width, decay)
        self.top_decoder = nn.Sequential(
            nn.Conv2d(book_width, channels, 3, padding=1), *blocks(), up(channels, book_width, 4, 2, 1)
        )
        self.bottom_code = nn.Conv2d(channels + book_width, book_width, 1)
        self.bottom_quantizer = Quantizer(book_size, book_width, decay)
        self.upsample = up(book_width, book_width, 4, 2, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(2 * book_width, channels, 3, padding=1),
            *blocks(),
            up(channels, half, 4, 2, 1),
            nn.ReLU(inplace=True),
            up(half, in_channels, 4, 2, 1),
        )

    def components(self, image: torch.Tensor) -> Components:
        """Reconstruction and codes of images (B, C, X, Y); there is no high and no low image.

        Raises:
            ImageShapeError: when a side cannot be halved three times.
        """
        if image.ndim != 4 or any(side % 8 or not side for side in image.shape[2:]):
            raise ImageShapeError(
                f"got images of {tuple(image.shape)}; give (B, C, X, Y) with sides that 8 divides."
            )
        return quantized_components(dict(self.named_children()), image)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstruct images (B, C, X, Y)."""
        return self.components(image).total


def quantized_components(parts: Parts, image: torch.Tensor) -> Components:
    """Encode, quantize and decode with the parts of a VQVAE2.

    Args:
        parts: the children of a VQVAE2 by name.
        image: (B, C, X, Y).
    """
    bottom = parts["bottom_encoder"](image)
    top = Quantized(*parts["top_quantizer"](parts["top_encoder"](bottom)))
    decoded = parts["top_decoder"](top.quantized)
    code = parts["bottom_code"](torch.cat([decoded, bottom.to(decoded.dtype)], dim=1))
    fine = Quantized(*parts["bottom_quantizer"](code))
    raised = parts["upsample"](top.quantized)
    total = parts["decoder"](torch.cat([raised, fine.quantized.to(raised.dtype)], dim=1)).float()
    return Components(total, None, None, {"top": top, "bottom": fine})
