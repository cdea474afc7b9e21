"""The checked reader gives what MONAI's LoadImage gives, follows its options, and names what it refuses."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, NibabelReader, NrrdReader, PILReader
from PIL import Image

from robustmed_monai.transforms.load import (
    GeometryWarning,
    LoadCheckedImage,
    LoadCheckedImaged,
    read_npz_arrays,
)
from robustmed_monai.transforms.slices import volume_to_slices
from robustmed_monai.utils.errors import (
    ConfigError,
    CorruptImageError,
    GeometryError,
    ImageShapeError,
    NonFiniteImageError,
)

AFFINE = np.array([[-0.9, 0.1, 0, 30], [0.1, 0.9, 0.3, -20], [0, -0.3, 2.1, 5], [0, 0, 0, 1]])


def save_nifti(path: Path, voxels: np.ndarray[Any, Any], affine: Any = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def by_monai(path: Path, reader: Any) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Values and meta data of MONAI's own reader: the oracle."""
    values, meta = reader.get_data(reader.read(str(path)))
    return np.asarray(values, dtype=np.float32), meta


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64", ">f4"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4), (6, 5, 4, 2)])
def test_nifti_equals_monai(
    tmp_path: Path, rng: np.random.Generator, suffix: str, dtype: str, shape: tuple[int, ...]
) -> None:
    path = save_nifti(tmp_path / f"a{suffix}", rng.integers(0, 100, shape).astype(dtype))
    expected, meta = by_monai(path, NibabelReader())
    image = LoadCheckedImage()(path)
    # A slice lies in space: one voxel thick.
    expected = expected[..., None] if len(shape) == 2 else expected
    channel_first = np.moveaxis(expected, 3, 0) if len(shape) == 4 else expected[None]
    assert np.array_equal(image.numpy(), channel_first)
    assert np.array_equal(image.affine.numpy(), meta["affine"])
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    assert image.meta["filename_or_obj"] == str(path)
    assert set(meta) - {"as_closest_canonical"} <= set(image.meta)


def test_nifti_scaling_equals_monai(tmp_path: Path, rng: np.random.Generator) -> None:
    scaled = nib.Nifti1Image(rng.random((5, 5, 5)), AFFINE)
    scaled.set_data_dtype(np.int16)
    nib.save(scaled, tmp_path / "a.nii.gz")
    expected, _ = by_monai(tmp_path / "a.nii.gz", NibabelReader())
    assert len(np.unique(expected)) == 125
    assert np.array_equal(LoadCheckedImage()(tmp_path / "a.nii.gz")[0].numpy(), expected)


@pytest.mark.parametrize("slope", [np.nan, np.inf, 0.0, 2.0])
@pytest.mark.parametrize("inter", [np.nan, 5.0])
def test_slopes_that_are_no_number_are_read_as_monai_does(tmp_path: Path, slope: float, inter: float) -> None:
    path = save_nifti(tmp_path / "a.nii", np.arange(-30, 30, dtype=np.int16).reshape(5, 4, 3))
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<ff", slope, inter)
    path.write_bytes(content)
    if slope == 2 and np.isnan(inter):
        with pytest.raises(CorruptImageError, match=r"a\.nii: .*intercept.*; repair scl_slope"):
            LoadCheckedImage()(path)
    else:
        assert np.array_equal(LoadCheckedImage()(path)[0], by_monai(path, NibabelReader())[0])


@pytest.mark.parametrize("affine", [np.eye(4), AFFINE, np.diag([-1.0, -2, 3, 1])])
def test_a_flat_nifti_is_the_volume_one_voxel_thick(tmp_path: Path, affine: Any) -> None:
    voxels = np.arange(30, dtype=np.float32).reshape(6, 5)
    flat, thin = (
        LoadCheckedImage()(save_nifti(tmp_path / f"{v.ndim}.nii", v, affine))
        for v in (voxels, voxels[..., None])
    )
    assert flat.shape == (1, 6, 5, 1)
    assert np.array_equal(flat, thin)
    assert np.array_equal(flat.affine, thin.affine)
    assert np.array_equal(volume_to_slices(flat)[0], volume_to_slices(thin)[0])


