"""I6: a voxel keeps its place in the world on the whole way from file to file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Orientation
from scipy.spatial.transform import Rotation

from robustmed_monai.data.volume_writer import write_like
from robustmed_monai.transforms.image_checks import check_affine
from robustmed_monai.transforms.load import GeometryWarning, LoadCheckedImage
from robustmed_monai.transforms.volume_slices import VolumeToSlices
from robustmed_monai.utils.errors import GeometryError

Array = np.ndarray[Any, Any]
LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
load = LoadCheckedImage()


def open_nifti(path: Path) -> Any:
    """nibabel's image; its type hints know only the base class."""
    return nib.load(path)


def random_affine(rng: np.random.Generator) -> Array:
    """Rotations to 45 degrees about every axis, anisotropic voxels, any axis order and handedness."""
    sizes = [0.5, 0.5, 5.0] if rng.random() < 0.5 else rng.uniform(0.4, 4, 3)
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    rotation = Rotation.from_euler("xyz", rng.uniform(-45, 45, 3), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = rotation @ axes @ np.diag(sizes)
    affine[:3, 3] = rng.uniform(-120, 120, 3)
    return affine


def world_of_voxels(affine: Array, shape: tuple[int, ...]) -> Array:
    """World coordinates (3, X, Y, Z) of every voxel."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    place: Array = np.einsum("ij,jxyz->ixyz", affine[:3, :3], grid) + affine[:3, 3][:, None, None, None]
    return place


def test_i6_round_trip_of_100_random_affines(tmp_path: Path, rng: np.random.Generator) -> None:
    """The image holds its own world coordinates, so that any voxel out of place shows."""
    worst_place = worst_stack = 0.0
    handedness = set()
    for _ in range(100):
        shape = tuple(int(n) for n in rng.integers(3, 7, 3))
        affine = random_affine(rng)
        world = world_of_voxels(affine, shape)
        nib.save(nib.Nifti1Image(np.moveaxis(world, 0, 3).astype(np.float32), affine), tmp_path / "a.nii.gz")
        image = load(tmp_path / "a.nii.gz")
        cut = VolumeToSlices(mode="nearest")
        slices = cut(image)
        oriented = Orientation("RPS", labels=LABELS)(image)
        worst_stack = max(worst_stack, stack_error(slices, oriented))
        back = cut.inverse(slices)
        write_like(back, image.meta, tmp_path / "b.nii.gz")
        written = open_nifti(tmp_path / "b.nii.gz")
        assert np.array_equal(written.affine, open_nifti(tmp_path / "a.nii.gz").affine)
        place = world_of_voxels(written.affine, shape)
        worst_place = max(worst_place, float(np.abs(np.moveaxis(written.get_fdata(), 3, 0) - place).max()))
        handedness.add(bool(np.linalg.det(affine[:3, :3]) > 0))
    assert handedness == {True, False}
    assert worst_place < 1e-3
    assert worst_stack < 1e-3


def stack_error(slices: torch.Tensor, oriented: Any) -> float:
    """Distance in mm of each pixel's content from where MONAI's oriented affine puts the pixel."""
    width, height, count = oriented.shape[1:]
    side = slices.shape[1]
    x, y = (side - width) // 2, (side - height) // 2
    content = slices[:, x : x + width, y : y + height].numpy()
    place = world_of_voxels(oriented.affine.numpy(), (width, height, count))
    return float(np.abs(content - place).max())


def test_i6_pixdim_mismatch_warns_and_keeps_the_sform(tmp_path: Path, rng: np.random.Generator) -> None:
    affine = random_affine(rng)
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), affine)
    image.header["pixdim"][1:4] = [7, 8, 9]
    content = image.to_bytes()
    (tmp_path / "a.nii").write_bytes(content)
    expected = nib.Nifti1Image.from_bytes(content).affine
    with pytest.warns(GeometryWarning, match=r"a\.nii: pixdim \[7.0, 8.0, 9.0\] disagrees"):
        loaded = load(tmp_path / "a.nii")
    assert np.array_equal(loaded.affine.numpy(), expected)
    write_like(loaded, loaded.meta, tmp_path / "b.nii")
    assert np.array_equal(open_nifti(tmp_path / "b.nii").affine, expected)


def test_i6_sform_comes_before_a_different_qform(tmp_path: Path, rng: np.random.Generator) -> None:
    sform = random_affine(rng)
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), None)
    image.set_qform(np.diag([*np.linalg.norm(sform[:3, :3], axis=0), 1]), code=1)
    image.set_sform(sform, code=2, update_affine=True)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.warns(GeometryWarning, match=r"a\.nii\.gz: qform and sform disagree by up to .* mm"):
        loaded = load(tmp_path / "a.nii.gz")
    assert np.allclose(loaded.affine.numpy(), sform, atol=1e-5)


def test_i6_unset_handedness_and_two_dimensions(tmp_path: Path) -> None:
    for shape in ((3, 4, 5), (3, 4)):
        image = nib.Nifti1Image(np.ones(shape, np.float32), None)
        image.header["qform_code"] = 1
        image.header["pixdim"][:4] = [0, 2, 3, 4 if len(shape) == 3 else 0]
        (tmp_path / "a.nii").write_bytes(image.to_bytes())
        affine = load(tmp_path / "a.nii").affine.diagonal().tolist()
        assert affine == [2, 3, 4 if len(shape) == 3 else 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.full((3, 4), np.nan), "NaN"),
        (np.full((3, 4), np.inf), "NaN"),
        (np.zeros((3, 4)), "degenerate"),
        (np.ones((3, 4)), "singular"),
        (np.diag([1.0, 1, 1e-9])[:, [0, 1, 2, 2]], "degenerate"),
    ],
)
def test_i6_unusable_affines_are_refused(tmp_path: Path, change: Array, message: str) -> None:
    content = bytearray(nib.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4)).to_bytes())
    content[280:328] = change.astype("<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(GeometryError, match=rf"a\.nii: .*{message}.*; repair"):
        load(tmp_path / "a.nii")


def test_i6_an_affine_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"a\.nii: the affine has shape \(3, 3\), expected \(4, 4\)"):
        check_affine(np.eye(3), "a.nii")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.diag([-1.0, 1, 1, 1]), "mirrors the other"),
        (np.array([[1.0, 0, 0, 15], [0, 1, 0, 15], [0, 0, 1, 15], [0, 0, 0, 1]]), "by up to 26.0 mm"),
    ],
)
def test_i6_qform_against_sform_is_told(
    tmp_path: Path, rng: np.random.Generator, change: Array, message: str
) -> None:
    affine = random_affine(rng)
    for other in (affine, change @ affine):
        image = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), None)
        image.set_sform(affine, code=1)
        image.set_qform(other, code=1)
        nib.save(image, tmp_path / "a.nii")
        if other is affine:
            assert np.allclose(load(tmp_path / "a.nii").affine, affine, atol=1e-5)
    with pytest.warns(
        GeometryWarning, match=rf"a\.nii: qform and sform disagree .*{message}.*; the sform is used"
    ):
        assert np.allclose(load(tmp_path / "a.nii").affine, affine, atol=1e-5)


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1000), ("micron", 0.001)])
@pytest.mark.parametrize("form", ["sform", "qform", "pixdim"])
def test_i6_other_units_are_converted_and_told(tmp_path: Path, unit: str, scale: float, form: str) -> None:
    affine = np.array([[0, -2.0, 0, 1], [1, 0, 0, 3], [0, 0, 3, -4], [0, 0, 0, 1]])
    for name in (unit, "mm"):
        image = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), None)
        image.set_sform(affine if form == "sform" else None, code=int(form == "sform"))
        image.set_qform(affine, code=int(form != "pixdim"))
        image.header.set_xyzt_units(name)
        nib.save(image, tmp_path / f"{name}.nii")
    with pytest.warns(
        GeometryWarning, match=f"{unit}.nii: the unit of length is .*; the affine is converted"
    ):
        other = load(tmp_path / f"{unit}.nii")
    expected = load(tmp_path / "mm.nii").affine
    assert np.allclose(other.affine[:3], expected[:3] * scale)
    write_like(other, other.meta, tmp_path / "result.nii")
    assert np.array_equal(open_nifti(tmp_path / "result.nii").affine, expected), "in the unit of the source"


def test_i6_an_unknown_unit_is_refused(tmp_path: Path) -> None:
    content = bytearray(nib.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4)).to_bytes())
    content[123] = 5
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(GeometryError, match=r"a\.nii: the unit of length 5 is unknown"):
        load(tmp_path / "a.nii")
