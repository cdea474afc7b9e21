"""What sources with tissue labels share: numbers (0 background, 1 CSF, 2 grey, 3 white matter), sizes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustmed_monai.data_prep.pixels import Array
from robustmed_monai.utils.errors import ConfigError, DataError


def renumber(values: Array, numbers: Mapping[int, int], file: str) -> NDArray[np.uint8]:
    """Replace the numbers of a label map; numbers that are not in ``numbers`` become 0.

    Args:
        values: label map of any shape.
        numbers: old to new number.
        file: named when the map cannot be used.

    Raises:
        DataError: when the values are not whole numbers in 0 to 65535, or nothing of it has a new number.

    >>> renumber(np.asarray([0, 85, 7], dtype=np.float32), {85: 1}, "labels.png").tolist()
    [0, 1, 0]
    """
    if values.size == 0 or values.min() < 0 or values.max() > 65535 or (values % 1 != 0).any():
        raise DataError(f"{file}: holds values that are no labels; give the label map of the image.")
    table = np.zeros(65536, dtype=np.uint8)
    for old, new in numbers.items():
        table[old] = new
    found: NDArray[np.uint8] = table[values.astype(np.int64)]
    if not found.any():
        raise DataError(f"{file}: has none of the labels {sorted(numbers)}; is it the right segmentation?")
    return found


def shrink(pixels: Array, size: int | None) -> Array:
    """Average the pixels of an image (X, Y) in [0, 1] over areas, to ``size`` x ``size``; None keeps it."""
    return pixels if size is None else _resized(pixels, size, Image.Resampling.BOX)


def shrink_labels(labels: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    """Take the nearest label, to ``size`` x ``size``; None keeps the map (X, Y)."""
    if size is None:
        return labels
    return _resized(labels.astype(np.float32), size, Image.Resampling.NEAREST).astype(np.uint8)


def check_size(size: int | None) -> None:
    """Refuse a side below 8 pixels."""
    if size is not None and size < 8:
        raise ConfigError(f"size: got {size}; give a side of at least 8 pixels.")


def _resized(pixels: Array, size: int, how: Image.Resampling) -> Array:
    if pixels.shape[0] != pixels.shape[1]:
        raise DataError(f"the image has {pixels.shape} pixels; only square ones are resized.")
    picture = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    return np.array(picture.resize((size, size), how), dtype=np.float32)
