"""I7: a DICOM folder is a whole, evenly spaced series, or a named error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless, generate_uid

from robustmed_monai.transforms.load import GeometryWarning, LoadCheckedImage
from robustmed_monai.utils.errors import CorruptImageError, GeometryError, ImageError, ImageShapeError

SERIES = generate_uid(entropy_srcs=["series"])
ROWS, COLUMNS, COUNT = 4, 5, 6
DIRECTIONS = np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0]])
NORMAL = np.cross(*DIRECTIONS)
ORIGIN = np.array([10.0, -20, 30])
load = LoadCheckedImage()


def pixels(k: int) -> np.ndarray[Any, Any]:
    return np.arange(ROWS * COLUMNS, dtype=np.int16).reshape(ROWS, COLUMNS) + 100 * k


def make_slice(k: int, **changes: Any) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.4")
    data.SOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = UID("1.2.3"), SERIES
    data.Modality, data.InstanceNumber = "MR", k + 1
    data.Rows, data.Columns, data.PixelSpacing, data.SliceThickness = ROWS, COLUMNS, [2.0, 1.5], 3.0
    data.ImageOrientationPatient = DIRECTIONS.ravel().tolist()
    data.ImagePositionPatient = (ORIGIN + 3 * k * NORMAL).tolist()
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    # Each slice has its own slope, as in PET.
    data.RescaleSlope, data.RescaleIntercept = 0.5 + k, -1
    data.PixelData = pixels(k).tobytes()
    for name, value in changes.items():
        setattr(data, name, value)
    return data


def save(data: Dataset, path: Path) -> Path:
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # File names in an order that is not the order of the slices.
    for k in range(COUNT):
        save(make_slice(k), tmp_path / f"IM{(k * 5) % COUNT}{k}")
    return tmp_path


def file_of(folder: Path, k: int) -> Path:
    return folder / f"IM{(k * 5) % COUNT}{k}"


def test_i7_a_whole_series(folder: Path) -> None:
    (folder / "notes.txt").write_text("passed over")
    (folder / "DICOMDIR").write_bytes(b"passed over")
    (folder / ".hidden").write_bytes(b"passed over")
    image = load(folder)
    expected = np.stack([pixels(k).T * (0.5 + k) - 1 for k in range(COUNT)], axis=-1)
    assert np.array_equal(image[0].numpy(), expected)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([DIRECTIONS[0] * 1.5, DIRECTIONS[1] * 2.0, NORMAL * 3.0])
    affine[:3, 3] = ORIGIN
    assert np.allclose(image.affine.numpy(), np.diag([-1, -1, 1, 1]) @ affine, atol=1e-6)


def test_i7_one_slice_and_compressed_slices(tmp_path: Path) -> None:
    # GDCM refuses run-length code of very few pixels.
    values = np.arange(256, dtype=np.int16).reshape(16, 16)
    data = make_slice(0, Rows=16, Columns=16, PixelData=values.tobytes())
    data.compress(RLELossless, encoding_plugin="pydicom")
    save(data, tmp_path / "a.dcm")
    image = load(tmp_path)
    assert image.shape == (1, 16, 16, 1)
    assert np.array_equal(image[0, :, :, 0].numpy(), values.T * 0.5 - 1)
    assert np.linalg.norm(image.affine.numpy()[:3, 2]) == pytest.approx(3.0)


def xray(**changes: Any) -> Dataset:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16
    place = dict.fromkeys(
        ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
    )
    own: dict[str, Any] = {"Rows": 16, "Columns": 16, "PixelData": values.tobytes(), "PixelRepresentation": 0}
    own |= {"BitsStored": 12, "HighBit": 11, "RescaleSlope": None, "RescaleIntercept": None, "Modality": "DX"}
    return make_slice(0, **place, **(own | changes))


@pytest.mark.parametrize("name", ["a.dcm", "IM0001"])
@pytest.mark.parametrize(("kind", "sign"), [("MONOCHROME2", 1), ("MONOCHROME1", -1)])
def test_i7_an_xray_is_a_picture(tmp_path: Path, name: str, kind: str, sign: int) -> None:
    path = save(xray(PhotometricInterpretation=kind), tmp_path / name)
    stored = np.arange(256, dtype=np.float32).reshape(16, 16) * 16
    for given in (path, tmp_path):
        image = load(given)
        assert np.array_equal(image[0], (stored if sign == 1 else 4095 - stored).T), "black is 0"
        assert image.meta["max_value"] == 4095
    assert LoadCheckedImage(max_voxels=256)(path).shape == (1, 16, 16)
    with pytest.raises(ImageShapeError, match="256 voxels are more than max_voxels"):
        LoadCheckedImage(max_voxels=255)(path)


def test_i7_white_of_an_xray_is_known_where_black_is_0(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], float | None]] = [
        ({"RescaleSlope": 2, "RescaleIntercept": 0}, 8190),
        ({"RescaleSlope": 1, "RescaleIntercept": -1024}, None),
        ({"PixelRepresentation": 1}, None),
    ]
    for changes, white in cases:
        assert load(save(xray(**changes), tmp_path / "a.dcm")).meta.get("max_value") == white


def test_i7_several_xrays_are_no_volume(tmp_path: Path) -> None:
    for number in range(2):
        save(xray(), tmp_path / f"{number}.dcm")
    with pytest.raises(GeometryError, match=r"0\.dcm: no ImagePositionPatient: .* give each file alone"):
        load(tmp_path)


def test_i7_one_slice_is_a_volume_one_voxel_thick(tmp_path: Path) -> None:
    path = save(make_slice(0), tmp_path / "a.dcm")
    assert load(path).shape == (1, COLUMNS, ROWS, 1)
    assert np.array_equal(load(path), load(tmp_path))
    assert np.array_equal(load(path).affine, load(tmp_path).affine)


def test_i7_most_slices_at_one_position(tmp_path: Path) -> None:
    for number, place in enumerate((0, 10, 10, 10)):
        save(make_slice(number, ImagePositionPatient=shifted(place)), tmp_path / f"{number}.dcm")
    with pytest.raises(GeometryError, match=r"1.dcm and 2.dcm lie at the same position; remove"):
        load(tmp_path)


def test_i7_gantry_tilt_is_an_oblique_affine(tmp_path: Path) -> None:
    step = 3 * NORMAL + 0.7 * DIRECTIONS[1]
    for k in range(4):
        save(make_slice(k, ImagePositionPatient=(ORIGIN + k * step).tolist()), tmp_path / f"{k}.dcm")
    assert np.allclose(load(tmp_path).affine.numpy()[:3, 2], step * [-1, -1, 1], atol=1e-6)


def remove(k: int) -> Callable[[Path], Any]:
    return lambda folder: file_of(folder, k).unlink()


def change(k: int, **changes: Any) -> Callable[[Path], Any]:
    return lambda folder: save(make_slice(k, **changes), file_of(folder, k))


def shifted(distance: float) -> list[float]:
    return (ORIGIN + distance * NORMAL).tolist()  # type: ignore[no-any-return]


def unknown_compression(folder: Path) -> None:
    data = make_slice(2)
    # HTJ2K, with bytes that no decoder takes.
    data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.201")
    data.PixelData = encapsulate([b"\x01\x02\x03\x04" * 10])
    data["PixelData"].is_undefined_length = True
    save(data, file_of(folder, 2))


def cut(keep: int) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        content = file_of(folder, 2).read_bytes()
        file_of(folder, 2).write_bytes(content[:keep])

    return damage


FAULTS: dict[str, tuple[Callable[[Path], Any], type[ImageError], str]] = {
    "missing slice": (remove(2), GeometryError, r"1 slice\(s\) missing between IM51 and IM33"),
    "slice added at a known position": (
        lambda folder: save(make_slice(2), folder / "copy.dcm"),
        GeometryError,
        r"lie at the same position; remove the duplicate",
    ),
    "mixed series": (change(2, SeriesInstanceUID=UID("1.2.9")), GeometryError, "mixed series"),
    "uneven spacing": (change(5, ImagePositionPatient=shifted(16.2)), GeometryError, "not evenly spaced"),
    "slice out of line": (
        change(2, ImagePositionPatient=(ORIGIN + 6 * NORMAL + DIRECTIONS[0]).tolist()),
        GeometryError,
        "not evenly spaced",
    ),
    "localiser": (change(2, ImageOrientationPatient=[1.0, 0, 0, 0, 0, -1]), GeometryError, "orientation"),
    "other pixel spacing": (change(2, PixelSpacing=[2.0, 1.6]), GeometryError, "pixel spacing"),
    "other size": (
        change(2, Rows=2, PixelData=pixels(0)[:2].tobytes()),
        ImageShapeError,
        r"\(5, 4\) pixels and",
    ),
    "no position": (
        change(2, ImagePositionPatient=None),
        GeometryError,
        "no ImagePositionPatient|ImagePositionPatient is",
    ),
    "colour": (
        change(
            2,
            SamplesPerPixel=3,
            PhotometricInterpretation="RGB",
            PlanarConfiguration=0,
            BitsAllocated=8,
            BitsStored=8,
            HighBit=7,
            PixelRepresentation=0,
            PixelData=bytes(60),
        ),
        ImageShapeError,
        "colour pixels",
    ),
    "multi-frame": (
        change(2, NumberOfFrames=2, PixelData=pixels(0).tobytes() * 2),
        ImageShapeError,
        "multi-frame",
    ),
    "compressed without decoder": (
        unknown_compression,
        CorruptImageError,
        "cannot be decoded|not a readable",
    ),
    "pixels cut": (cut(-8), CorruptImageError, "cannot be decoded|IM42: not a readable DICOM"),
    "header cut": (cut(400), CorruptImageError, "IM42: not a readable DICOM"),
    "empty file": (cut(0), CorruptImageError, "IM42: not a readable DICOM"),
    "foreign file": (
        lambda folder: (folder / "scan.nii").write_bytes(b"not dicom"),
        CorruptImageError,
        r"scan\.nii: not a readable DICOM",
    ),
    "dangling link": (
        lambda folder: (folder / "IM99").symlink_to(folder / "nowhere"),
        CorruptImageError,
        "IM99: not a regular file",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_i7_faults_are_named(folder: Path, fault: str) -> None:
    damage, error, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "; " in str(caught.value)


@pytest.mark.parametrize("k", [0, COUNT - 1])
def test_i7_slices_missing_at_an_end_are_told(folder: Path, k: int) -> None:
    """The grid stays even; the numbering, or the number of images that the header announces, shows it."""
    for other in range(COUNT):
        save(make_slice(other, ImagesInAcquisition=COUNT), file_of(folder, other))
    assert load(folder).shape[-1] == COUNT
    file_of(folder, k).unlink()
    with pytest.warns(GeometryWarning, match="may be missing at an end"):
        assert load(folder).shape[-1] == COUNT - 1
