"""DICOM through SimpleITK: a folder of slices is one volume, an X-ray without a place in space a picture."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustmed_monai.transforms.image_checks import (
    Array,
    GeometryWarning,
    check_affine,
    check_budget,
    check_voxels,
    spatial_meta,
)
from robustmed_monai.utils.errors import CorruptImageError, GeometryError, ImageShapeError

_SERIES, _NUMBER, _POSITION, _ORIENTATION = "0020|000e", "0020|0013", "0020|0032", "0020|0037"
_SPACING, _THICKNESS, _FRAMES = "0028|0030", "0018|0050", "0028|0008"
_IN_ACQUISITION = "0020|1002"
_BITS_STORED, _SIGNED, _INTERCEPT, _SLOPE = "0028|0101", "0028|0103", "0028|1052", "0028|1053"
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
SIDECARS = (".txt", ".json", ".xml", ".csv", ".tsv", ".md", ".html", ".pdf", ".bval", ".bvec", ".log")
# Distance of a slice from its place on the even grid, as a share of the slice step.
_STEP_TOLERANCE = 0.01
_COMPRESSION = 4096
_MARK = (128, b"DICM")


@dataclass(frozen=True)
class _Slice:
    path: Path
    series: str
    shape: tuple[int, int]
    number: int | None
    in_acquisition: int
    position: Array
    axes: Array
    spacing: tuple[float, float]
    thickness: float


def read_dicom(path: Path, max_voxels: int) -> tuple[Array, dict[str, Any]]:
    """Read a folder that holds one DICOM series of single-frame slices, or a single file.

    Hidden files, ``DICOMDIR`` and text sidecars are passed over; any other file must be a slice of the
    series. The slices are ordered by position and must be evenly spaced. Rescale slope and intercept are
    applied slice by slice, MONOCHROME1 is inverted. A single file without ImagePositionPatient (an X-ray: CR,
    DX, ...) is a picture.

    Args:
        path: a file, or a folder that holds the slices directly, not in subfolders.
        max_voxels: larger images are refused.

    Returns:
        Voxels (columns, rows, slices) float32 and MONAI's meta data, the affine in RAS; of an X-ray pixels
        (columns, rows), and white by its bits as ``max_value`` where black is 0.

    Raises:
        ImageError: a subclass names the reason: a foreign or damaged file, mixed series, a missing slice, two
            slices at one position, uneven spacing, colour or multi-frame files, a compression that cannot be
            decoded.
    """
    paths = slice_files(path) if path.is_dir() else [path]
    if not paths:
        raise CorruptImageError(
            f"{path}: the folder holds no DICOM slices; name a folder of one series or a file."
        )
    if len(paths) == 1 and is_projection(paths[0]):
        return _read_projection(paths[0], max_voxels)
    slices = [_read_header(item) for item in paths]
    check_voxels(path, len(slices) * math.prod(slices[0].shape), max_voxels)
    _check_alike(slices, path)
    normal = np.cross(slices[0].axes[0], slices[0].axes[1])
    slices.sort(key=lambda item: float(item.position @ normal))
    step = _check_positions(slices, normal, path)
    _warn_of_numbers(slices, path)
    affine = np.eye(4)
    affine[:3, 0] = slices[0].axes[0] * slices[0].spacing[1]
    affine[:3, 1] = slices[0].axes[1] * slices[0].spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = slices[0].position
    # DICOM's world is LPS, MONAI's RAS.
    affine = check_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, path)
    voxels = np.stack([_read_pixels(item.path) for item in slices], axis=-1)
    return voxels, spatial_meta(voxels.shape, affine, None)


def slice_files(folder: Path) -> list[Path]:
    """Files of a folder that should be slices: all but hidden ones, ``DICOMDIR`` and text sidecars."""
    return sorted(path for path in folder.iterdir() if _is_candidate(path))


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its suffix or its mark. Pipes and devices are not opened."""
    if not path.is_file() or path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    offset, mark = _MARK
    try:
        with path.open("rb") as stream:
            return stream.read(offset + len(mark))[offset:] == mark
    except OSError:
        return False


def is_projection(path: Path) -> bool:
    """Whether a DICOM file is an image without a place in space, as X-rays are.

    Raises:
        CorruptImageError: when it cannot be read as DICOM.
    """
    reader = _open(path)
    return not (_text(reader, _POSITION) or _text(reader, _ORIENTATION))


def _is_candidate(path: Path) -> bool:
    hidden = path.name.startswith(".") or path.name.upper() == "DICOMDIR" or path.suffix.lower() in SIDECARS
    return not hidden and not path.is_dir()


def _read_projection(path: Path, max_voxels: int) -> tuple[Array, dict[str, Any]]:
    reader = _open(path)
    check_voxels(path, math.prod(_check_frame(reader, path)), max_voxels)
    slope, intercept = float(_text(reader, _SLOPE) or 1), float(_text(reader, _INTERCEPT) or 0)
    bits, signed = int(_text(reader, _BITS_STORED) or 0), _text(reader, _SIGNED) == "1"
    white = slope * (2**bits - 1) if bits and slope > 0 and not intercept and not signed else None
    pixels = _read_pixels(path)
    return pixels, spatial_meta(pixels.shape, None, None, white)


def _open(path: Path) -> Any:
    import SimpleITK

    if not path.is_file():
        raise CorruptImageError(f"{path}: not a regular file; remove it from the DICOM folder.")
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise CorruptImageError(
            f"{path}: not a readable DICOM image (damaged, cut off or of another type); get it again, or "
            "remove it when it is no slice of the series."
        ) from error
    return reader


