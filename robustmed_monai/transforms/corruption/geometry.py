"""Geometry and polarity: rotation, and contrast inversion by degrees."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from robustmed_monai.transforms.batch_affine import apply_affine
from robustmed_monai.transforms.corruption.core import (
    Corruption,
    check_name,
    check_severity,
    identity,
    sample_constants,
)
from robustmed_monai.transforms.params import Params, Shape, per_image
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

_DIMS = (2, 3)
_ANGLES = (5.0, 10.0, 20.0, 30.0, 45.0)
_AMOUNTS = (0.2, 0.4, 0.6, 0.8, 1.0)
GEOMETRY: tuple[str, ...] = ("rotation", "contrast_inversion")


def geometry(name: str, severity: int) -> Corruption:
    """A rotation or contrast inversion on the scale 1 to 5.

    Args:
        name: one of ``GEOMETRY``: "rotation" by 5, 10, 20, 30 or 45 degrees, either way;
            "contrast_inversion" by 0.2, 0.4, 0.6, 0.8 or 1 (the negative).
        severity: 1 to 5, or 0 for the identity.

    Raises:
        ConfigError: for an unknown name or severity.

    Example:
        >>> geometry("rotation", 3).name
        'rotation'
    """
    check_name(name, GEOMETRY, "the geometry corruptions")
    check_severity(severity, name)
    if severity == 0:
        return identity(name)
    return (
        rotation(_ANGLES[severity - 1]) if name == "rotation" else contrast_inversion(_AMOUNTS[severity - 1])
    )


def rotation(degrees: float) -> Corruption:
    """Rotate about the centre, to either side by a fair coin; in a volume, about its third axis.

    Multiples of 90 degrees move pixels and compute none. Other angles interpolate linearly, and what comes
    from outside is the nearest border pixel, as MONAI's ``Rotate`` does with ``padding_mode="border"``: black
    corners would be a corruption of their own.

    Args:
        degrees: angle; odd multiples of 90 need X = Y.

    Raises:
        ImageShapeError: when applied by an odd multiple of 90 degrees to images with X != Y.
    """
    turn = partial(_quarter_turns, int(degrees // 90)) if degrees % 90 == 0 else _rotate
    return Corruption("rotation", partial(_sample_angle, degrees), turn, _DIMS)


def _sample_angle(degrees: float, shape: Shape, generator: torch.Generator) -> Params:
    sign = torch.where(torch.rand(shape[0], generator=generator) < 0.5, -1.0, 1.0)
    return {"degrees": sign * degrees}


def _quarter_turns(count: int, images: Tensor, params: Params) -> Tensor:
    if count % 2 and images.shape[2] != images.shape[3]:
        raise ImageShapeError(
            f"rotation: images of shape {tuple(images.shape)} do not fit their own shape after a quarter "
            "turn; crop or pad them to X = Y."
        )
    backward = per_image(params["degrees"], images) * count < 0
    return torch.where(backward, images.rot90(-count, (2, 3)), images.rot90(count, (2, 3)))


def _rotate(images: Tensor, params: Params) -> Tensor:
    shifts = images.new_zeros(len(images), 2)
    return move(images, params["degrees"], shifts, padding="border")


def move(images: Tensor, degrees: Tensor, shifts: Tensor, padding: str) -> Tensor:
    """Rotate images about their centre and shift them along their first two axes, interpolating linearly.

    Args:
        images: (B, C, X, Y[, Z]); every slice of a volume moves alike.
        degrees: (B,) angles, from the first axis towards the second.
        shifts: (B, 2) shifts of the content, as shares of X and Y.
        padding: "border" or "zeros", what lies outside.

    Returns:
        Images of the same shape.
    """
    if not len(images):
        return images.clone()  # affine_grid refuses an empty batch
    if images.ndim == 5:
        slices = images.movedim(4, 2)
        moved = move(slices.flatten(1, 2), degrees, shifts, padding)
        return moved.view(slices.shape).movedim(2, 4)
    angle, shifts = torch.deg2rad(degrees).to(images.dtype), shifts.to(images.dtype)
    cos, sin, ratio = angle.cos(), angle.sin(), images.shape[2] / images.shape[3]
    # The grid asks where an output pixel comes from: unshift, then unrotate. Its first coordinate is Y.
    x, y = 2 * shifts[:, 0], 2 * shifts[:, 1]
    first = torch.stack([cos, -sin * ratio, sin * ratio * x - cos * y], 1)
    second = torch.stack([sin / ratio, cos, -cos * x - sin / ratio * y], 1)
    return apply_affine(images, torch.stack([first, second], 1), padding_mode=padding)


def contrast_inversion(amount: float) -> Corruption:
    """Blend with the negative: (1 - a) x + a (1 - x); the distortion grows with a, up to the negative at 1.

    Args:
        amount: share a of the negative, in [0, 1].

    Raises:
        ConfigError: when the amount is outside [0, 1].
    """
    if not 0 <= amount <= 1:
        raise ConfigError(f"contrast_inversion: amount={amount}; give a share in [0, 1].")
    return Corruption(
        "contrast_inversion", partial(sample_constants, {"amount": amount}), _blend_negative, _DIMS
    )


def _blend_negative(images: Tensor, params: Params) -> Tensor:
    amount = per_image(params["amount"], images)
    return images + amount * (1 - 2 * images)
