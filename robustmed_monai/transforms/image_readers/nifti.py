"""NIfTI-1 and NIfTI-2 files (``.nii``, ``.nii.gz``), read to the end of the gzip stream."""

from __future__ import annotations

import math
import struct
import warnings
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import nibabel as nib
import numpy as np
from monai.utils import MetaKeys
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from robustmed_monai.transforms.image_checks import (
    DEFLATE_RATIO,
    Array,
    GeometryWarning,
    check_affine,
    check_budget,
    check_end,
    drain,
    open_stream,
    read_exactly,
    spatial_meta,
)
from robustmed_monai.utils.errors import CorruptImageError, GeometryError, ImageError, ImageShapeError

Header: TypeAlias = nib.Nifti1Header

_HEADER_SIZES: dict[int, Any] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_MAGIC = {348: b"n+1", 540: b"n+2"}
_XFORM_CODES = range(6)


def read_nifti(path: Path) -> tuple[Array, dict[str, Any]]:
    """Read a NIfTI file with its own affine (the sform first, then the qform), never a corrected one.

    Args:
        path: ``.nii`` or ``.nii.gz``.

    Returns:
        Voxels (X, Y[, Z[, C]]) after slope and intercept, and MONAI's meta data of ``NibabelReader``.

    Raises:
        ImageError: a subclass names the reason.
    """
    with open_stream(path) as stream:
        try:
            header, position = _read_header(stream, path)
            shape = _check_dims(header, path)
            dtype = _check_dtype(header, path)
            slope, inter = _check_scaling(header, path)
            affine = _check_geometry(header, len(shape), path)
            offset = _check_offset(header, position, path)
            count = math.prod(shape) * dtype.itemsize
            check_budget(path, offset + count, DEFLATE_RATIO if path.name.lower().endswith("gz") else 1)
        except ImageError:
            # Damage to the gzip stream shows as a senseless header first; then the stream is the reason to
            # name.
            drain(stream)
            raise
        read_exactly(stream, offset - position, path)
        raw = read_exactly(stream, count, path)
        check_end(stream, path)
    voxels = apply_read_scaling(raw.view(dtype).reshape(shape, order="F"), slope, inter)
    return voxels, _meta(header, shape, affine)


def _read_header(stream: BinaryIO, path: Path) -> tuple[Header, int]:
    start = stream.read(4)
    sizes = [
        size
        for code in "<>"
        if len(start) == 4 and (size := struct.unpack(code + "i", start)[0]) in _HEADER_SIZES
    ]
    if not sizes:
        raise CorruptImageError(
            f"{path}: not a NIfTI file (it starts with {start!r}); check the file type or get the file again."
        )
    block = start + stream.read(sizes[0] - 4)
    if len(block) < sizes[0]:
        raise CorruptImageError(
            f"{path}: truncated inside the header, {len(block)} bytes; get the file again."
        )
    header: Header = _HEADER_SIZES[sizes[0]](block, check=False)
    magic = bytes(header["magic"])
    if not magic.startswith(_MAGIC[sizes[0]]):
        raise CorruptImageError(
            f"{path}: the magic string is {magic!r}, expected {_MAGIC[sizes[0]]!r}; save it as a single-file "
            "NIfTI."
        )
    return header, sizes[0]


