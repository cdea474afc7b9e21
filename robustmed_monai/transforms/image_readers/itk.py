"""NRRD and MetaImage files (``.nrrd``, ``.mha``) through SimpleITK, with their checksums verified."""

from __future__ import annotations

import math
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from robustmed_monai.transforms.image_checks import (
    DEFLATE_RATIO,
    TRAILING_BYTES,
    Array,
    GeometryWarning,
    check_affine,
    check_budget,
    check_voxels,
    spatial_meta,
)
from robustmed_monai.utils.errors import CorruptImageError, GeometryError, ImageShapeError

# What SimpleITK knows by these names; it would take any other space for LPS.
_SPACES = (
    "left-posterior-superior",
    "lps",
    "right-anterior-superior",
    "ras",
    "left-anterior-superior",
    "las",
)
# Fields that say where the axes point: NRRD's, and MetaImage's with its synonyms.
_DIRECTIONS = {"space directions", "transformmatrix", "rotation", "orientation"}
_MAX_HEADER = 1 << 20
_CHUNK = 1 << 20
_GZIP, _ZLIB = 31, 15


def read_itk(path: Path, max_voxels: int) -> tuple[Array, dict[str, Any]]:
    """Read a NRRD or MetaImage file whose voxels are raw or compressed in the file itself.

    Args:
        path: ``.nrrd`` (also ``.seg.nrrd``) or ``.mha``.
        max_voxels: larger images are refused.

    Returns:
        Voxels (X, Y, Z[, C]), an image of two dimensions one voxel thick, and MONAI's meta data, the affine
        in RAS.

    Raises:
        ImageError: a subclass names the reason.

    Source: https://teem.sourceforge.net/nrrd/format.html, https://itk.org/Wiki/ITK/MetaIO/Documentation
    """
    import SimpleITK

    is_nrrd = path.suffix.lower() == ".nrrd"
    fields, offset = _read_fields(path, ":" if is_nrrd else "=")
    window = (_check_nrrd if is_nrrd else _check_metaimage)(fields, path)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if is_nrrd else "MetaImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_size(reader, offset, window, path, max_voxels)
        affine = _affine(reader, fields, path)
        voxels = SimpleITK.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise _named(error, path) from error
    rank = reader.GetDimension()
    voxels = voxels.transpose(*reversed(range(rank)), *range(rank, voxels.ndim))
    voxels = voxels[:, :, None] if rank == 2 else voxels
    return voxels, spatial_meta(voxels.shape[:3], affine, 3 if voxels.ndim == 4 else None)


def _read_fields(path: Path, separator: str) -> tuple[dict[str, str], int]:
    """Fields of the text at the start of the file, and the place of the byte behind it."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        while line := stream.readline(_MAX_HEADER):
            name, found, value = line.decode("utf-8", errors="replace").strip().partition(separator)
            # A key/value pair of NRRD is written "name:=value" and says nothing about the layout.
            if found and not name.startswith("#") and not (separator == ":" and value.startswith("=")):
                fields.setdefault(name.strip().lower(), value.strip())
            if (
                (separator == ":" and not name)
                or fields.get("elementdatafile")
                or stream.tell() > _MAX_HEADER
            ):
                break
        return fields, stream.tell()


def _check_nrrd(fields: dict[str, str], path: Path) -> int | None:
    """Refuse what is not one attached image in a known space; return zlib's window bits, None for raw."""
    if "data file" in fields or "datafile" in fields:
        raise CorruptImageError(
            f"{path}: the voxels are in another file; save it as one attached .nrrd file."
        )
    if any(fields.get(name, "0") != "0" for name in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise CorruptImageError(f"{path}: skipped lines or bytes are not supported; save it again.")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise CorruptImageError(f"{path}: encoding {encoding!r} is not supported; save it as raw or gzip.")
    space = fields.get("space", "").lower()
    if space and space not in _SPACES:
        raise GeometryError(f"{path}: space {space!r} is not supported; save it in RAS or LPS.")
    return None if encoding == "raw" else _GZIP


def _check_metaimage(fields: dict[str, str], path: Path) -> int | None:
    if fields.get("elementdatafile", "").upper() != "LOCAL":
        raise CorruptImageError(f"{path}: the voxels are in another file; save it as one .mha file.")
    if fields.get("binarydata", "True").lower() == "false" or fields.get("headersize", "0") != "0":
        raise CorruptImageError(f"{path}: voxels as text or behind a foreign header; save it again.")
    return _ZLIB if fields.get("compresseddata", "False").lower() == "true" else None


def _check_size(reader: Any, offset: int, window: int | None, path: Path, max_voxels: int) -> None:
    import SimpleITK

    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if not 2 <= len(size) <= 3:
        raise ImageShapeError(
            f"{path}: the image has {len(size)} dimensions {size}, expected 2 or 3 and channels; save one "
            "volume alone."
        )
    voxels = math.prod(size) * components
    one = SimpleITK.Image([1] * len(size), reader.GetPixelIDValue(), components)
    count = voxels * one.GetSizeOfPixelComponent()
    check_budget(path, count, DEFLATE_RATIO if window else 1)
    check_voxels(path, voxels, max_voxels)
    _check_content(path, offset, count, window)


def _check_content(path: Path, offset: int, count: int, window: int | None) -> None:
    """Unpack the voxels once, keeping nothing: ITK neither looks at the checksum nor at what follows."""
    found = 0
    with path.open("rb") as stream:
        stream.seek(offset)
        if window is None:
            found = path.stat().st_size - offset
        else:
            unpacker = zlib.decompressobj(window)
            while not unpacker.eof and found <= count + TRAILING_BYTES:
                packed = unpacker.unconsumed_tail or stream.read(_CHUNK)
                if not packed:
                    raise EOFError("it ends before the end of the stream")
                found += len(unpacker.decompress(packed, _CHUNK))
    if not count <= found <= count + TRAILING_BYTES:
        raise CorruptImageError(
            f"{path}: the header speaks of {count} bytes of voxels, the file holds {found}; get it again."
        )


def _affine(reader: Any, fields: dict[str, str], path: Path) -> Array:
    rank, affine = reader.GetDimension(), np.eye(4)
    affine[:rank, :rank] = np.reshape(reader.GetDirection(), (rank, rank)) * reader.GetSpacing()
    affine[:rank, 3] = reader.GetOrigin()
    if not _DIRECTIONS & fields.keys():
        _warn(f"{path}: the header does not say where the axes point; R, A and S are assumed.")
        return check_affine(affine, path)
    if "space directions" in fields and "space" not in fields:
        _warn(f"{path}: the header names no space; LPS is assumed.")
    return check_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, path)


def _warn(text: str) -> None:
    warnings.warn(text, GeometryWarning, stacklevel=2)


def _named(error: RuntimeError, path: Path) -> Exception:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The last line of NrrdIO is the reason; of ITK it is the one that says error.
    reason = next((line for line in reversed(lines) if "[nrrd]" in line or "ERROR:" in line), lines[-1])
    if "allocate memory" in lines[-1]:
        return MemoryError(lines[-1])
    return CorruptImageError(f"{path}: not readable by SimpleITK ({reason}); get the file again.")
