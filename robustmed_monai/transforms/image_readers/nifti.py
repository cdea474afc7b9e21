"""NIfTI-1 and NIfTI-2 files (``.nii``, ``.nii.gz``), read to the end of the gzip stream."""

from __future__ import annotations

import itertools
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
    check_voxels,
    drain,
    open_stream,
    read_exactly,
    spatial_meta,
)
from robustmed_monai.utils.errors import CorruptImageError, GeometryError, ImageError, ImageShapeError

Header: TypeAlias = nib.Nifti1Header

_KINDS: dict[bytes, tuple[type[Header], bytes]] = {
    struct.pack(order + "i", size): (header, magic)
    for order in "<>"
    for size, header, magic in ((348, nib.Nifti1Header, b"n+1"), (540, nib.Nifti2Header, b"n+2"))
}
_XFORM_CODES = range(6)
# The lowest three bits of xyzt_units: unknown (taken for mm), metres, mm, micrometres.
_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


def read_nifti(path: Path, max_voxels: int) -> tuple[Array, dict[str, Any]]:
    """Read a NIfTI file with its own affine (the sform first, then the qform), never a corrected one.

    An image of two dimensions lies in space too: it is a volume one voxel thick. Metres and micrometres are
    converted to mm.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        max_voxels: larger images are refused.

    Returns:
        Voxels (X, Y, Z[, C]) after slope and intercept (none where the slope is 0 or not finite), and MONAI's
        meta data of ``NibabelReader``.

    Raises:
        ImageError: a subclass names the reason.
    """
    with open_stream(path) as stream:
        try:
            header = _read_header(stream, path)
            shape, dtype = _check_layout(header, path)
            slope, inter, offset = _check_numbers(header, path)
            affine = _check_geometry(header, shape, path)
            count = math.prod(shape) * dtype.itemsize
            check_budget(path, offset + count, DEFLATE_RATIO if path.name.lower().endswith("gz") else 1)
            check_voxels(path, math.prod(shape), max_voxels)
        except ImageError:
            # Damage to the gzip stream shows as a senseless header first; then the stream is the reason.
            drain(stream)
            raise
        read_exactly(stream, offset - len(header.binaryblock), path)
        raw = read_exactly(stream, count, path)
        check_end(stream, path)
    voxels = apply_read_scaling(raw.view(dtype).reshape(shape, order="F"), slope, inter)
    # Arrays of strings do not pass through a DataLoader.
    fields = header.as_byteswapped("<").items()
    meta: dict[str, Any] = {name: value for name, value in fields if value.dtype.kind != "S"}
    meta[MetaKeys.ORIGINAL_PIXDIM] = np.array(meta[MetaKeys.PIXDIM])
    return voxels, meta | spatial_meta(shape[:3], affine, 3 if len(shape) == 4 else None)


def _read_header(stream: BinaryIO, path: Path) -> Header:
    start = stream.read(4)
    if start not in _KINDS:
        raise CorruptImageError(
            f"{path}: not a NIfTI file (it starts with {start!r}); check the file type or get the file again."
        )
    kind, magic = _KINDS[start]
    size = kind.template_dtype.itemsize
    header = kind(start + read_exactly(stream, size - 4, path).tobytes(), check=False)
    found = bytes(header["magic"])
    if not found.startswith(magic):
        raise CorruptImageError(
            f"{path}: the magic string is {found!r}, expected {magic!r}; save it as a single-file NIfTI."
        )
    return header


