"""A folder of DICOM slices as one volume, through SimpleITK; every file must have its place in it."""

from __future__ import annotations

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
    spatial_meta,
)
from robustmed_monai.utils.errors import CorruptImageError, GeometryError, ImageShapeError

_SERIES, _NUMBER, _POSITION, _ORIENTATION = "0020|000e", "0020|0013", "0020|0032", "0020|0037"
_SPACING, _THICKNESS, _FRAMES = "0028|0030", "0018|0050", "0028|0008"
_IN_ACQUISITION = "0020|1002"
_SIDECARS = (".txt", ".json", ".xml", ".csv", ".tsv", ".md", ".html", ".pdf", ".bval", ".bvec", ".log")
# Distance of a slice from its place on the even grid, as a share of the slice step.
_STEP_TOLERANCE = 0.01
_COMPRESSION = 4096


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


def read_dicom(folder: Path) -> tuple[Array, dict[str, Any]]:
    """Read a folder that holds one DICOM series of single-frame slices.

    Hidden files, ``DICOMDIR`` and text sidecars are passed over; any other file must be a slice of the
    series. The slices are ordered by position and must be evenly spaced. Rescale slope and intercept are
    applied slice by slice.

    Args:
        folder: holds the slices directly, not in subfolders.

    Returns:
        Voxels (columns, rows, slices) float32 and MONAI's meta data, the affine in RAS.

    Raises:
        ImageError: a subclass names the reason: a foreign or damaged file, mixed series, a missing slice, two
            slices at one position, uneven spacing, colour or multi-frame files, a compression that cannot be
            decoded.
    """
    paths = slice_files(folder)
    if not paths:
        raise CorruptImageError(
            f"{folder}: the folder holds no DICOM slices; name a folder of one series or a file."
        )
    slices = [_read_header(path) for path in paths]
    _check_alike(slices, folder)
    normal = np.cross(slices[0].axes[0], slices[0].axes[1])
    slices.sort(key=lambda item: float(item.position @ normal))
    step = _check_positions(slices, normal, folder)
    _warn_of_numbers(slices, folder)
    affine = np.eye(4)
    affine[:3, 0] = slices[0].axes[0] * slices[0].spacing[1]
    affine[:3, 1] = slices[0].axes[1] * slices[0].spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = slices[0].position
    # DICOM's world is LPS, MONAI's RAS.
    affine = check_affine(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, folder)
    voxels = np.stack([_read_pixels(item.path) for item in slices], axis=-1)
    return voxels, spatial_meta(voxels.shape, affine, None)


def slice_files(folder: Path) -> list[Path]:
    """Files of a folder that should be slices: all but hidden ones, ``DICOMDIR`` and text sidecars."""
    return sorted(path for path in folder.iterdir() if _is_candidate(path))


def _is_candidate(path: Path) -> bool:
    hidden = path.name.startswith(".") or path.name.upper() == "DICOMDIR" or path.suffix.lower() in _SIDECARS
    return not hidden and not path.is_dir()


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
            "remove it when it is no slice of "
            "the series."
        ) from error
    return reader


def _read_header(path: Path) -> _Slice:
    reader = _open(path)

    def text(tag: str, default: str = "") -> str:
        return reader.GetMetaData(tag).strip().strip("\0") if reader.HasMetaDataKey(tag) else default

    columns, rows = reader.GetSize()[:2]
    if reader.GetNumberOfComponents() != 1:
        raise ImageShapeError(f"{path}: colour pixels, expected grey; export the series as grey values.")
    if int(text(_FRAMES, "1") or 1) > 1:
        raise ImageShapeError(
            f"{path}: a multi-frame DICOM; convert it to NIfTI (for example with dcm2niix)."
        )
    check_budget(path, rows * columns, _COMPRESSION)
    orientation = _numbers(text(_ORIENTATION), 6, "ImageOrientationPatient", path).reshape(2, 3)
    vertical, horizontal = _numbers(text(_SPACING), 2, "PixelSpacing", path).tolist()
    return _Slice(
        path=path,
        series=text(_SERIES),
        shape=(columns, rows),
        number=int(text(_NUMBER)) if text(_NUMBER) else None,
        in_acquisition=int(text(_IN_ACQUISITION) or 0),
        position=_numbers(text(_POSITION), 3, "ImagePositionPatient", path),
        axes=orientation,
        spacing=(vertical, horizontal),
        thickness=float(text(_THICKNESS) or 1.0),
    )


def _numbers(text: str, count: int, name: str, path: Path) -> Array:
    try:
        numbers = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        numbers = np.empty(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise GeometryError(
            f"{path}: {name} is {text!r}, expected {count} numbers; the file cannot be placed in a volume, "
            "export the "
            "series again."
        )
    return numbers


def _check_alike(slices: list[_Slice], folder: Path) -> None:
    first = slices[0]
    for other in slices[1:]:
        if other.series != first.series:
            raise GeometryError(
                f"{folder}: mixed series, {first.path.name} is of {first.series} and {other.path.name} of "
                f"{other.series}; "
                "put each series into a folder of its own."
            )
        if other.shape != first.shape:
            raise ImageShapeError(
                f"{folder}: {first.path.name} has {first.shape} pixels and {other.path.name} {other.shape}; "
                "put each "
                "series into a folder of its own."
            )
        same = np.allclose(other.axes, first.axes, atol=1e-3) and np.allclose(
            other.spacing, first.spacing, rtol=1e-3
        )
        if not same:
            raise GeometryError(
                f"{folder}: {first.path.name} and {other.path.name} differ in orientation or pixel spacing "
                "(a localiser?); "
                "put each series into a folder of its own."
            )


def _check_positions(slices: list[_Slice], normal: Array, folder: Path) -> Array:
    """Return the step from slice to slice in mm, after checking that all slices lie on that even grid."""
    if len(slices) == 1:
        return normal * slices[0].thickness
    positions = np.stack([item.position for item in slices])
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    for index, gap in enumerate(gaps):
        pair = f"{slices[index].path.name} and {slices[index + 1].path.name}"
        if gap < 1e-3:
            raise GeometryError(f"{folder}: {pair} lie at the same position; remove the duplicate slice.")
        missing = round(gap / usual) - 1
        if missing >= 1 and abs(gap / usual - missing - 1) < 0.1:
            raise GeometryError(
                f"{folder}: {missing} slice(s) missing between {pair} (gap {gap:.3f} mm, usually {usual:.3f} "
                "mm); "
                "export the series again."
            )
    step: Array = (positions[-1] - positions[0]) / (len(slices) - 1)
    away = np.linalg.norm(positions - positions[0] - np.arange(len(slices))[:, None] * step, axis=1)
    if away.max() > _STEP_TOLERANCE * np.linalg.norm(step):
        raise GeometryError(
            f"{folder}: the slices are not evenly spaced (gaps of {gaps.min():.3f} to {gaps.max():.3f} mm); "
            "resample the "
            "series to an even grid first."
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
            f"{announced or 'no number'} announced: "
            "slices may be missing at an end of the volume.",
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
