"""Images stored the wrong way round: flips and quarter turns, with a header that says so or one that lies."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from robustmed_monai.transforms.corruption.core import Corruption, check_name, sample_nothing
from robustmed_monai.transforms.params import Params

ORIENTATION: tuple[str, ...] = ("flip_x", "flip_y", "flip_z", "turn_90", "turn_180", "turn_270")
_QUARTER_TURNS = ("turn_90", "turn_270")


def orientation(name: str) -> Corruption:
    """A flip along an axis, or a turn in the plane of the first two axes, counter-clockwise as seen.

    Values are moved and none is computed; after a quarter turn X and Y have changed places.

    Args:
        name: one of ``ORIENTATION``; "flip_z" is for volumes.

    Raises:
        ConfigError: for an unknown name.

    Example:
        >>> orientation("flip_z").spatial_dims
        (3,)
    """
    check_name(name, ORIENTATION, "the orientations")
    return Corruption(name, sample_nothing, partial(_oriented, name), (3,) if name == "flip_z" else (2, 3))


def orientation_affine(name: str, affine: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The affine that keeps every voxel where it was in the world, after ``orientation(name)``.

    Args:
        name: one of ``ORIENTATION``.
        affine: (4, 4) of the image as it was.
        shape: (X, Y, Z) of the image.

    Example:
        >>> orientation_affine("flip_x", np.eye(4), (10, 10, 4))[0]
        array([-1.,  0.,  0.,  9.])
    """
    places = np.stack(np.meshgrid(*[np.arange(2.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    # Of one voxel no place says which way it goes.
    sides = np.maximum(shape[:3], 2)
    new_sides = sides[[1, 0, 2]] if name in _QUARTER_TURNS else sides
    # Where the corners of a 2 x 2 x 2 image go says how every index goes.
    corner = torch.arange(8.0).view(1, 1, 2, 2, 2)
    order = _oriented(name, corner, {}).flatten().long().numpy()
    old, moved = places[order] * (sides - 1), places * (new_sides - 1)
    index = np.linalg.lstsq(np.c_[moved, np.ones(8)], np.c_[old, np.ones(8)], rcond=None)[0].T
    index = np.round(index)
    index[:3, 3] = np.where(index[:3, :3].sum(1) < 0, np.array(shape[:3]) - 1, 0)
    result: NDArray[np.float64] = np.asarray(affine, np.float64) @ index
    return result


def _oriented(name: str, images: Tensor, params: Params) -> Tensor:
    kind, _, what = name.partition("_")
    if kind == "flip":
        return images.flip("xyz".index(what) + 2)
    # y points down in pictures: from the first axis against the second is counter-clockwise as seen.
    return images.rot90(int(what) // 90, (3, 2))
