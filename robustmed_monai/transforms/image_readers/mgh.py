"""FreeSurfer volumes (``.mgh``, ``.mgz``) through nibabel, read to the end of the gzip stream."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from nibabel.freesurfer.mghformat import MGHHeader, header_dtype
from nibabel.spatialimages import HeaderDataError

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
from robustmed_monai.utils.errors import CorruptImageError, ImageError

_DATA_OFFSET = 284
# Scan parameters, transform names and colour tables may follow the voxels.
_FOOTER_BYTES = 16 << 20


def read_mgh(path: Path, max_voxels: int) -> tuple[Array, dict[str, Any]]:
    """Read a FreeSurfer volume.

    Args:
        path: ``.mgh`` or ``.mgz``.
        max_voxels: larger images are refused.

    Returns:
        Voxels (X, Y, Z[, C]) and MONAI's meta data.

    Raises:
        ImageError: a subclass names the reason.

    Source: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat
    """
    with open_stream(path) as stream:
        try:
            header = _header(read_exactly(stream, _DATA_OFFSET, path).tobytes(), path)
            shape, dtype = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
            affine = check_affine(header.get_affine(), path)
            count = math.prod(shape) * dtype.itemsize
            check_budget(path, _DATA_OFFSET + count, DEFLATE_RATIO if path.suffix.lower() == ".mgz" else 1)
            check_voxels(path, math.prod(shape), max_voxels)
        except ImageError:
            drain(stream)
            raise
        raw = read_exactly(stream, count, path)
        check_end(stream, path, _FOOTER_BYTES)
    channel_dim = 3 if len(shape) == 4 else None
    return raw.view(dtype).reshape(shape, order="F"), spatial_meta(shape[:3], affine, channel_dim)


def _header(block: bytes, path: Path) -> MGHHeader:
    try:
        header = MGHHeader(block[: header_dtype.itemsize])
        header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise CorruptImageError(
            f"{path}: not an MGH header that is known ({error}); check the file type, or convert it with "
            "mri_convert."
        ) from error
    if min(int(n) for n in header["dims"]) < 1:
        raise CorruptImageError(
            f"{path}: the dimensions {header['dims'].tolist()} are not all positive; get the file again."
        )
    if block[28:30] == b"\0\0":
        # nibabel takes FreeSurfer's default axes with rows and columns exchanged.
        header["Mdc"] = header["Mdc"].T
        warnings.warn(
            f"{path}: the header has no geometry; FreeSurfer's default is used (1 mm, axes L, I, A).",
            GeometryWarning,
            stacklevel=2,
        )
    return header
