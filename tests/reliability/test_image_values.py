"""I3, I4 and I5: non-finite voxels, degenerate images, wrong dimensions and types."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from robustmed_monai.data.volume_writer import write_like
from robustmed_monai.transforms.clahe import equalize_adapthist
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.scale_foreground import IntensityWarning, ScaleForeground
from robustmed_monai.transforms.volume_slices import VolumeToSlices
from robustmed_monai.utils.errors import ImageShapeError, NonFiniteImageError

BAD = np.array([np.nan, np.inf, -np.inf], dtype=np.float32)


def open_nifti(path: Path) -> Any:
    """nibabel's image; its type hints know only the base class."""
    return nib.load(path)


def test_i3_policies_on_200_random_placements(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.nii"
    for _ in range(200):
        voxels = rng.random((8, 9, 3), dtype=np.float32)
        count = int(rng.integers(1, 60))
        places = rng.choice(voxels.size, count, replace=False)
        voxels.flat[places] = rng.choice(BAD, count)
        path.write_bytes(nib.Nifti1Image(voxels, np.eye(4)).to_bytes())
        with pytest.raises(NonFiniteImageError, match=rf"a\.nii: {count} of 216 voxels"):
            LoadCheckedImage()(path)
        image, finite = LoadCheckedImage("mask")(path)
        assert np.array_equal(finite[0].numpy() == 1, np.isfinite(voxels))
        assert np.array_equal(image[0].numpy(), np.where(np.isfinite(voxels), voxels, 0))
        replaced = LoadCheckedImage("replace")(path)
        assert replaced.meta["nonfinite_count"] == count
        cut = VolumeToSlices(16)
        slices = cut(ScaleForeground()(replaced))
        assert slices.isfinite().all()
        assert equalize_adapthist(slices.as_tensor().movedim(-1, 0)).isfinite().all()
        assert cut.inverse(slices).isfinite().all()


@pytest.mark.parametrize("shape", [(6, 5, 4), (1, 1, 1), (1, 9, 1), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_i4_constant_and_tiny_images(tmp_path: Path, shape: tuple[int, ...], value: float) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.full(shape, value, np.float32), np.eye(4)), path)
    image = LoadCheckedImage()(path)
    cut, native = VolumeToSlices(16), VolumeToSlices()
    with nullcontext() if value > 0 else pytest.warns(IntensityWarning):
        scaled = ScaleForeground()(image)
    slices = cut(scaled)
    assert slices.isfinite().all()
    back = native.inverse(native(scaled))
    # A constant positive image is all foreground and becomes 1; without foreground everything is 0.
    assert back.shape == image.shape == (1, *shape, *([1] if len(shape) == 2 else []))
    assert bool((back == (1 if value > 0 else 0)).all())
    whole = cut.inverse(slices)
    assert whole.shape == image.shape
    written = write_like(whole, image.meta, tmp_path / "b.nii.gz")
    assert open_nifti(written).shape == (*shape, 1)[:3]


def test_i4_empty_mask(tmp_path: Path) -> None:
    mask = torch.zeros(1, 6, 5, 4)
    cut = VolumeToSlices(16, mode="nearest")
    slices = cut(mask)
    assert slices.sum() == 0
    assert cut.inverse(slices).sum() == 0


def test_i5_dimensions_and_channels_name_expected_and_got(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 6), (9, 9, 9, 99)).save(tmp_path / "alpha.png")
    Image.new("CMYK", (8, 6)).save(tmp_path / "print.jpg")
    frames = [Image.new("L", (8, 6), n) for n in range(3)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    nib.save(nib.Nifti1Image(np.ones((6, 5, 4, 2), np.float32), np.eye(4)), tmp_path / "two.nii")
    cases = {
        "alpha.png": r"\(RGBA\) has transparent pixels, expected grey",
        "print.jpg": "mode 'CMYK' is not supported",
        "film.png": "holds 3 pictures, expected one",
        "two.nii": r"expected 1 channel\(s\), got 2",
    }
    for name, message in cases.items():
        with pytest.raises(ImageShapeError, match=f"{name}: .*{message}"):
            LoadCheckedImage(channels=1, spatial_dims=3)(tmp_path / name)


def test_i5_sixteen_bit_colour_is_not_cut_to_eight(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = b"".join(b"\0" + bytes(range(12)) for _ in range(2))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 2, 2, 16, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(png + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    with pytest.raises(ImageShapeError, match="16 bits is not supported"):
        LoadCheckedImage()(tmp_path / "a.png")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32", "float64"])
def test_i5_voxel_types_give_equal_slices(tmp_path: Path, rng: np.random.Generator, dtype: str) -> None:
    """Values far outside [0, 1], and negative ones, are brought into it, the same for every type."""
    voxels = rng.integers(-100 if dtype[0] != "u" else 0, 100, (6, 5, 4))
    results: list[torch.Tensor] = []
    for kind in (dtype, "float32"):
        nib.save(nib.Nifti1Image(voxels.astype(kind), np.eye(4)), tmp_path / "a.nii.gz")
        image = LoadCheckedImage()(tmp_path / "a.nii.gz")
        with nullcontext() if dtype[0] == "u" else pytest.warns(IntensityWarning):
            results.append(VolumeToSlices(8)(ScaleForeground()(image)).as_tensor())
    assert torch.allclose(results[0], results[1], atol=1e-6)
    assert results[0].min() >= 0
    assert results[0].max() <= 1