def _check_dims(header: Header, path: Path) -> tuple[int, ...]:
    dim = [int(value) for value in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise CorruptImageError(f"{path}: the header claims {dim[0]} dimensions; get the file again.")
    shape = dim[1 : dim[0] + 1]
    if min(shape) < 1:
        raise CorruptImageError(f"{path}: the dimensions {shape} are not all positive; get the file again.")
    while len(shape) > 4 and shape[-1] == 1:
        shape.pop()
    if not 2 <= len(shape) <= 4:
        raise ImageShapeError(
            f"{path}: the image has {len(shape)} dimensions {shape}, expected (X, Y), (X, Y, Z) or (X, Y, Z, "
            "C); "
            "save one volume as its own file."
        )
    return tuple(shape)


def _check_dtype(header: Header, path: Path) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        code = int(header["datatype"])
        raise CorruptImageError(f"{path}: voxel type {code} is unknown; get the file again.") from error
    if dtype.kind == "c" or dtype.names:
        kind = "complex" if dtype.kind == "c" else "RGB(A) colour"
        raise ImageShapeError(
            f"{path}: the voxels are {kind}, expected one real number each; save magnitude or grey values "
            "instead."
        )
    bits = int(header["bitpix"])
    if dtype.kind not in "iuf" or bits not in (0, dtype.itemsize * 8):
        raise CorruptImageError(
            f"{path}: voxel type {dtype} and {bits} bits a voxel contradict each other; get the file again."
        )
    return dtype


def _check_scaling(header: Header, path: Path) -> tuple[float | None, float | None]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise CorruptImageError(
            f"{path}: intensity slope {slope} and intercept {inter} must be finite; repair the header."
        )
    return (None, None) if slope == 0 else (slope, inter)


def _check_offset(header: Header, position: int, path: Path) -> int:
    offset = float(header["vox_offset"])
    # Offset 0 means "right behind the header" to every common reader.
    if offset == 0:
        return position + 4
    if not (offset >= position and offset.is_integer()):
        raise CorruptImageError(f"{path}: the voxels cannot start at byte {offset}; get the file again.")
    return int(offset)


def _check_geometry(header: Header, dims: int, path: Path) -> Array:
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    for name, code in (("sform_code", sform), ("qform_code", qform)):
        if code not in _XFORM_CODES:
            raise GeometryError(f"{path}: {name} {code} is unknown (0 to 5); repair the header.")
    pixdim = header["pixdim"]
    # The standard reads a missing handedness as 1; images of two dimensions may leave the third size empty.
    if pixdim[0] == 0:
        pixdim[0] = 1
    if dims == 2 and pixdim[3] == 0:
        pixdim[3] = 1
    if qform and not np.isfinite([header[f"quatern_{axis}"] for axis in "bcd"]).all():
        raise GeometryError(f"{path}: the qform holds NaN or infinite values; repair the header.")
    if not sform and (
        not np.isfinite(pixdim[1 : dims + 1]).all() or (pixdim[1 : min(dims, 3) + 1] <= 0).any()
    ):
        raise GeometryError(
            f"{path}: voxel sizes {pixdim[1:4].tolist()} mm are not positive and no sform replaces them; "
            "repair the "
            "header."
        )
    try:
        affine = check_affine(header.get_best_affine(), path)
    except (HeaderDataError, ValueError) as error:
        raise GeometryError(f"{path}: the qform is not a rotation ({error}); repair the header.") from error
    if sform:
        _warn_of_pixdim(pixdim, affine, min(dims, 3), path)
    return affine


def _warn_of_pixdim(pixdim: Array, affine: Array, dims: int, path: Path) -> None:
    sizes = np.linalg.norm(affine[:3, :3], axis=0)[:dims]
    found = np.asarray(pixdim[1 : dims + 1], dtype=np.float64)
    if not np.allclose(found, sizes, rtol=1e-3):
        warnings.warn(
            f"{path}: pixdim {found.round(6).tolist()} disagrees with the voxel sizes of the sform "
            f"{sizes.round(6).tolist()} mm; the sform is used.",
            GeometryWarning,
            stacklevel=2,
        )


def _meta(header: Header, shape: tuple[int, ...], affine: Array) -> dict[str, Any]:
    # Arrays of strings do not pass through a DataLoader.
    fields = header.as_byteswapped("<").items()
    meta: dict[str, Any] = {name: value for name, value in fields if value.dtype.kind != "S"}
    meta[MetaKeys.ORIGINAL_PIXDIM] = np.array(meta[MetaKeys.PIXDIM])
    return meta | spatial_meta(shape[:3], affine, 3 if len(shape) == 4 else None)
