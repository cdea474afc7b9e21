"""Results go out on the grid of the image they were made from; files are written atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor
from monai.utils import MetaKeys
from PIL import Image
from torch import Tensor

from robustmed_monai.transforms.image_checks import Array, check_affine, check_finite
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.utils.errors import ConfigError, ImageError, ImageShapeError
from robustmed_monai.utils.files import atomic_path

# Header fields that say where the voxels lie; they are written as the source had them.
_GEOMETRY_FIELDS = (
    "sform_code",
    "qform_code",
    "srow_x",
    "srow_y",
    "srow_z",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "xyzt_units",
)
_PNG_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


def write_like(
    array: NdarrayOrTensor,
    source: str | os.PathLike[str] | Mapping[Any, Any],
    path: str | os.PathLike[str],
    dtype: npt.DTypeLike = np.float32,
) -> Path:
    """Write an array that lies on the grid of a source image.

    The suffix of ``path`` decides the type. NIfTI gets the affine and shape of the source, and from a NIfTI
    source the sform, the qform and their codes field by field; other sources give their affine as sform. In a
    PNG, [0, 1] becomes the full range of ``dtype`` (values outside are clipped, a PNG cannot hold them).

    Args:
        array: (X, Y[, Z]) or (C, X, Y[, Z]), axes of the source file; several channels become the fourth axis
            of a NIfTI.
        source: path of the source image, or ``meta`` of the ``MetaTensor`` that ``LoadCheckedImage`` gave.
        path: ``.nii``, ``.nii.gz`` or, for 2-D sources, ``.png``; an existing file is replaced whole or
            not at all.
        dtype: voxel type; a whole-number type needs values that it can hold. PNG: uint8 or uint16, float32
            means uint8.

    Returns:
        ``path``.

    Raises:
        ImageShapeError: the array does not fit the source.
        NonFiniteImageError: the array holds NaN or infinite values.
        ImageError: the values do not fit ``dtype``, or the source cannot be read.
        ConfigError: unknown suffix or type.
    """
    final = Path(path)
    meta = source if isinstance(source, Mapping) else LoadCheckedImage(on_nonfinite="replace")(source).meta
    values = _on_grid(array, meta, final)
    check_finite(values, f"array for {final}")
    name = final.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        image = _nifti(values, meta, np.dtype(dtype), final)
        with atomic_path(final) as temporary:
            nib.save(image, temporary)
    elif name.endswith(".png"):
        picture = _picture(values, np.dtype(dtype), final)
        with atomic_path(final) as temporary:
            picture.save(temporary, format="PNG")
    else:
        raise ConfigError(f"{final}: results are written as .nii, .nii.gz or .png; change the suffix.")
    return final


def _on_grid(array: NdarrayOrTensor, meta: Mapping[Any, Any], path: Path) -> Array:
    """Return the values channel-last (X, Y[, Z][, C]) after checking them against the source's shape."""
    if isinstance(array, MetaTensor):
        array = array.as_tensor()
    values = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    if values.dtype.kind not in "biuf":
        raise ImageShapeError(f"array for {path}: values of type {values.dtype}, expected real numbers.")
    if MetaKeys.SPATIAL_SHAPE not in meta:
        raise ImageShapeError(
            f"source for {path}: the meta data have no spatial_shape; pass the path of the source."
        )
    shape = tuple(int(size) for size in np.asarray(meta[MetaKeys.SPATIAL_SHAPE]))
    if values.shape == shape:
        return values
    if values.shape[1:] != shape or values.ndim != len(shape) + 1:
        raise ImageShapeError(
            f"array for {path}: shape {values.shape} does not fit the source, expected {shape} or (C, "
            f"{', '.join(map(str, shape))}); bring the array back to the source's grid first."
        )
    return values[0] if values.shape[0] == 1 else np.moveaxis(values, 0, -1)


def _nifti(values: Array, meta: Mapping[Any, Any], dtype: np.dtype[Any], path: Path) -> Any:
    spatial = len(np.asarray(meta[MetaKeys.SPATIAL_SHAPE]))
    if spatial == 2 and values.ndim == 3:
        # The third axis of a NIfTI is a direction in space; channels are the fourth.
        values = values[:, :, None]
    voxels = _cast(values, dtype, path)
    big = int(meta.get("sizeof_hdr", 348)) == 540 or max(voxels.shape) > np.iinfo(np.int16).max
    image_class: Any = nib.Nifti2Image if big else nib.Nifti1Image
    try:
        if "sform_code" not in meta:
            affine = check_affine(np.asarray(meta.get(MetaKeys.ORIGINAL_AFFINE, np.eye(4))), path)
            return image_class(voxels, affine, dtype=dtype)
        header = image_class.header_class()
        header.set_data_dtype(dtype)
        for field in _GEOMETRY_FIELDS:
            header[field] = np.asarray(meta[field])
        header["pixdim"][:4] = np.asarray(meta["original_pixdim"])[:4]
        return image_class(voxels, None, header)
    except nib.spatialimages.HeaderDataError as error:
        raise ConfigError(
            f"{path}: NIfTI has no voxel type {dtype} ({error}); choose another dtype."
        ) from error


def _cast(values: Array, dtype: np.dtype[Any], path: Path) -> Array:
    if dtype.kind == "f":
        return values.astype(dtype)
    if dtype.kind not in "iu":
        raise ConfigError(f"{path}: voxel type {dtype} is not real; choose a whole-number or float type.")
    limits = np.iinfo(dtype)
    low, high = float(values.min()), float(values.max())
    if low < limits.min or high > limits.max or (values.dtype.kind == "f" and (values % 1 != 0).any()):
        raise ImageError(
            f"array for {path}: values of {low} to {high} are not whole numbers that {dtype} holds; round "
            "them, or "
            "choose float32."
        )
    return values.astype(dtype)


def _picture(values: Array, dtype: np.dtype[Any], path: Path) -> Image.Image:
    if dtype == np.float32:
        dtype = np.dtype(np.uint8)
    if dtype not in _PNG_TYPES:
        raise ConfigError(f"{path}: a PNG holds uint8 or uint16, not {dtype}; choose one of them.")
    colour = values.ndim == 3 and values.shape[2] == 3
    if (values.ndim != 2 and not colour) or (colour and dtype != np.uint8):
        raise ImageShapeError(
            f"array for {path}: shape {values.shape} of {dtype} does not fit a PNG, expected one grey slice "
            "or three 8-bit "
            "channels; write a NIfTI."
        )
    if values.dtype.kind in "iu" and values.max() > 1:
        raise ImageError(
            f"array for {path}: whole numbers up to {values.max()}; a PNG takes values in [0, 1]."
        )
    top = np.iinfo(dtype).max
    pixels = np.rint(values.astype(np.float64).clip(0, 1) * top).astype(dtype)
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, 1)))