def _check_layout(header: Header, path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    dims, *sizes = (int(value) for value in header["dim"])
    shape = sizes[:dims]
    if not 1 <= dims <= 7 or min(shape) < 1:
        raise CorruptImageError(
            f"{path}: {dims} dimensions {shape}, expected 1 to 7 of at least 1; get the file again."
        )
    while len(shape) > 4 and shape[-1] == 1:
        shape.pop()
    if not 2 <= len(shape) <= 4:
        raise ImageShapeError(
            f"{path}: the image has {len(shape)} dimensions {shape}, expected (X, Y), (X, Y, Z) or (X, Y, Z, "
            "C); save one volume as its own file."
        )
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        code = int(header["datatype"])
        raise CorruptImageError(f"{path}: voxel type {code} is unknown; get the file again.") from error
    if dtype.kind == "c" or dtype.names:
        kind = "complex" if dtype.kind == "c" else "RGB(A) colour"
        raise ImageShapeError(
            f"{path}: the voxels are {kind}, expected one real number each; save magnitude or grey values."
        )
    bits = int(header["bitpix"])
    if dtype.kind not in "iuf" or bits not in (0, dtype.itemsize * 8):
        raise CorruptImageError(
            f"{path}: voxel type {dtype} and {bits} bits a voxel contradict each other; get the file again."
        )
    return (*shape, 1) if len(shape) == 2 else tuple(shape), dtype


def _check_numbers(header: Header, path: Path) -> tuple[float | None, float | None, int]:
    """Slope, intercept and the place of the first voxel; offset 0 means "right behind the header" to all."""
    try:
        slope, inter = header.get_slope_inter()
        offset = float(header["vox_offset"]) or len(header.binaryblock) + 4.0
    except HeaderDataError as error:
        raise CorruptImageError(f"{path}: {error}; repair scl_slope and scl_inter in the header.") from error
    if not (offset >= len(header.binaryblock) and offset.is_integer()):
        raise CorruptImageError(f"{path}: the voxels cannot start at byte {offset}; get the file again.")
    return slope, inter, int(offset)


def _check_geometry(header: Header, shape: tuple[int, ...], path: Path) -> Array:
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if sform not in _XFORM_CODES or qform not in _XFORM_CODES:
        raise GeometryError(f"{path}: sform_code {sform}, qform_code {qform}, expected 0 to 5; repair them.")
    pixdim = header["pixdim"]
    # The standard reads a missing handedness as 1; images of two dimensions may leave the third size empty.
    pixdim[0] = pixdim[0] or 1
    if int(header["dim"][0]) == 2:
        pixdim[3] = pixdim[3] or 1
    if qform and not np.isfinite([header[f"quatern_{axis}"] for axis in "bcd"]).all():
        raise GeometryError(f"{path}: the qform holds NaN or infinite values; repair the header.")
    if not sform and not (np.isfinite(pixdim[1:4]).all() and (pixdim[1:4] > 0).all()):
        raise GeometryError(
            f"{path}: voxel sizes {pixdim[1:4].tolist()} mm are not positive and no sform replaces them; "
            "repair the header."
        )
    scale = np.array([[_check_unit(header, path)]] * 3 + [[1.0]])
    try:
        affine = check_affine(scale * header.get_best_affine(), path)
        other = scale * header.get_qform() if qform else None
    except (HeaderDataError, ValueError) as error:
        raise GeometryError(f"{path}: the qform is not a rotation ({error}); repair the header.") from error
    if sform:
        _warn_of_others(header, affine, other, shape, path)
    return affine


def _check_unit(header: Header, path: Path) -> float:
    code = int(header["xyzt_units"]) & 7
    if code not in _MM:
        raise GeometryError(f"{path}: the unit of length {code} is unknown (1 to 3); repair xyzt_units.")
    if _MM[code] != 1:
        name = {1: "metres", 3: "micrometres"}[code]
        _warn(f"{path}: the unit of length is {name}; the affine is converted to mm.")
    return _MM[code]


def _warn_of_others(
    header: Header, affine: Array, other: Array | None, shape: tuple[int, ...], path: Path
) -> None:
    """Warn where qform or pixdim put the voxels elsewhere than the sform, which is used."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if other is None:
        found = header["pixdim"][1:4].astype(np.float64) * _MM[int(header["xyzt_units"]) & 7]
        if not np.allclose(found, sizes, rtol=1e-3):
            _warn(
                f"{path}: pixdim {found.round(6).tolist()} disagrees with the voxel sizes of the sform "
                f"{sizes.round(6).tolist()} mm; the sform is used."
            )
        return
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in shape[:3]))])
    apart = float(np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1).max())
    mirrored = np.linalg.det(affine[:3, :3]) * np.linalg.det(other[:3, :3]) < 0
    # Half a voxel: quaternions and sheared axes give less.
    if not apart < sizes.min() / 2 or mirrored:
        _warn(
            f"{path}: qform and sform disagree by up to {apart:.1f} mm"
            + (" and one mirrors the other (left and right?)" if mirrored else "")
            + "; the sform is used."
        )


def _warn(text: str) -> None:
    warnings.warn(text, GeometryWarning, stacklevel=2)
