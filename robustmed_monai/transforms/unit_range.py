"""What takes images in [0, 1] takes them here: converted where it is known how, refused where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustmed_monai.utils.errors import ImageError, NonFiniteImageError

# White of the types that have one.
WHITE = {torch.uint8: 255, torch.uint16: 65535, torch.bool: 1}
_OVERSHOOT = 1e-3  # beyond [0, 1], what interpolation and rounding leave; it is clipped


def unit_range(images: Tensor, name: str) -> Tensor:
    """Return images as a plain tensor, floating and in [0, 1].

    Args:
        images: any shape: floating (half types too) in [0, 1], or uint8, uint16 or bool, which are divided by
            the white of their type.
        name: what they are for, for messages.

    Returns:
        float32 for whole numbers, else the type of the images.

    Raises:
        ImageError: for other types, and for values that leave [0, 1]: clipped to it they would be white.
        NonFiniteImageError: for NaN and infinite values.

    Example:
        >>> unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8), "example")
        tensor([0.0000, 0.2000, 1.0000])
        >>> unit_range(torch.tensor([-1024.0, 300.0]), "example")
        Traceback (most recent call last):
        robustmed_monai.utils.errors.ImageError: example: values from -1024 to 300; give images in [0, 1], \
such as MONAI's ScaleIntensityRange or ScaleIntensity makes.
    """
    plain = images.as_subclass(Tensor)  # MetaTensor bookkeeping would cost more than most of what follows
    if plain.dtype in WHITE:
        return plain.to(torch.float32) / WHITE[plain.dtype]
    if not plain.is_floating_point():
        raise ImageError(
            f"{name}: images are {plain.dtype}, whose white is not known; give floating ones in [0, 1], or "
            "uint8."
        )
    if not plain.numel():
        return plain
    low, high = torch.stack(plain.aminmax()).tolist()
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise NonFiniteImageError(f"{name}: the images hold NaN or infinite values; mask or replace them.")
    slack = max(_OVERSHOOT, torch.finfo(plain.dtype).eps)
    if not (low >= -slack and high <= 1 + slack):
        raise ImageError(
            f"{name}: values from {low:.4g} to {high:.4g}; give images in [0, 1], such as MONAI's "
            "ScaleIntensityRange or ScaleIntensity makes."
        )
    return plain if low >= 0 and high <= 1 else plain.clamp(0, 1)


def unit_array(image: Any, name: str) -> NDArray[np.float32]:
    """``unit_range`` of an array or tensor, as a float32 array.

    Raises:
        ImageError: as ``unit_range``.
    """
    tensor = image.detach().cpu() if isinstance(image, Tensor) else torch.as_tensor(image)
    array: NDArray[np.float32] = unit_range(tensor, name).float().numpy()
    return array