@pytest.mark.parametrize(
    ("name", "packed"), [("a.nii.gz", False), ("a.nii", True), ("a.mgz", False), ("a.mgh", True)]
)
def test_a_name_that_does_not_fit_is_told_to_be_changed(tmp_path: Path, name: str, packed: bool) -> None:
    kind = nib.MGHImage if "mg" in name else nib.Nifti1Image
    content = kind(np.ones((4, 4, 4), np.float32), np.eye(4)).to_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(CorruptImageError, match=f"{name}: (not )?compressed by gzip, .*rename it"):
        LoadCheckedImage()(tmp_path / name)


def test_more_voxels_than_asked_for_are_refused(tmp_path: Path) -> None:
    """Also where the header is honest and the file small: a gzip bomb."""
    save_nifti(tmp_path / "a.nii.gz", np.zeros((40, 40, 40), np.uint8))
    (tmp_path / "b.mgz").write_bytes(
        gzip.compress(nib.MGHImage(np.zeros((40,) * 3, "u1"), AFFINE).to_bytes())
    )
    nrrd.write(
        str(tmp_path / "c.nrrd"),
        np.zeros((40, 40, 40), np.uint8),
        {"space directions": np.eye(3), "space": "RAS"},
    )
    Image.new("L", (40, 1600)).save(tmp_path / "d.png")
    Image.new("L", (40, 40)).save(
        tmp_path / "e.tif", save_all=True, append_images=[Image.new("L", (40, 40))] * 39
    )
    for path in tmp_path.iterdir():
        with pytest.raises(
            ImageShapeError, match=rf"{path.name}: 64000 voxels are more than max_voxels \(63999\)"
        ):
            LoadCheckedImage(max_voxels=63999)(path)
    assert LoadCheckedImage(max_voxels=64000)(tmp_path / "a.nii.gz").shape == (1, 40, 40, 40)


def test_too_little_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*args: Any) -> Any:
        raise MemoryError("Unable to allocate 9 TiB")

    path = save_nifti(tmp_path / "a.nii", np.ones((3, 3, 3)))
    monkeypatch.setattr("robustmed_monai.transforms.image_readers.nifti.read_exactly", none_left)
    with pytest.raises(ImageShapeError, match=r"a\.nii: the memory does not suffice"):
        LoadCheckedImage()(path)


def test_nifti2_and_trailing_single_dimensions(tmp_path: Path, rng: np.random.Generator) -> None:
    voxels = rng.random((4, 5, 6)).astype(np.float32)
    nib.save(nib.Nifti2Image(voxels[..., None, None], AFFINE), tmp_path / "a.nii.gz")
    image = LoadCheckedImage()(tmp_path / "a.nii.gz")
    assert np.array_equal(image[0].numpy(), voxels)


