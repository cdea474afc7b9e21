"""NRRD files with the data attached (``.nrrd``), raw or gzip, with the checksum verified."""

from __future__ import annotations

import gzip
import math
import re
import warnings
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from robustmed_monai.transforms.image_checks import (
    DEFLATE_RATIO,
    Array,
    GeometryWarning,
    check_affine,
    check_budget,
    check_end,
    read_exactly,
    spatial_meta,
)
from robustmed_monai.utils.errors import CorruptImageError, GeometryError, ImageShapeError

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_CODES = {name: code for code, names in _TYPES.items() for name in names}
# Signs that bring a NRRD space to RAS.
_SPACES = {
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
}
_MAX_HEADER = 1 << 20
_VECTOR = re.compile(r"none|\([^)]*\)")


def read_nrrd(path: Path) -> tuple[Array, dict[str, Any]]:
    """Read a NRRD file.

    Args:
        path: ``.nrrd`` (also ``.seg.nrrd``).

    Returns:
        Voxels in the file's axis order and MONAI's meta data, the affine in RAS.

    Raises:
        ImageError: a subclass names the reason.

    Source: https://teem.sourceforge.net/nrrd/format.html
    """
    with path.open("rb") as stream:
        fields = _read_fields(cast(BinaryIO, stream), path)
        shape, dtype = _check_layout(fields, path)
        channel_dim, affine = _check_geometry(fields, len(shape), path)
        count = math.prod(shape) * dtype.itemsize
        encoding = fields.get("encoding", "").lower()
        if encoding not in ("raw", "gzip", "gz"):
            raise CorruptImageError(
                f"{path}: encoding {encoding!r} is not supported; save it as raw or gzip."
            )
        check_budget(path, count, 1 if encoding == "raw" else DEFLATE_RATIO)
        source = stream if encoding == "raw" else gzip.GzipFile(fileobj=stream)
        raw = read_exactly(cast(BinaryIO, source), count, path)
        check_end(cast(BinaryIO, source), path)
    spatial = [size for axis, size in enumerate(shape) if axis != channel_dim]
    voxels = raw.view(dtype).reshape(shape, order="F")
    return voxels, spatial_meta(spatial, affine, channel_dim)


def _read_fields(stream: BinaryIO, path: Path) -> dict[str, str]:
    if not re.match(rb"NRRD000[1-5]\s", stream.readline(16)):
        raise CorruptImageError(f"{path}: not a NRRD file; check the file type or get the file again.")
    fields: dict[str, str] = {}
    while line := stream.readline(_MAX_HEADER):
        text = line.decode("utf-8", errors="replace").strip()
        if not text:
            break
        name, separator, value = text.partition(":")
        if separator and not text.startswith("#"):
            # A key/value pair is written "name:=value" and says nothing about the layout.
            fields.setdefault(name.strip().lower(), value.strip())
    if "data file" in fields or "datafile" in fields:
        raise CorruptImageError(
            f"{path}: the voxels are in another file; save it as one attached .nrrd file."
        )
    if any(fields.get(name, "0") != "0" for name in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise CorruptImageError(f"{path}: skipped lines or bytes are not supported; save it again.")
    return fields


def _check_layout(fields: dict[str, str], path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        shape = tuple(int(size) for size in fields["sizes"].split())
        code = _CODES[fields["type"].lower()]
        dimension = int(fields["dimension"])
    except (KeyError, ValueError) as error:
        raise CorruptImageError(
            f"{path}: type, dimension or sizes are missing or senseless ({error}); get the file again."
        ) from error
    if len(shape) != dimension or min(shape, default=0) < 1:
        raise CorruptImageError(
            f"{path}: sizes {list(shape)} do not fit {dimension} dimensions; get the file again."
        )
    if not 2 <= dimension <= 4:
        raise ImageShapeError(
            f"{path}: the image has {dimension} dimensions, expected 2 to 4; save one volume alone."
        )
    endian = fields.get("endian", "little").lower()
    if endian not in ("little", "big"):
        raise CorruptImageError(f"{path}: endian {endian!r} is neither little nor big; get the file again.")
    return shape, np.dtype(code).newbyteorder("<" if endian == "little" else ">")


def _check_geometry(fields: dict[str, str], dims: int, path: Path) -> tuple[int | None, Array]:
    if "space directions" not in fields:
        return _spacing_only(fields, dims, path)
    vectors = [_vector(text, path) for text in _VECTOR.findall(fields["space directions"])]
    axes = [vector for vector in vectors if vector is not None]
    origin = _vector(fields.get("space origin", ""), path)
    rank = len(axes)
    if len(vectors) != dims or dims - rank > 1 or any(len(axis) != rank for axis in axes):
        raise GeometryError(
            f"{path}: {len(axes)} space directions do not fit {dims} dimensions; save one image with at most "
            "one "
            "channel axis."
        )
    if origin is not None and len(origin) != rank:
        raise GeometryError(
            f"{path}: space origin {origin} does not fit {rank} space directions; save it again."
        )
    affine = np.eye(4)
    affine[:rank, :rank] = np.array(axes).T
    affine[:rank, 3] = 0 if origin is None else origin
    signs = (*_signs(fields, path), 1)
    return (vectors.index(None) if rank < dims else None), check_affine(np.diag(signs) @ affine, path)


def _vector(text: str, path: Path) -> list[float] | None:
    if text in ("", "none"):
        return None
    try:
        return [float(number) for number in text.strip("()").split(",")]
    except ValueError as error:
        raise GeometryError(f"{path}: {text!r} is not a vector; repair the header.") from error


def _signs(fields: dict[str, str], path: Path) -> tuple[int, int, int]:
    space = fields.get("space", "").lower()
    if not space:
        warnings.warn(f"{path}: the header names no space; LPS is assumed.", GeometryWarning, stacklevel=2)
        return _SPACES["lps"]
    if space not in _SPACES:
        raise GeometryError(f"{path}: space {space!r} is not supported; save it in RAS or LPS.")
    return _SPACES[space]


def _spacing_only(fields: dict[str, str], dims: int, path: Path) -> tuple[None, Array]:
    if dims > 3:
        raise ImageShapeError(
            f"{path}: no space directions tell which of the {dims} axes is the channel; save it again."
        )
    try:
        sizes = [float(number) for number in fields.get("spacings", "1 1 1").split()]
    except ValueError as error:
        raise GeometryError(
            f"{path}: spacings {fields['spacings']!r} are not numbers; repair the header."
        ) from error
    warnings.warn(
        f"{path}: the header has no space directions; axes along R, A, S with spacings {sizes} mm are "
        "assumed.",
        GeometryWarning,
        stacklevel=2,
    )
    return None, check_affine(np.diag([*[*sizes, 1.0, 1.0][:3], 1.0]), path)
