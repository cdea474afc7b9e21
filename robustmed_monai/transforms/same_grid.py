"""Images that lie on one grid: all of a dictionary are placed as the first, results as what they are of."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from monai.data import MetaTensor
from torch import Tensor

from robustmed_monai.utils.errors import ImageShapeError


def placed_as_first(
    data: Mapping[Hashable, Any],
    keys: Iterable[tuple[Hashable, Any]],
    place: Callable[[Any], Any],
    apply: Callable[[Any, Any, Any], Any],
) -> dict[Hashable, Any]:
    """Return a copy of ``data`` whose images are all placed where the first of them is.

    Args:
        data: images by key, on one grid.
        keys: their keys, each with its mode of resampling.
        place: the first image to where it lies.
        apply: image, that place and the mode to the result.

    Raises:
        ImageShapeError: for images on grids of different shape.
    """
    result = dict(data)
    where: Any = None
    for key, mode in keys:
        if where is None:
            first, where = key, place(result[key])
        _check_same_shape(data, key, first)
        result[key] = apply(result[key], where, mode)
    return result


def _check_same_shape(data: Mapping[Hashable, Any], key: Hashable, first: Hashable) -> None:
    """Check that an image has the voxels of the first one.

    Raises:
        ImageShapeError: when it has not.
    """
    shape, wanted = (tuple(data[k].shape[1:]) for k in (key, first))
    if shape != wanted:
        raise ImageShapeError(
            f"{image_name(data[key], key)}: {key} of {shape} voxels for an image of {wanted} "
            f"({image_name(data[first], first)}); give one on the image's grid."
        )


def placed_like(values: Tensor, image: Any) -> MetaTensor:
    """Values with the meta data of an image on whose grid they lie; an image without any gives none."""
    placed = MetaTensor(values)
    if isinstance(image, MetaTensor):
        placed.copy_meta_from(image)
    return placed


def image_name(image: Any, other: Hashable) -> str:
    """Path of the file that an image was read from, or its key."""
    return str(getattr(image, "meta", {}).get("filename_or_obj") or other)
