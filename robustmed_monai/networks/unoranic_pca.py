"""unORANIC with straight paths: principal components around a small perceptron, in place of convolutions.

The published encoders and decoders take long to find what a linear map tells at once: 256 principal
components of 28-pixel images already keep more of them than the published codes do. Here every encoder and
decoder is that map plus a perceptron that starts at zero, so training only has to learn what is not linear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustmed_monai.networks.unoranic import UNORANIC
from robustmed_monai.utils.errors import DataError, ImageShapeError

# Parts of ``CorruptionChain``, as the variant's ``gate_head`` was trained to tell them apart.
_GATES = 12


class Perceptron(nn.Module):
    """Two hidden layers with a shortcut around the second; the output starts at zero.

    Args:
        inputs: size of the input.
        outputs: size of the output.
        hidden: size of the hidden layers.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Linear(inputs, hidden), nn.LayerNorm(hidden)
        self.second, self.second_norm = nn.Linear(hidden, hidden), nn.LayerNorm(hidden)
        self.last = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs) to (B, outputs)."""
        y = F.gelu(self.first_norm(self.first(x)))
        out: Tensor = self.last(y + F.gelu(self.second_norm(self.second(y))))
        return out


class ToneCorrection(nn.Module):
    """Undo what one curve for the whole image did: gain, offset, mixed channels, inversion, a folded half.

    A perceptron looks at the image and sets, for each image, a colour matrix for x, one for the part of x
    above the middle grey, and an offset. It starts as the identity.

    Args:
        shape: (C, X, Y) of the images.
        hidden: size of the perceptron's layers.
    """

    def __init__(self, shape: Sequence[int], hidden: int) -> None:
        super().__init__()
        channels = shape[0]
        self.sizes = [channels * channels, channels * channels, channels]
        self.look = Perceptron(math.prod(shape), sum(self.sizes), hidden)
        self.register_buffer("unit", torch.eye(channels), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, X, Y), zero at the middle grey, to the same shape."""
        linear, upper, offset = self.look(x.flatten(1)).split(self.sizes, 1)
        square = (-1, x.shape[1], x.shape[1])
        values = x.flatten(2)
        out: Tensor = (linear.view(square) + self.unit) @ values + upper.view(square) @ values.relu()
        moved: Tensor = out + offset[:, :, None]
        return moved.view(x.shape)


