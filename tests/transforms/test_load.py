"""The checked reader gives what MONAI's LoadImage gives, follows its options, and names what it refuses."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, PILReader
from PIL import Image

from robustmed_monai.transforms.load import (
    LoadCheckedImage,
    LoadCheckedImaged,
    read_npz_arrays,
)
from robustmed_monai.utils.errors import (
    ConfigError,
    CorruptImageError,
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
