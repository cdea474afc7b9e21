"""What a user's images and classifier mean: range, size, channels and axes; logits or probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from robustmed_monai.transforms.rotation import rotate, to_square
from robustmed_monai.transforms.unit_range import WHITE
from robustmed_monai.utils.errors import ConfigError, ImageShapeError, NonFiniteImageError

Limit = float | Sequence[float]
ValueRange = tuple[Limit, Limit]

AXES = ("XY", "YX")
OUTPUTS = ("logits", "probabilities", "multilabel")
# Rounding may carry a value this share of the range beyond it.
_TOLERANCE = 1e-3


class CheckedImages(NamedTuple):
    """Images as they were given and in [0, 1], both floating and (B, C, X, Y)."""

    given: torch.Tensor
    unit: torch.Tensor
    low: torch.Tensor
    span: torch.Tensor

    def rotated(self, rows: torch.Tensor, index: torch.Tensor, num_rotations: int, mode: str) -> torch.Tensor:
        """Some of the images, each rotated by its own index, in the range and type that were given."""
        if num_rotations == 4:
            return rotate(self.given[rows], index, 4)
        values = rotate(self.unit[rows], index, num_rotations, mode) * self.span + self.low
        return values.to(self.given.dtype)


def check_images(images: torch.Tensor, value_range: ValueRange | None = None) -> CheckedImages:
    """Bring images to [0, 1] where it is known how, and refuse them where it is not.

    Args:
        images: (B, C, X, Y), X and Y equal: floating in ``value_range``, or uint8, uint16 or bool, whose
            white is that of the type.
        value_range: black and white of the images, a number each, or one for each channel; None: 0 and 1.

    Raises:
        ConfigError: when the range or the type of the images is not understood.
        ImageShapeError: when the images are not square or not (B, C, X, Y).
        NonFiniteImageError: when they hold NaN or infinite values.

    Example:
        >>> check_images(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).unit.unique()
        tensor([1.])
        >>> check_images(torch.full((1, 1, 2, 2), -1.0), value_range=(-1, 1)).unit.unique()
        tensor([0.])
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ImageShapeError(
            f"images of shape {tuple(images.shape)}: expected square ones, (B, C, X, Y); pad them to squares."
        )
    if value_range is None and not images.is_floating_point():
        if images.dtype not in WHITE:
            raise ConfigError(
                f"images of {images.dtype}: its white is not known; give value_range=(black, white)."
            )
        images = images.float() / WHITE[images.dtype]
    given = images if images.is_floating_point() else images.float()
    low, high = (_limit(v, given) for v in ((0.0, 1.0) if value_range is None else value_range))
    if not bool((high > low).all()):
        raise ConfigError(f"value_range={value_range}: black must lie below white.")
    unit = (given.float() - low) / (high - low)
    if not bool(torch.isfinite(unit).all()):
        raise NonFiniteImageError("images: hold NaN or infinite values; mask them.")
    if bool((unit < -_TOLERANCE).any()) or bool((unit > 1 + _TOLERANCE).any()):
        raise ConfigError(
            f"images: values from {float(given.min()):.4g} to {float(given.max()):.4g}, expected "
            f"{value_range or '[0, 1]'}; scale them, or give value_range=(black, white), such as (0, 255), "
            "(-1, 1), or for each channel (-mean / std, (1 - mean) / std)."
        )
    return CheckedImages(given, unit.clamp(0, 1), low, high - low)


def for_rotnet(unit: torch.Tensor, rotnet: Any) -> torch.Tensor:
    """Images (B, C, X, Y) in [0, 1] in the size and with the channels that a RotNet was trained on.

    The size is its ``image_size`` (without one images stay as they are), the channels are its ``in_channels``
    or those of its first convolution. Grey and RGB are turned into one another.

    Raises:
        ImageShapeError: when the channels fit in no way.
    """
    channels, expected = unit.shape[1], _in_channels(rotnet)
    if (channels, expected) == (3, 1):
        unit = unit.mean(1, keepdim=True)
    elif (channels, expected) == (1, 3):
        unit = unit.expand(-1, 3, -1, -1)
    elif expected not in (None, channels):
        raise ImageShapeError(
            f"images of {channels} channels, RotNet takes {expected}; give images of as many, grey or RGB."
        )
    size = getattr(rotnet, "image_size", None)
    return to_square(unit, size) if size else unit


def class_probabilities(outputs: Any, kind: str | None = None) -> torch.Tensor:
    """Probabilities of the classes from what a classifier gives.

    Args:
        outputs: (B, classes), of a classifier of two classes also (B, 1).
        kind: "logits" (softmax; sigmoid of a single column), "multilabel" (sigmoid of each), "probabilities"
            (kept), or None: logits, unless all lie in [0, 1] as probabilities do, which is refused.

    Returns:
        (B, classes) float32 in [0, 1].

    Raises:
        ConfigError: when the outputs are no such thing.

    Example:
        >>> class_probabilities(torch.tensor([[0.0, 0.0]]), "logits")
        tensor([[0.5000, 0.5000]])
    """
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2:
        found = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise ConfigError(f"the classifier gives {found}, expected a tensor (B, classes).")
    values = outputs.float()
    within = bool(((values >= -_TOLERANCE) & (values <= 1 + _TOLERANCE)).all())
    if kind == "probabilities" and not within:
        raise ConfigError(
            f"outputs='probabilities': found values from {float(values.min()):.4g} to "
            f"{float(values.max()):.4g}; say outputs='logits' or 'multilabel'."
        )
    # Zeros are what a network gives that knows nothing: its logits.
    if kind is None and within and (values.shape[1] == 1 or bool(values.any())):
        raise ConfigError(
            "the classifier's outputs look like probabilities already; "
            f"say outputs= one of {', '.join(OUTPUTS)}."
        )
    if kind == "probabilities":
        return values
    return values.sigmoid() if kind == "multilabel" or values.shape[1] == 1 else values.softmax(1)


def _limit(value: Limit, images: torch.Tensor) -> torch.Tensor:
    limit = torch.as_tensor(value, dtype=torch.float32, device=images.device).reshape(-1, 1, 1)
    if len(limit) not in (1, images.shape[1]):
        raise ConfigError(
            f"value_range: {len(limit)} limits for {images.shape[1]} channels; give one, or one for each."
        )
    return limit


def _in_channels(rotnet: Any) -> int | None:
    given = getattr(rotnet, "in_channels", None)
    if isinstance(given, int) or not isinstance(rotnet, nn.Module):
        return given if isinstance(given, int) else None
    return next((m.in_channels for m in rotnet.modules() if isinstance(m, nn.Conv2d)), None)