class StraightEncoder(nn.Module):
    """Image to code: a linear map plus a perceptron.

    Args:
        shape: (C, X, Y) of the images.
        latent_size: size of the code.
        hidden: size of the perceptron's layers.
        tone: size of the layers of a ToneCorrection that comes first; 0 for none.
    """

    def __init__(self, shape: Sequence[int], latent_size: int, hidden: int, tone: int = 0) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.tone = ToneCorrection(shape, tone) if tone else nn.Identity()
        self.straight = nn.Linear(math.prod(shape), latent_size)
        self.bent = Perceptron(math.prod(shape), latent_size, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Encode images (B, C, X, Y) in [0, 1] to (B, latent_size)."""
        if x.shape[1:] != self.shape:
            raise ImageShapeError(
                f"the network was built for (B, {', '.join(map(str, self.shape))}) images and got "
                f"{tuple(x.shape)}; resize them, or build it with that in_channels and image_size."
            )
        flat = self.tone(x - 0.5).flatten(1)
        out: Tensor = self.straight(flat) + self.bent(flat)
        return out


class StraightDecoder(nn.Module):
    """Code to image: a linear map plus a perceptron; nothing bounds it.

    Args:
        code_size: size of the code.
        shape: (C, X, Y) of the images.
        hidden: size of the perceptron's layers.
    """

    def __init__(self, code_size: int, shape: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.straight = nn.Linear(code_size, math.prod(shape))
        self.bent = Perceptron(code_size, math.prod(shape), hidden)

    def forward(self, code: Tensor) -> Tensor:
        """Decode (B, code_size) to images (B, C, X, Y), about in [0, 1]."""
        flat: Tensor = self.straight(code) + self.bent(code)
        return flat.view(-1, *self.shape)


class PCAUNORANIC(nn.Module):
    """UNORANIC's parts, methods and code sizes with straight paths; for images of few pixels.

    Args:
        in_channels: image channels.
        image_size: side of the square image in pixels.
        latent_size: size of each of the two codes, 256 as published.
        hidden: size of the perceptrons' layers.
        tone: size of the layers of the anatomy encoder's ToneCorrection; 0 for none.
        gates: corruptions of the training chain that ``gate_head`` tells apart, see UNORANICLoss; 0 for no
            head.

    Example:
        >>> network = PCAUNORANIC(in_channels=3, hidden=16)
        >>> network(torch.zeros(2, 3, 28, 28)).shape, network.anatomy(torch.zeros(2, 3, 28, 28)).shape
        (torch.Size([2, 3, 28, 28]), torch.Size([2, 256]))
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        latent_size: int = 256,
        hidden: int = 1024,
        tone: int = 256,
        gates: int = 0,
    ) -> None:
        super().__init__()
        shape = (in_channels, image_size, image_size)
        self.anatomy_encoder = StraightEncoder(shape, latent_size, hidden, tone)
        self.characteristic_encoder = StraightEncoder(shape, latent_size, hidden)
        self.anatomy_decoder = StraightDecoder(latent_size, shape, hidden)
        self.image_decoder = StraightDecoder(2 * latent_size, shape, hidden)
        if gates:
            self.gate_head = nn.Linear(latent_size, gates)

    @torch.no_grad()
    def start_from(self, images: Tensor, corrupted: Tensor) -> None:
        """Set the straight paths to principal components; to be called once, before training.

        The anatomy's are those of clean images. The full reconstruction starts from the characteristics
        alone, with the components of corrupted images. Codes have unit variance on the images given.

        Args:
            images: clean training images (N, C, X, Y) in [0, 1].
            corrupted: corrupted ones, (M, C, X, Y).

        Raises:
            DataError: when there are fewer images than components.
        """
        _start(self.anatomy_encoder, self.anatomy_decoder, images, 0)
        _start(
            self.characteristic_encoder,
            self.image_decoder,
            corrupted,
            self.anatomy_encoder.straight.out_features,
        )

    def forward(self, image: Tensor) -> Tensor:
        """Anatomy images of (B, C, X, Y) in [0, 1]."""
        out: Tensor = self.anatomy_decoder(self.anatomy_encoder(image))
        return out

    def anatomy(self, image: Tensor) -> Tensor:
        """Anatomy codes (B, latent_size) of images (B, C, X, Y)."""
        out: Tensor = self.anatomy_encoder(image)
        return out

    def characteristics(self, image: Tensor) -> Tensor:
        """Characteristic codes (B, latent_size) of images (B, C, X, Y)."""
        out: Tensor = self.characteristic_encoder(image)
        return out

    def reconstruct(self, image: Tensor) -> Tensor:
        """Full reconstructions of (B, C, X, Y), corruptions included, from both codes."""
        codes = [self.anatomy_encoder(image), self.characteristic_encoder(image)]
        out: Tensor = self.image_decoder(torch.cat(codes, dim=1))
        return out


def unoranic_network(
    info: Mapping[str, Any],
    in_channels: int = 1,
    image_size: int = 28,
    channels: Sequence[int] | None = None,
    activation_slope: float = 1.0,
) -> UNORANIC | PCAUNORANIC:
    """The network that weights belong to, by their ``info``, untrained: the published one or the PCA variant.

    Args:
        info: what is known of the weights; `method` and `hidden` say whether it is the variant, and its size.
        in_channels: image channels.
        image_size: side of the square image in pixels.
        channels: of the published network, see UNORANIC.
        activation_slope: of the published network, see UNORANIC.
    """
    if info.get("method") == "PCA variant":
        return PCAUNORANIC(in_channels, image_size, hidden=info.get("hidden", 1024), gates=_GATES)
    return UNORANIC(in_channels, image_size, channels=channels, activation_slope=activation_slope)


def _start(encoder: StraightEncoder, decoder: StraightDecoder, images: Tensor, place: int) -> None:
    size = encoder.straight.out_features
    flat = images.flatten(1).to(torch.float32) - 0.5
    if len(flat) <= size:
        raise DataError(
            f"{len(flat)} training images for a code of {size} numbers; give more images, or a smaller "
            "network_def#latent_size."
        )
    mean = flat.mean(0)
    _, singular, components = torch.linalg.svd(flat - mean, full_matrices=False)
    # A component that the images do not have would be divided by nothing.
    scale = (singular[:size] / len(flat) ** 0.5).clamp_min(1e-4)[:, None]
    components = components[:size]
    encoder.straight.weight.copy_(components / scale)
    encoder.straight.bias.copy_(-(components / scale) @ mean)
    decoder.straight.weight.zero_()
    decoder.straight.weight[:, place : place + size] = (components * scale).T
    decoder.straight.bias.copy_(mean + 0.5)