@pytest.mark.parametrize(("mode", "dtype"), [("L", "uint8"), ("I;16", "uint16"), ("RGB", "uint8")])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_pictures_equal_monai(
    tmp_path: Path, rng: np.random.Generator, mode: str, dtype: str, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    shape = (7, 9, 3) if mode == "RGB" else (7, 9)
    Image.fromarray(rng.integers(0, np.iinfo(dtype).max, shape).astype(dtype)).save(path)
    expected, _ = by_monai(path, PILReader())
    image = LoadCheckedImage()(path)
    assert image.shape == ((3 if mode == "RGB" else 1), 9, 7)
    assert np.array_equal(image.numpy(), np.moveaxis(expected, 2, 0) if mode == "RGB" else expected[None])


def test_jpeg_and_bilevel_and_opaque_alpha(tmp_path: Path, rng: np.random.Generator) -> None:
    grey = rng.integers(0, 255, (7, 9), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.jpg")
    assert np.array_equal(
        LoadCheckedImage()(tmp_path / "a.jpg")[0], by_monai(tmp_path / "a.jpg", PILReader())[0]
    )
    Image.fromarray(grey > 99).save(tmp_path / "b.png")
    assert np.array_equal(LoadCheckedImage()(tmp_path / "b.png")[0], (grey > 99).T)
    for mode, channels in (("LA", 1), ("RGBA", 3)):
        Image.fromarray(grey).convert(mode).save(tmp_path / "c.png")
        image = LoadCheckedImage()(tmp_path / "c.png")
        assert image.shape[0] == channels
        assert np.array_equal(image[0], grey.T)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior"])
def test_nrrd_equals_monai(tmp_path: Path, rng: np.random.Generator, encoding: str, space: str) -> None:
    voxels = rng.integers(-9, 99, (4, 5, 6)).astype(np.int16)
    header = {"space": space, "space directions": AFFINE[:3, :3].T, "space origin": AFFINE[:3, 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), voxels, header | {"encoding": encoding})
    expected, meta = by_monai(tmp_path / "a.nrrd", NrrdReader())
    image = LoadCheckedImage()(tmp_path / "a.nrrd")
    assert np.array_equal(image[0].numpy(), expected)
    # MONAI leaves the affine of other spaces than LPS as it is: RAS already.
    assert np.allclose(image.affine.numpy(), meta["affine"], atol=1e-12)


def test_nrrd_channels_and_missing_geometry(tmp_path: Path, rng: np.random.Generator) -> None:
    voxels = rng.random((2, 4, 5, 6)).astype(np.float32)
    nan = np.full(3, np.nan)
    header = {"space": "RAS", "space directions": np.vstack([nan, np.eye(3) * 2]), "space origin": [1, 2, 3]}
    header["kinds"] = ["vector", "domain", "domain", "domain"]
    nrrd.write(str(tmp_path / "a.nrrd"), voxels, header)
    image = LoadCheckedImage()(tmp_path / "a.nrrd")
    assert np.array_equal(image.numpy(), voxels)
    assert image.affine.diagonal().tolist() == [2, 2, 2, 1]
    nrrd.write(str(tmp_path / "b.nrrd"), voxels[0], {"spacings": [1.0, 2.0, 3.0]})
    with pytest.warns(GeometryWarning, match="does not say where the axes point"):
        image = LoadCheckedImage()(tmp_path / "b.nrrd")
    assert image.affine.diagonal().tolist() == [1, 2, 3, 1]


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 2)])
def test_mgh_equals_nibabel(
    tmp_path: Path, rng: np.random.Generator, suffix: str, dtype: str, shape: tuple[int, ...]
) -> None:
    voxels = rng.integers(0, 99, shape).astype(dtype)
    source = nib.MGHImage(voxels, AFFINE)
    # nibabel leaves .mgh files open, so it only sees bytes here.
    content = source.to_bytes()
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(content) if suffix == ".mgz" else content)
    image = LoadCheckedImage()(tmp_path / f"a{suffix}")
    assert np.array_equal(image.numpy(), np.moveaxis(voxels, 3, 0) if len(shape) == 4 else voxels[None])
    assert np.allclose(image.affine.numpy(), nib.MGHImage.from_bytes(content).affine, atol=1e-5)


def test_mgh_without_geometry_has_freesurfers_default(tmp_path: Path) -> None:
    content = bytearray(nib.MGHImage(np.ones((4, 6, 8), np.float32), AFFINE).to_bytes())
    content[28:30] = b"\0\0"
    (tmp_path / "a.mgh").write_bytes(content)
    with pytest.warns(GeometryWarning, match="FreeSurfer's default"):
        affine = LoadCheckedImage()(tmp_path / "a.mgh").affine.numpy()
    assert nib.aff2axcodes(affine) == ("L", "I", "A")
    # The world's origin is the centre of the volume.
    assert np.array_equal(affine @ [2, 3, 4, 1], [0, 0, 0, 1])


def test_channels_and_dimensions_are_checked(tmp_path: Path, rng: np.random.Generator) -> None:
    grey = rng.integers(0, 255, (7, 9), dtype=np.uint8)
    Image.fromarray(grey).convert("RGB").save(tmp_path / "a.png")
    image = LoadCheckedImage(channels=1)(tmp_path / "a.png")
    assert np.array_equal(image[0].numpy(), grey.T.astype(np.float32))
    assert isinstance(image, MetaTensor)
    assert image.meta["spatial_shape"].tolist() == [9, 7]
    with pytest.raises(ImageShapeError, match=r"expected 2 channel\(s\), got 3"):
        LoadCheckedImage(channels=2)(tmp_path / "a.png")
    with pytest.raises(ImageShapeError, match=r"a\.png: expected an image of shape \(C, X, Y, Z\), got"):
        LoadCheckedImage(spatial_dims=3)(tmp_path / "a.png")
    save_nifti(tmp_path / "a.nii", rng.random((4, 4, 4, 3)))
    # Three channels of a volume are not colours: they are never mixed.
    with pytest.raises(ImageShapeError, match="got 3"):
        LoadCheckedImage(channels=1)(tmp_path / "a.nii")


