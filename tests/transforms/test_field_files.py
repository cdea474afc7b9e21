"""Fields as files: SimpleITK applies them and gets the same image, on oblique grids too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from scipy.ndimage import gaussian_filter

from robustmed_monai.transforms.alignment import (
    align_affine,
    field_between,
    inverse_field_between,
    resample_to,
    to_itk,
)
from robustmed_monai.transforms.field_files import (
    PICTURE_AFFINE,
    read_field,
    sample_at,
    voxels_to_world,
    world_points,
    write_field,
    write_world_field,
)
from robustmed_monai.transforms.fields import integrate, warp
from robustmed_monai.utils.errors import (
    CorruptImageError,
    GeometryError,
    ImageError,
    ImageShapeError,
    NonFiniteImageError,
)


def turned(axes: int, angle: float = 0.5, spacing: tuple[float, ...] = (1.5, -2.0, 1.2)) -> np.ndarray:
    """An affine that no axis is aligned with (in 2-D: within the plane), one axis flipped."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    if axes == 3:
        matrix[:3, :3] @= np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    matrix[:3, :3] @= np.diag(spacing)
    matrix[:3, 3] = [10, -30, 7 if axes == 3 else 0]
    return matrix


def smooth(shape: tuple[int, ...], rng: np.random.Generator, size: float = 30.0) -> np.ndarray:
    return np.stack([gaussian_filter(rng.normal(size=shape), 3) for _ in shape]) * size


def save(image: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    nib.save(nib.Nifti1Image(image.astype(np.float32), affine), path)
    return path


def apply_itk(image: Path, field: Path, like: Path | None = None) -> np.ndarray:
    """What SimpleITK makes of the files."""
    moving, fixed = SimpleITK.ReadImage(str(image)), SimpleITK.ReadImage(str(like or image))
    vectors = SimpleITK.ReadImage(str(field), SimpleITK.sitkVectorFloat64)
    transform = SimpleITK.DisplacementFieldTransform(vectors)
    moved = SimpleITK.Resample(moving, fixed, transform, SimpleITK.sitkLinear, 0.0)
    return np.asarray(SimpleITK.GetArrayFromImage(moved).T)


@pytest.mark.parametrize("shape", [(20, 24), (14, 12, 10)])
def test_simpleitk_gets_the_same_image(
    shape: tuple[int, ...], tmp_path: Path, rng: np.random.Generator
) -> None:
    affine, ddf, image = turned(len(shape)), smooth(shape, rng), rng.random(shape)
    source = save(image, affine, tmp_path / "image.nii.gz")
    field = write_field(torch.from_numpy(ddf), affine, tmp_path / "field.nii.gz")
    moved = apply_itk(source, field)
    ours = warp(torch.from_numpy(image)[None, None], torch.from_numpy(ddf)[None])[0, 0].numpy()
    places = np.indices(shape) + ddf
    last = np.array(shape).reshape(-1, *[1] * len(shape)) - 1
    inside = ((places >= 0) & (places <= last)).all(0)
    assert np.abs(ddf).max() > 2
    assert inside.mean() > 0.5
    np.testing.assert_allclose(moved[inside], ours[inside], atol=1e-5)
    # And everywhere, with ITK's idea of where an image ends.
    everywhere = sample_at(image[None], affine, world_points(shape, affine) + voxels_to_world(ddf, affine))[0]
    np.testing.assert_allclose(moved, everywhere, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 7), (5, 6, 7)])
def test_reading_gives_back_what_was_written(
    shape: tuple[int, ...], tmp_path: Path, rng: np.random.Generator
) -> None:
    ddf, affine = smooth(shape, rng), turned(len(shape))
    found, matrix = read_field(write_field(ddf, affine, tmp_path / "field.nii.gz"))
    np.testing.assert_allclose(found.numpy(), ddf, atol=1e-5)
    np.testing.assert_allclose(matrix.numpy(), affine, atol=1e-5)
    stored: Any = nib.load(tmp_path / "field.nii.gz")
    assert stored.shape == (*shape, *[1] * (4 - len(shape)), len(shape))
    assert stored.header.get_intent()[0] == "vector"


