"""Checks of every image on its way in: intact bytes, plausible size, usable geometry, finite values."""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from monai.utils import MetaKeys, SpaceKeys

from robustmed_monai.utils.errors import (
    CorruptImageError,
    GeometryError,
    ImageShapeError,
    NonFiniteImageError,
)

Array: TypeAlias = npt.NDArray[Any]
OnNonfinite: TypeAlias = Literal["raise", "replace", "mask"]

NONFINITE_POLICIES = ("raise", "replace", "mask")
# 1024 x 1024 x 1024; a gzip bomb with an honest header is refused by it.
MAX_VOXELS = 1 << 30
# Deflate cannot expand by more than this (zlib technical details), so a header that claims more is wrong.
DEFLATE_RATIO = 1032
# Bytes that may follow the voxels: one disk block of padding. More means the header is shorter than the data.
TRAILING_BYTES = 4096
_CHUNK = 1 << 20
_DRAIN_LIMIT = 256 << 20
_MIN_DETERMINANT = 1e-4
_VOXEL_SIZES = (1e-6, 1e6)


class GeometryWarning(UserWarning):
    """The geometry of a file contradicts itself in a harmless way; the message says which part is used."""


@contextmanager
def open_stream(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, through gzip where its name ends in ``gz``.

    Raises:
        CorruptImageError: when the name says gzip and the content does not, or the other way round.
    """
    compressed = path.name.lower().endswith("gz")
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if compressed and not is_gzip:
            raise CorruptImageError(
                f"{path}: not compressed by gzip, as its name says; if it is a plain image rename it "
                "without .gz (.mgz: to .mgh), else get the file again."
            )
        if is_gzip and not compressed:
            raise CorruptImageError(
                f"{path}: compressed by gzip, which its name does not say; rename it to end in .gz "
                "(.mgh: to .mgz)."
            )
        yield cast(BinaryIO, gzip.GzipFile(fileobj=stream) if compressed else stream)


def check_budget(path: Path, claimed: int, ratio: int) -> None:
    """Refuse a header that claims more bytes than the file can hold, before anything is allocated.

    Args:
        path: the file.
        claimed: bytes of header and voxels that the header speaks of.
        ratio: how much larger than the file its content can be (1 without compression).

    Raises:
        CorruptImageError: when the claim cannot be true.
    """
    size = path.stat().st_size
    if claimed > size * ratio + (1024 if ratio > 1 else 0):
        raise CorruptImageError(
            f"{path}: the header claims {claimed} bytes of image, but the file of {size} bytes cannot hold "
            "them (damaged header or truncated file); get the file again."
        )


def check_voxels(path: Path, count: int, max_voxels: int) -> None:
    """Refuse an image of more voxels than asked for, before anything is allocated.

    Raises:
        ImageShapeError: names the number.
    """
    if count > max_voxels:
        raise ImageShapeError(
            f"{path}: {count} voxels are more than max_voxels ({max_voxels}); crop or shrink the image, or "
            "raise max_voxels of LoadCheckedImage."
        )


def read_exactly(stream: BinaryIO, count: int, path: Path) -> Array:
    """Read ``count`` bytes as a uint8 array.

    Raises:
        CorruptImageError: when the stream ends before.
    """
    buffer = np.empty(count, dtype=np.uint8)
    view = memoryview(cast(Any, buffer))
    done = 0
    while done < count:
        step = cast(Any, stream).readinto(view[done:])
        if not step:
            raise CorruptImageError(
                f"{path}: truncated, {done} bytes of {count} are there; get the file again from its source."
            )
        done += step
    return buffer


def check_end(stream: BinaryIO, path: Path, allowed: int = TRAILING_BYTES) -> bytes:
    """Read what follows the voxels, where gzip keeps its checksum: a plain reader never gets there.

    Args:
        stream: positioned after the last voxel byte.
        path: for the message.
        allowed: number of further bytes that may follow.

    Returns:
        The bytes that follow.

    Raises:
        CorruptImageError: when more bytes follow than ``allowed``. A damaged gzip stream raises gzip's own
            errors.
    """
    rest = stream.read(allowed + 1)
    if len(rest) > allowed:
        raise CorruptImageError(
            f"{path}: more than {allowed} bytes follow the image that the header describes, so its "
            "dimensions or voxel type are wrong; get the file again."
        )
    return rest


def drain(stream: BinaryIO) -> None:
    """Read on to the end (at most 256 MiB), so that a damaged gzip stream raises its own error."""
    done = 0
    while done < _DRAIN_LIMIT and (chunk := stream.read(_CHUNK)):
        done += len(chunk)


def check_affine(affine: Array, where: str | os.PathLike[str]) -> Array:
    """Return a voxel-to-world matrix as float64 after checking that it can be inverted.

    Args:
        affine: 4x4, mm per voxel.
        where: file name for the message.

    Raises:
        GeometryError: for NaN, infinite, zero-sized or (nearly) parallel axes.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise GeometryError(f"{where}: the affine has shape {matrix.shape}, expected (4, 4); write it again.")
    if not np.isfinite(matrix).all():
        raise GeometryError(
            f"{where}: the affine holds NaN or infinite values {matrix[:3].tolist()}; repair the header from "
            "the source image."
        )
    sizes = np.linalg.norm(matrix[:3, :3], axis=0)
    if sizes.min() < _VOXEL_SIZES[0] or sizes.max() > _VOXEL_SIZES[1]:
        raise GeometryError(
            f"{where}: voxel sizes of {sizes.tolist()} mm are degenerate; repair the header from the source "
            "image."
        )
    determinant = float(np.linalg.det(matrix[:3, :3] / sizes))
    if abs(determinant) < _MIN_DETERMINANT:
        raise GeometryError(
            f"{where}: the affine is singular (determinant {determinant:.1e} of its unit axes), two voxel "
            "axes are parallel; repair the header from the source image."
        )
    return matrix


def check_shape(
    shape: Sequence[int],
    where: str | os.PathLike[str],
    spatial_dims: int | Sequence[int] | None = None,
    channels: int | None = None,
) -> None:
    """Check the shape of a channel-first image.

    Args:
        shape: (C, X, Y[, Z]).
        where: file or argument name for the message.
        spatial_dims: accepted numbers of spatial dimensions; None: 2 or 3.
        channels: expected number of channels; None: any.

    Raises:
        ImageShapeError: names what was expected and what was found.
    """
    accepted = (2, 3) if spatial_dims is None else np.atleast_1d(spatial_dims).tolist()
    if len(shape) - 1 not in accepted:
        expected = " or ".join("(C, " + ", ".join("XYZ"[:n]) + ")" for n in accepted)
        raise ImageShapeError(
            f"{where}: expected an image of shape {expected}, got {tuple(shape)}; check the file or add the "
            "channel dimension first."
        )
    if channels is not None and shape[0] != channels:
        raise ImageShapeError(
            f"{where}: expected {channels} channel(s), got {shape[0]} (shape {tuple(shape)}); choose one "
            "channel first."
        )
    if math.prod(shape) == 0:
        raise ImageShapeError(
            f"{where}: the image of shape {tuple(shape)} has no voxels; check how it was made."
        )


def finite_mask(array: Array) -> Array | None:
    """Return None when every value of a float array is finite, else the boolean array of finite places."""
    # NaN and infinity survive a sum, so the common case costs one pass and no memory.
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(float(array.sum())):
            return None
    finite = np.isfinite(array)
    return None if finite.all() else finite


def check_finite(array: Array, where: str | os.PathLike[str]) -> None:
    """Refuse NaN and infinite values.

    Raises:
        NonFiniteImageError: with their number.
    """
    finite = finite_mask(array)
    if finite is not None:
        raise NonFiniteImageError(
            f"{where}: {int((~finite).sum())} of {array.size} voxels are NaN, infinite or beyond float32; "
            "repair the image, or load it with on_nonfinite='replace' or 'mask'."
        )


def spatial_meta(
    shape: Sequence[int], affine: Array | None, channel_dim: int | None, max_value: float | None = None
) -> dict[str, Any]:
    """Return the meta data that MONAI's readers give with an image.

    Args:
        shape: spatial shape.
        affine: 4x4 voxel to world (RAS, mm); None for pictures without geometry.
        channel_dim: axis of the channels in the stored array; None when it has none.
        max_value: value of white; None where the type of file has none, and then the meta data have no key.
    """
    meta: dict[str, Any] = {
        MetaKeys.SPATIAL_SHAPE: np.asarray(shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if channel_dim is None else channel_dim,
    }
    if affine is not None:
        meta |= {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
        }
    # A None does not pass through a DataLoader.
    if max_value is not None:
        meta["max_value"] = max_value
    return meta