def test_file_axes_can_be_kept(tmp_path: Path, rng: np.random.Generator) -> None:
    voxels = rng.random((3, 4, 5, 2)).astype(np.float32)
    save_nifti(tmp_path / "a.nii", voxels)
    image = LoadCheckedImage(ensure_channel_first=False)(tmp_path / "a.nii")
    assert np.array_equal(image.numpy(), voxels)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="'ignore'; choose one of raise, replace, mask"):
        LoadCheckedImage(on_nonfinite="ignore")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="channels=1 needs"):
        LoadCheckedImage(channels=1, ensure_channel_first=False)
    with pytest.raises(ImageShapeError, match="got list"):
        LoadCheckedImage()(["a.nii", "b.nii"])  # type: ignore[arg-type]


def test_nonfinite_policies(tmp_path: Path, rng: np.random.Generator) -> None:
    voxels = rng.random((3, 4, 5)).astype(np.float32)
    voxels[0, 1, 2], voxels[2, 2, 2] = np.nan, -np.inf
    path = save_nifti(tmp_path / "a.nii", voxels)
    with pytest.raises(NonFiniteImageError, match=r"a\.nii: 2 of 60 voxels"):
        LoadCheckedImage()(path)
    replaced = LoadCheckedImage(on_nonfinite="replace")(path)
    assert replaced.meta["nonfinite_count"] == 2
    assert np.array_equal(replaced[0].numpy(), np.where(np.isfinite(voxels), voxels, 0))
    image, finite = LoadCheckedImage(on_nonfinite="mask")(path)
    assert torch.equal(image.as_tensor(), replaced.as_tensor())
    assert np.array_equal(finite[0].numpy(), np.isfinite(voxels))
    assert torch.equal(finite.affine, image.affine)
    save_nifti(path, np.full((2, 2, 2), np.nan, np.float32))
    with pytest.raises(NonFiniteImageError, match="no voxel is finite"):
        LoadCheckedImage(on_nonfinite="replace")(path)


def test_values_beyond_float32_are_not_finite(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", np.array([[[1e300, 1.0]]]))
    with pytest.raises(NonFiniteImageError, match="1 of 2 voxels"):
        LoadCheckedImage()(path)
    # The sum of large finite values overflows; the image is still finite.
    path = save_nifti(tmp_path / "b.nii", np.full((4, 4, 4), 3e38, np.float32))
    assert LoadCheckedImage()(path).isfinite().all()


def test_finite_mask_of_a_picture_reduced_to_grey(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5, 3), 7, np.uint8)).save(tmp_path / "a.png")
    image, finite = LoadCheckedImage(on_nonfinite="mask", channels=1)(tmp_path / "a.png")
    assert image.shape == finite.shape == (1, 5, 4)
    assert bool((finite == 1).all())


def test_dictionary_transform(tmp_path: Path, rng: np.random.Generator) -> None:
    voxels = rng.random((3, 4, 5)).astype(np.float32)
    path = save_nifti(tmp_path / "a.nii.gz", voxels)
    item: dict[Hashable, Any] = {"image": str(path), "score": 3}
    result = LoadCheckedImaged(["image", "mask"], on_nonfinite="mask", allow_missing_keys=True)(item)
    assert set(result) == {"image", "image_finite", "score"}
    assert torch.equal(result["image"], LoadCheckedImage()(path))
    assert item["image"] == str(path)
    with pytest.raises(KeyError):
        LoadCheckedImaged(["image", "mask"])(item)


def test_passes_through_a_data_loader(tmp_path: Path, rng: np.random.Generator) -> None:
    paths = [save_nifti(tmp_path / f"{n}.nii.gz", rng.random((3, 4, 5))) for n in range(2)]
    loader = DataLoader(Dataset([{"image": p} for p in paths], LoadCheckedImaged("image")), batch_size=2)
    batch = next(iter(loader))["image"]
    assert batch.shape == (2, 1, 3, 4, 5)
    assert batch.meta["filename_or_obj"] == [str(p) for p in paths]


