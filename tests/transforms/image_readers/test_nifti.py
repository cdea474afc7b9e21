from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import NibabelReader

from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.volume_slices import VolumeToSlices
from robustmed_monai.utils.errors import CorruptImageError

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
    assert np.array_equal(VolumeToSlices(8)(flat), VolumeToSlices(8)(thin))


def test_nifti2_and_trailing_single_dimensions(tmp_path: Path, rng: np.random.Generator) -> None:
    voxels = rng.random((4, 5, 6)).astype(np.float32)
    nib.save(nib.Nifti2Image(voxels[..., None, None], AFFINE), tmp_path / "a.nii.gz")
    image = LoadCheckedImage()(tmp_path / "a.nii.gz")
    assert np.array_equal(image[0].numpy(), voxels)