def test_a_field_that_simpleitk_wrote_can_be_read(tmp_path: Path) -> None:
    vectors = SimpleITK.GetImageFromArray(np.ones((6, 5, 4, 3)) * [1.0, 2.0, 3.0], isVector=True)
    vectors.SetSpacing([2.0, 1.0, 1.0])
    SimpleITK.WriteImage(vectors, str(tmp_path / "field.nii.gz"))
    ddf, _ = read_field(tmp_path / "field.nii.gz")
    assert ddf.shape == (3, 4, 5, 6)
    np.testing.assert_allclose(ddf[:, 0, 0, 0].numpy(), [0.5, 2, 3], atol=1e-6)


def test_a_picture_is_moved_along_its_own_axes(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.zeros((10, 8), np.uint8)
    pixels[3, 2] = 200
    Image.fromarray(pixels).save(tmp_path / "image.png")
    ddf = torch.zeros(2, 8, 10)
    ddf[0], ddf[1] = 1, -2
    write_field(ddf, PICTURE_AFFINE, tmp_path / "field.nii.gz")
    moved = apply_itk(tmp_path / "image.png", tmp_path / "field.nii.gz")
    assert np.argwhere(moved > 0).tolist() == [[1, 5]]


def test_inverse_and_alignment_between_different_grids(tmp_path: Path, rng: np.random.Generator) -> None:
    """Fixed and moving image on grids of their own: one file carries one to the other, another back."""
    fixed_affine, moving_affine = turned(3, 0.3, (2, 2, 2)), turned(3, -0.2, (1.5, 1.5, 1.5))
    shape, other = (16, 16, 16), (26, 26, 26)
    centre = fixed_affine[:3] @ [7.5, 7.5, 7.5, 1]
    moving_affine[:3, 3] += centre - moving_affine[:3] @ [12.5, 12.5, 12.5, 1]
    blob = np.exp(-(((world_points(other, moving_affine) - centre[:, None, None, None]) / 6) ** 2).sum(0))
    matrix = np.eye(4)
    matrix[:3, 3] = [3, -2, 1]
    velocity = torch.from_numpy(smooth(shape, rng, 10))[None]
    ddf, inverse = (integrate(sign * velocity, 7)[0].numpy() for sign in (1, -1))
    field = field_between(voxels_to_world(ddf, fixed_affine), fixed_affine, matrix)
    back = inverse_field_between(
        voxels_to_world(inverse, fixed_affine), fixed_affine, other, moving_affine, matrix
    )
    source = save(blob, moving_affine, tmp_path / "moving.nii.gz")
    like = save(np.zeros(shape), fixed_affine, tmp_path / "fixed.nii.gz")
    forth = write_world_field(field, fixed_affine, tmp_path / "field.nii.gz")
    moved = apply_itk(source, forth, like)
    ours = sample_at(blob[None], moving_affine, world_points(shape, fixed_affine) + field)[0]
    np.testing.assert_allclose(moved, ours, atol=1e-5)
    # The network sees the aligned image and warps it: one interpolation more, so nearly the same.
    near = resample_to(blob[None], moving_affine, shape, fixed_affine, matrix)
    twice = warp(torch.from_numpy(near)[None], torch.from_numpy(ddf)[None])[0, 0].numpy()
    assert np.abs(moved - twice)[3:-3, 3:-3, 3:-3].max() < 0.08
    write_world_field(back, moving_affine, tmp_path / "back.nii.gz")
    restored = apply_itk(
        save(moved, fixed_affine, tmp_path / "moved.nii.gz"), tmp_path / "back.nii.gz", source
    )
    assert np.abs(restored - blob)[blob > 0.2].mean() < 0.05


def brain(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """A smooth ellipsoid with parts, at any points in mm."""
    shape = (-1, *[1] * len(centre))
    x = (points - centre.reshape(shape)) / np.array([12.0, 9, 10])[: len(centre)].reshape(shape)
    outer, inner = np.sqrt((x**2).sum(0)), np.sqrt(((x - 0.2) ** 2).sum(0))
    first, second, third = (1 / (1 + np.exp(-8 * d)) for d in (1 - outer, 0.6 - outer, 0.35 - inner))
    return np.asarray(first * (0.4 + 0.5 * second - 0.6 * third))


@pytest.mark.parametrize("axes", [2, 3])
def test_affine_alignment_finds_a_known_transform_across_contrasts(axes: int) -> None:
    shape, affine = (32,) * axes, turned(axes, 0.2, (1.0, 1.0, 1.0))
    points = world_points(shape, affine)
    middle: tuple[Any, ...] = (slice(None), *[16] * axes)
    centre = points[middle]
    true = np.eye(4)
    true[:axes, 3], true[0, 0] = [2.0, -1.5, 1.0][:axes], 1.05
    back = np.linalg.inv(true)
    column = (-1, *[1] * axes)
    origin = np.einsum("ij,j...->i...", back[:axes, :axes], points) + back[:axes, 3].reshape(column)
    moving = np.interp(brain(origin, centre), [0, 0.3, 0.4, 0.9, 1], [0, 0.9, 0.95, 0.3, 0.2])
    found = align_affine(moving, affine, brain(points, centre), affine)
    inside = points[(slice(None), *[slice(10, 22)] * axes)].reshape(axes, -1)

    def error(matrix: np.ndarray) -> float:
        step = (matrix - true)[:axes, :axes] @ inside + (matrix - true)[:axes, 3:]
        return float(np.linalg.norm(step, axis=0).mean())

    assert error(np.eye(4)) > 3
    assert error(found) < 0.3


def test_to_itk_is_what_itk_reads(tmp_path: Path, rng: np.random.Generator) -> None:
    image, affine = rng.random((5, 6, 7)), turned(3)
    read = SimpleITK.ReadImage(str(save(image, affine, tmp_path / "image.nii.gz")))
    made = to_itk(image, affine)
    for name in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        np.testing.assert_allclose(getattr(made, name)(), getattr(read, name)(), atol=1e-4)
    np.testing.assert_allclose(
        SimpleITK.GetArrayFromImage(made), SimpleITK.GetArrayFromImage(read), atol=1e-6
    )


class TestBadInput:
    def test_grids_that_itk_cannot_hold(self, tmp_path: Path) -> None:
        sheared = np.eye(4)
        sheared[0, 1] = 0.3
        with pytest.raises(GeometryError, match="right angles"):
            write_field(np.zeros((3, 4, 4, 4)), sheared, tmp_path / "f.nii.gz")
        with pytest.raises(GeometryError, match="tilted"):
            write_field(np.zeros((2, 4, 4)), turned(3), tmp_path / "f.nii.gz")
        assert not list(tmp_path.iterdir())

    def test_fields_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(ImageShapeError, match="without a batch axis"):
            write_field(np.zeros((1, 3, 4, 4, 4)), np.eye(4), tmp_path / "f.nii.gz")
        with pytest.raises(ImageShapeError, match="one voxel thick"):
            write_field(np.zeros((3, 4, 4, 1)), np.eye(4), tmp_path / "f.nii.gz")
        with pytest.raises(NonFiniteImageError):
            write_field(np.full((2, 4, 4), np.nan), np.eye(4), tmp_path / "f.nii.gz")
        with pytest.raises(ImageError, match="change the suffix"):
            write_field(np.zeros((2, 4, 4)), np.eye(4), tmp_path / "f.mha")

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(CorruptImageError, match="no such file"):
            read_field(tmp_path / "f.nii.gz")
        with pytest.raises(CorruptImageError, match="a displacement field has"):
            read_field(save(np.zeros((4, 4, 4)), np.eye(4), tmp_path / "image.nii.gz"))
        (tmp_path / "f.nii").write_bytes(b"no image")
        with pytest.raises(CorruptImageError, match="cannot be read as NIfTI"):
            read_field(tmp_path / "f.nii")