def test_npz_arrays(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = {"a": rng.integers(0, 9, (3, 4)), "b": np.asfortranarray(rng.random((2, 5)))}
    np.savez_compressed(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    result = read_npz_arrays(tmp_path / "a.npz")
    assert set(result) == {"a", "b"}
    for name, array in arrays.items():
        assert np.array_equal(result[name], array)
        assert result[name].dtype == array.dtype
        assert result[name].flags.writeable
    assert set(read_npz_arrays(tmp_path / "a.npz", ["b"])) == {"b"}
    with pytest.raises(CorruptImageError, match=r"no array 'c'; it holds a, b"):
        read_npz_arrays(tmp_path / "a.npz", ["c"])


def test_npz_refuses_pickles_bombs_and_short_shapes(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(CorruptImageError, match="Object arrays cannot be loaded"):
        read_npz_arrays(path)
    buffer = io.BytesIO()
    np.save(buffer, np.arange(8))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", buffer.getvalue() + b"more")
    with pytest.raises(CorruptImageError, match="more bytes than its shape"):
        read_npz_arrays(path)
    path.write_bytes(b"PK")
    with pytest.raises(CorruptImageError, match="BadZipFile"):
        read_npz_arrays(path)


def test_nrrd_refusals_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    good = (
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: LPS\nsizes: 2 2 2\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\n"
        "encoding: raw\nspace origin: (0,0,0)\n\n"
    )
    cases: list[tuple[str, str, type[Exception], str]] = [
        ("NRRD0004", "NRDD", CorruptImageError, "not readable by SimpleITK"),
        ("type: uint8", "type: block", CorruptImageError, "type is block"),
        ("sizes: 2 2 2", "sizes: 2 2", CorruptImageError, "parsed 2 values"),
        ("sizes: 2 2 2", "sizes: 2 0 2", CorruptImageError, "size is zero"),
        ("sizes: 2 2 2", "sizes: 999999 99999 99999", CorruptImageError, "cannot hold them"),
        ("dimension: 3\n", "dimension: 5\n", CorruptImageError, "dimension is 5"),
        ("encoding: raw", "encoding: bzip2", CorruptImageError, "encoding 'bzip2'"),
        ("encoding: raw", "encoding: raw\nendian: middle", CorruptImageError, "couldn't parse endian"),
        ("encoding: raw", "encoding: raw\ndata file: b.raw", CorruptImageError, "another file"),
        ("encoding: raw", "encoding: raw\nbyte skip: 4", CorruptImageError, "skipped"),
        ("(0,0,1)", "(0,1,0)", GeometryError, "singular"),
        ("(0,0,1)", "(0,0,x)", CorruptImageError, "parsed 2 values"),
        ("(0,0,1)", "(0,0,nan)", CorruptImageError, "must be consistent"),
        (" (0,0,1)", "", CorruptImageError, "before seeing"),
        ("origin: (0,0,0)", "origin: (0,0)", CorruptImageError, "parsed 2 values"),
        ("space: LPS", "space: scanner-xyz", GeometryError, "not supported"),
    ]
    path.write_bytes(good.encode() + bytes(8))
    assert LoadCheckedImage()(path).shape == (1, 2, 2, 2)
    for old, new, error, message in cases:
        assert old in good
        path.write_bytes(good.replace(old, new).encode() + bytes(8))
        with pytest.raises(error, match=rf"a\.nrrd: .*{message}.*; "):
            LoadCheckedImage()(path)


def test_nrrd_of_unusual_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    head = "NRRD0004\ntype: uint8\nencoding: raw\n"
    path.write_bytes((head + "dimension: 5\nsizes: 1 1 1 1 1\n\n").encode() + bytes(1))
    with pytest.raises(ImageShapeError, match="5 dimensions"):
        LoadCheckedImage()(path)
    path.write_bytes((head + "dimension: 4\nsizes: 1 1 1 1\n\n").encode() + bytes(1))
    with pytest.raises(ImageShapeError, match="4 dimensions"):
        LoadCheckedImage()(path)
    path.write_bytes((head + "dimension: 2\nsizes: 1 1\nspacings: a b\n\n").encode() + bytes(1))
    with pytest.raises(CorruptImageError, match="spacings"):
        LoadCheckedImage()(path)
    directions = "dimension: 2\nsizes: 1 1\nspace dimension: 2\nspace directions: (2,0) (0,3)\n\n"
    path.write_bytes((head + directions).encode() + bytes(1))
    with pytest.warns(GeometryWarning, match="names no space"):
        assert LoadCheckedImage()(path).affine.diagonal().tolist() == [-2, -3, 1, 1]
