"""What is written lies exactly where its source lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, decollate_batch
from PIL import Image

from robustmed_monai.data.volume_writer import write_like
from robustmed_monai.transforms.load import LoadCheckedImage, LoadCheckedImaged
from robustmed_monai.utils.errors import ConfigError, ImageError, ImageShapeError, NonFiniteImageError

# The source's forms differ on purpose, so that taking one for the other shows.
pytestmark = pytest.mark.filterwarnings("ignore:.*qform and sform disagree")
AFFINE = np.array([[-0.9, 0.1, 0, 30], [0.1, 0.9, 0.3, -20], [0, -0.3, 2.1, 5], [0, 0, 0, 1]])
GEOMETRY = (
    "srow_x",
    "srow_y",
    "srow_z",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "sform_code",
    "qform_code",
)


def open_nifti(path: Path) -> Any:
    """nibabel's image; its type hints know only the base class."""
    return nib.load(path)


@pytest.fixture
def source(tmp_path: Path, rng: np.random.Generator) -> Path:
    image = nib.Nifti1Image(rng.random((5, 6, 7)).astype(np.float32), None)
    image.set_sform(AFFINE, code=4)
    image.set_qform(np.diag([-1.0, 1, 2, 1]), code=1)
    image.header.set_zooms(np.linalg.norm(AFFINE[:3, :3], axis=0))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "source.nii.gz")
    return tmp_path / "source.nii.gz"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int16"])
@pytest.mark.parametrize("by_meta", [True, False])
def test_nifti_geometry_is_kept_field_by_field(source: Path, suffix: str, dtype: str, by_meta: bool) -> None:
    image = LoadCheckedImage()(source)
    values = (image * 9).round()
    path = write_like(values, image.meta if by_meta else source, source.with_name(f"out{suffix}"), dtype)
    written, original = open_nifti(path), open_nifti(source)
    assert np.array_equal(written.affine, original.affine)
    assert written.shape == original.shape
    assert written.get_data_dtype() == dtype
    for field in GEOMETRY:
        assert np.array_equal(written.header[field], original.header[field]), field
    assert np.array_equal(written.header["pixdim"][:4], original.header["pixdim"][:4])
    assert written.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(np.asanyarray(written.dataobj), values[0].numpy())
    assert torch.equal(LoadCheckedImage()(path).as_tensor(), values.as_tensor())


def test_qform_only_source(tmp_path: Path, rng: np.random.Generator) -> None:
    image = nib.Nifti1Image(rng.random((3, 4, 5)).astype(np.float32), None)
    image.set_qform(np.array([[0, -2.0, 0, 1], [-1, 0, 0, 2], [0, 0, 3, 3], [0, 0, 0, 1]]), code=1)
    nib.save(image, tmp_path / "a.nii")
    path = write_like(np.zeros((3, 4, 5)), tmp_path / "a.nii", tmp_path / "b.nii")
    assert np.array_equal(open_nifti(path).affine, open_nifti(tmp_path / "a.nii").affine)
    assert int(open_nifti(path).header["sform_code"]) == 0


def test_meta_of_a_batch_works(source: Path) -> None:
    loader = DataLoader(Dataset([{"image": source}], LoadCheckedImaged("image")), batch_size=1)
    item = decollate_batch(next(iter(loader))["image"])[0]
    path = write_like(item, item.meta, source.with_name("out.nii.gz"))
    assert np.array_equal(open_nifti(path).affine, open_nifti(source).affine)


def test_channels_become_the_fourth_axis(source: Path, rng: np.random.Generator) -> None:
    values = rng.random((2, 5, 6, 7)).astype(np.float32)
    path = write_like(values, source, source.with_name("out.nii.gz"))
    assert open_nifti(path).shape == (5, 6, 7, 2)
    assert np.array_equal(LoadCheckedImage()(path).numpy(), values)


def test_other_volumes_give_their_affine(tmp_path: Path, rng: np.random.Generator) -> None:
    voxels = rng.random((4, 5, 6)).astype(np.float32)
    nib.save(nib.MGHImage(voxels, AFFINE), tmp_path / "a.mgz")
    header = {"space": "LPS", "space directions": AFFINE[:3, :3].T, "space origin": AFFINE[:3, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), voxels, header)
    for name in ("a.mgz", "a.nrrd"):
        source = LoadCheckedImage()(tmp_path / name)
        path = write_like(source, source.meta, tmp_path / "b.nii.gz")
        assert np.allclose(open_nifti(path).affine, source.affine.numpy(), atol=1e-5)
        assert np.array_equal(open_nifti(path).get_fdata(dtype=np.float32), voxels)