def _text(reader: Any, tag: str) -> str:
    return reader.GetMetaData(tag).strip().strip("\0") if reader.HasMetaDataKey(tag) else ""


def _check_frame(reader: Any, path: Path) -> tuple[int, int]:
    """Return columns and rows of a file that holds one grey image."""
    columns, rows = reader.GetSize()[:2]
    if reader.GetNumberOfComponents() != 1:
        raise ImageShapeError(f"{path}: colour pixels, expected grey; export the series as grey values.")
    if int(_text(reader, _FRAMES) or 1) > 1:
        raise ImageShapeError(
            f"{path}: a multi-frame DICOM; convert it to NIfTI (for example with dcm2niix)."
        )
    check_budget(path, rows * columns, _COMPRESSION)
    return columns, rows


def _read_header(path: Path) -> _Slice:
    reader = _open(path)
    shape = _check_frame(reader, path)
    number = _text(reader, _NUMBER)
    if not _text(reader, _POSITION) and not _text(reader, _ORIENTATION):
        raise GeometryError(
            f"{path}: no ImagePositionPatient: no slice of a volume but an X-ray? Then give each file alone."
        )
    position = _numbers(_text(reader, _POSITION), 3, "ImagePositionPatient", path)
    orientation = _numbers(_text(reader, _ORIENTATION), 6, "ImageOrientationPatient", path).reshape(2, 3)
    vertical, horizontal = _numbers(_text(reader, _SPACING), 2, "PixelSpacing", path).tolist()
    return _Slice(
        path=path,
        series=_text(reader, _SERIES),
        shape=shape,
        number=int(number) if number else None,
        in_acquisition=int(_text(reader, _IN_ACQUISITION) or 0),
        position=position,
        axes=orientation,
        spacing=(vertical, horizontal),
        thickness=float(_text(reader, _THICKNESS) or 1.0),
    )


def _numbers(text: str, count: int, name: str, path: Path) -> Array:
    try:
        numbers = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        numbers = np.empty(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise GeometryError(
            f"{path}: {name} is {text!r}, expected {count} numbers; the file cannot be placed in a volume, "
            "export the series again."
        )
    return numbers


def _check_alike(slices: list[_Slice], folder: Path) -> None:
    first = slices[0]
    for other in slices[1:]:
        if other.series != first.series:
            raise GeometryError(
                f"{folder}: mixed series, {first.path.name} is of {first.series} and {other.path.name} of "
                f"{other.series}; put each series into a folder of its own."
            )
        if other.shape != first.shape:
            raise ImageShapeError(
                f"{folder}: {first.path.name} has {first.shape} pixels and {other.path.name} {other.shape}; "
                "put each series into a folder of its own."
            )
        same = np.allclose(other.axes, first.axes, atol=1e-3) and np.allclose(
            other.spacing, first.spacing, rtol=1e-3
        )
        if not same:
            raise GeometryError(
                f"{folder}: {first.path.name} and {other.path.name} differ in orientation or pixel spacing "
                "(a localiser?); put each series into a folder of its own."
            )


def _check_positions(slices: list[_Slice], normal: Array, folder: Path) -> Array:
    """Return the step from slice to slice in mm, after checking that all slices lie on that even grid."""
    if len(slices) == 1:
        return normal * slices[0].thickness
    positions = np.stack([item.position for item in slices])
    gaps = np.diff(positions @ normal)
    pairs = [f"{a.path.name} and {b.path.name}" for a, b in itertools.pairwise(slices)]
    if gaps.min() < 1e-3:
        pair = pairs[int(gaps.argmin())]
        raise GeometryError(f"{folder}: {pair} lie at the same position; remove the duplicate slice.")
    usual = float(np.median(gaps))
    for pair, gap in zip(pairs, gaps, strict=True):
        missing = round(gap / usual) - 1
        if missing >= 1 and abs(gap / usual - missing - 1) < 0.1:
            raise GeometryError(
                f"{folder}: {missing} slice(s) missing between {pair} (gap {gap:.3f} mm, usually {usual:.3f} "
                "mm); export the series again."
            )
    step: Array = (positions[-1] - positions[0]) / (len(slices) - 1)
    away = np.linalg.norm(positions - positions[0] - np.arange(len(slices))[:, None] * step, axis=1)
    if away.max() > _STEP_TOLERANCE * np.linalg.norm(step):
        raise GeometryError(
            f"{folder}: the slices are not evenly spaced (gaps of {gaps.min():.3f} to {gaps.max():.3f} mm); "
            "resample the series to an even grid first."
        )
    return step


def _warn_of_numbers(slices: list[_Slice], folder: Path) -> None:
    """Warn when the numbering shows that slices may be missing at an end, where the even grid cannot."""
    numbers = sorted(item.number for item in slices if item.number is not None)
    announced = max(item.in_acquisition for item in slices)
    whole = not numbers or numbers == list(range(1, len(slices) + 1))
    if not whole or announced > len(slices):
        warnings.warn(
            f"{folder}: {len(slices)} slices numbered {numbers[:1]} to {numbers[-1:]}, "
            f"{announced or 'no number'} announced: slices may be missing at an end of the volume.",
            GeometryWarning,
            stacklevel=2,
        )


def _read_pixels(path: Path) -> Array:
    import SimpleITK

    reader = _open(path)
    try:
        pixels = SimpleITK.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise CorruptImageError(
            f"{path}: the pixels cannot be decoded; the file is cut off or compressed in a way that is not "
            "supported: get it again, or decompress the series first (for example with gdcmconv --raw)."
        ) from error
    return np.asarray(pixels, dtype=np.float32).reshape(pixels.shape[-2:]).T
