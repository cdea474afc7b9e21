from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from robustmed_monai.transforms.image_checks import GeometryWarning
from robustmed_monai.transforms.load import LoadCheckedImage

AFFINE = np.array([[-0.9, 0.1, 0, 30], [0.1, 0.9, 0.3, -20], [0, -0.3, 2.1, 5], [0, 0, 0, 1]])


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