def test_long_and_nifti2_sources(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(np.zeros((40000, 2), np.float32), AFFINE), tmp_path / "a.nii.gz")
    path = write_like(np.ones((40000, 2, 1)), tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    assert isinstance(open_nifti(path), nib.Nifti2Image)
    assert np.array_equal(open_nifti(path).affine, AFFINE)


@pytest.mark.parametrize(("dtype", "top"), [("float32", 255), ("uint8", 255), ("uint16", 65535)])
def test_png(tmp_path: Path, rng: np.random.Generator, dtype: str, top: int) -> None:
    Image.fromarray(rng.integers(0, 255, (6, 9), dtype=np.uint8)).save(tmp_path / "a.png")
    source = LoadCheckedImage()(tmp_path / "a.png")
    path = write_like(source / 255, source.meta, tmp_path / "b.png", dtype)
    assert np.array_equal(LoadCheckedImage()(path).numpy(), np.rint(source.numpy() / 255 * top))
    write_like(np.full((9, 6), 1.5), source.meta, path, dtype)
    assert bool((LoadCheckedImage()(path) == top).all())


def test_png_source_to_colour_png_and_to_nifti(tmp_path: Path, rng: np.random.Generator) -> None:
    colours = rng.integers(0, 255, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    source = LoadCheckedImage()(tmp_path / "a.png")
    path = write_like(source / 255, source.meta, tmp_path / "b.png")
    assert np.array_equal(np.asarray(Image.open(path)), colours)
    assert LoadCheckedImage()(write_like(source, source.meta, tmp_path / "b.nii")).shape == (3, 9, 6, 1)
    assert open_nifti(write_like(source[:1], source.meta, tmp_path / "c.nii")).shape == (9, 6)


def test_same_input_same_bytes(source: Path) -> None:
    image = LoadCheckedImage()(source)
    first = write_like(image, image.meta, source.with_name("a.nii.gz")).read_bytes()
    assert write_like(image, image.meta, source.with_name("a.nii.gz")).read_bytes() == first


def test_a_failed_write_keeps_the_previous_file(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = LoadCheckedImage()(source)
    path = write_like(image, image.meta, source.with_name("out.nii.gz"))
    before = path.read_bytes()

    def full(_: Any, target: Path) -> None:
        Path(target).write_bytes(b"torn")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_like(image * 2, image.meta, path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["out.nii.gz", "source.nii.gz"]


def test_refusals_are_named(source: Path) -> None:
    image = LoadCheckedImage()(source)
    out = source.with_name("out.nii.gz")
    cases: list[tuple[Any, Any, Path, Any, type[Exception], str]] = [
        (image[:, 1:], image.meta, out, "float32", ImageShapeError, r"expected \(5, 6, 7\)"),
        (image, {}, out, "float32", ImageShapeError, "no spatial_shape"),
        (image.numpy() * 1j, image.meta, out, "float32", ImageShapeError, "complex"),
        (image / 0, image.meta, out, "float32", NonFiniteImageError, "210 of 210"),
        (image * 300, image.meta, out, "uint8", ImageError, "round them"),
        (image.round() - 5, image.meta, out, "uint8", ImageError, "uint8 holds"),
        (image.round() + 255, image.meta, out, "uint8", ImageError, "uint8 holds"),
        (image, image.meta, out, "complex64", ConfigError, "not real"),
        (image, image.meta, out, "float16", ConfigError, "no voxel type"),
        (image, image.meta, source.with_name("out.tif"), "uint8", ConfigError, "change the suffix"),
        (image, image.meta, source.with_name("out.png"), "uint8", ImageShapeError, "does not fit a PNG"),
        (
            image[0, 0],
            {"spatial_shape": (6, 7)},
            source.with_name("a.png"),
            "int16",
            ConfigError,
            "not int16",
        ),
        (
            np.full((6, 7), 9),
            {"spatial_shape": (6, 7)},
            source.with_name("a.png"),
            "uint8",
            ImageError,
            "up to 9",
        ),
    ]
    for array, meta, path, dtype, error, message in cases:
        with pytest.raises(error, match=message):
            write_like(array, meta, path, dtype)
        assert not path.exists()
