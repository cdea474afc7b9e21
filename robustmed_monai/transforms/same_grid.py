"""Images that lie on one grid: all of a dictionary are placed as the first, masks as their image."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping
from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils.enums import MetaKeys
from monai.utils.misc import ImageMetaKey
from numpy.typing import NDArray
from torch import Tensor

from robustmed_monai.transforms.image_checks import GeometryWarning
from robustmed_monai.transforms.image_readers.picture import PICTURE_SUFFIXES
from robustmed_monai.utils.errors import ImageShapeError

# Share of a voxel by which the headers of an image and its mask may differ.
_HALF = 0.5


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
        result[key] = apply(on_grid_of(data[first], data[key], first, key), where, mode)
    return result


def on_grid_of(image: Any, other: Any, name: Hashable = "image", key: Hashable = "label") -> Any:
    """A mask or label voxel by voxel on the grid of its image.

    Where both tell how they lie, axes that run otherwise are turned, if then all voxels meet. A place that
    differs all the same is warned of, and the image's is taken: masks are often saved without a header.

    Args:
        image: (C, X, Y[, Z]).
        other: mask or label of it.
        name: what the image is called where it comes from no file.
        key: what the other one is.

    Returns:
        (C, X, Y[, Z]) of ``other``, with the affine of the image where both have one.

    Raises:
        ImageShapeError: when it has other voxels than the image.
    """
    sized = other is not image and has_voxel_size(image) and has_voxel_size(other)
    placed = _turned(other, image) if sized else other
    shape, wanted = tuple(placed.shape[1:]), tuple(image.shape[1:])
    if shape != wanted:
        raise ImageShapeError(
            f"{image_name(other, key)}: {key} of {shape} voxels for an image of {wanted} "
            f"({image_name(image, name)}); give one on the image's grid."
        )
    if not sized:
        return placed
    if not _meet(placed, image):
        warnings.warn(
            f"{image_name(other, key)}: its header places the {key} elsewhere than the image "
            f"({image_name(image, name)}), by up to {_apart(placed, image):.1f} mm; it is taken to lie on "
            "the image's voxels.",
            GeometryWarning,
            stacklevel=3,
        )
    placed = placed.clone()
    placed.affine = image.affine
    return placed


def _turned(other: MetaTensor, image: MetaTensor) -> MetaTensor:
    """The other image with its axes as those of the image run, if its voxels then meet the image's."""
    if _meet(other, image):
        return other
    axes = image.ndim - 1
    own, wanted = (nib.orientations.io_orientation(i.affine.double().cpu().numpy()) for i in (other, image))
    turn = nib.orientations.ornt_transform(own, wanted)
    if other.ndim != image.ndim or set(turn[:axes, 0]) != set(range(axes)):
        return other
    order = [int(axis) + 1 for axis in np.argsort(turn[:axes, 0])]
    flips = [axis + 1 for axis in range(axes) if turn[axis, 1] < 0]
    turned = placed_like(other.as_tensor().flip(flips).permute(0, *order), other)
    back = nib.orientations.inv_ornt_aff(turn, (*other.shape[1:], 1)[:3])
    turned.affine = other.affine.double() @ torch.from_numpy(back).to(other.affine.device)
    return turned if _meet(turned, image) else other


def _meet(other: MetaTensor, image: MetaTensor) -> bool:
    """Whether the voxels of two images lie on each other, to half a voxel."""
    voxel = float(image.affine[:3, :3].double().norm(dim=0).min())
    return other.shape[1:] == image.shape[1:] and _apart(other, image) <= _HALF * voxel


def _apart(other: MetaTensor, image: MetaTensor) -> float:
    """Largest distance in mm between the places of a corner voxel by two headers."""
    ends = [(0.0, side - 1.0) for side in (*image.shape[1:], 1)[:3]]
    corners: NDArray[np.float64] = np.array([(*corner, 1.0) for corner in product(*ends)])
    step = (other.affine.double() - image.affine.double()).cpu().numpy()[:3]
    return float(np.linalg.norm(corners @ step.T, axis=1).max())


def has_voxel_size(image: Any) -> bool:
    """Whether an image says how large its voxels are: a volume with an affine, or a slice whose file has one.

    Pictures and stacks of them have pixels, but nobody knows of what size; so have X-rays.
    """
    if not isinstance(image, MetaTensor):
        return False
    file = str(image.meta.get(ImageMetaKey.FILENAME_OR_OBJ) or "").lower()
    told = image.ndim == 4 or (bool(file) and MetaKeys.ORIGINAL_AFFINE in image.meta)
    return told and not file.endswith(PICTURE_SUFFIXES)


def placed_like(values: Tensor, image: Any) -> MetaTensor:
    """Values with the meta data of an image on whose grid they lie; an image without any gives none."""
    placed = MetaTensor(values)
    if isinstance(image, MetaTensor):
        placed.copy_meta_from(image)
    return placed


def image_name(image: Any, other: Hashable) -> str:
    """Path of the file that an image was read from, or its key."""
    return str(getattr(image, "meta", {}).get("filename_or_obj") or other)
