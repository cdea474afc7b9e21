"""FreeSurfer volumes (``.mgh``, ``.mgz``), read to the end of the gzip stream."""

from __future__ import annotations

import math
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

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
from robustmed_monai.utils.errors import CorruptImageError, ImageError, ImageShapeError

_FIELDS = struct.Struct(">7ih15f")
_DATA_OFFSET = 284
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
# Scan parameters, transform names and colour tables may follow the voxels.
_FOOTER_BYTES = 16 << 20


def read_mgh(path: Path) -> tuple[Array, dict[str, Any]]:
    """Read a FreeSurfer volume.

    Args:
        path: ``.mgh`` or ``.mgz``.

    Returns:
        Voxels (X, Y, Z[, C]) and MONAI's meta data.

    Raises:
        ImageError: a subclass names the reason.

    Source: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat
    """
    with open_stream(path) as stream:
        try:
            block = read_exactly(stream, _DATA_OFFSET, path)
            shape, dtype, affine = _parse(block.tobytes(), path)
            count = math.prod(shape) * dtype.itemsize
            check_budget(path, _DATA_OFFSET + count, DEFLATE_RATIO if path.suffix.lower() == ".mgz" else 1)
        except ImageError:
            drain(stream)
            raise
        raw = read_exactly(stream, count, path)
        check_end(stream, path, _FOOTER_BYTES)
    channel_dim = 3 if shape[3] > 1 else None
    voxels = raw.view(dtype).reshape(shape if channel_dim else shape[:3], order="F")
    return voxels, spatial_meta(shape[:3], affine, channel_dim)


def _parse(block: bytes, path: Path) -> tuple[tuple[int, ...], np.dtype[Any], Array]:
    version, *numbers = _FIELDS.unpack_from(block)
    shape, kind, good_geometry, floats = tuple(numbers[:4]), numbers[4], numbers[6], numbers[7:]
    if version != 1:
        raise CorruptImageError(f"{path}: not an MGH file (version {version}); check the file type.")
    if min(shape) < 1:
        raise CorruptImageError(
            f"{path}: the dimensions {list(shape)} are not all positive; get the file again."
        )
    if kind not in _TYPES:
        raise ImageShapeError(
            f"{path}: voxel type {kind} is not one of {sorted(_TYPES)}; convert it with mri_convert."
        )
    sizes, cosines = np.ones(3), np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    centre = np.zeros(3)
    if good_geometry <= 0:
        warnings.warn(
            f"{path}: the header has no geometry; FreeSurfer's default is used (1 mm, axes L, I, A).",
            GeometryWarning,
            stacklevel=2,
        )
    else:
        sizes, centre = np.array(floats[:3]), np.array(floats[12:])
        cosines = np.array(floats[3:12]).reshape(3, 3).T
    affine = np.eye(4)
    with np.errstate(invalid="ignore", over="ignore"):
        affine[:3, :3] = cosines * sizes
        affine[:3, 3] = centre - affine[:3, :3] @ (np.array(shape[:3]) / 2)
    return shape, np.dtype(_TYPES[kind]), check_affine(affine, path)
