"""Displacement fields as NIfTI files that SimpleITK, ANTs and ITK apply, and back.

Inside this package a field is in voxels of its own grid. In a file it is in mm along ITK's axes (L, P, S),
one vector per voxel, shape (X, Y, Z, 1, 3) or (X, Y, 1, 1, 2) with the NIfTI intent "vector". It maps points
of the fixed image to points of the moving one, as ITK's transforms do, so that resampling the moving image
with it on the fixed grid gives the moved image.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch

from robustmed_monai.transforms.image_checks import check_affine, check_finite
from robustmed_monai.utils.errors import CorruptImageError, GeometryError, ImageError, ImageShapeError
from robustmed_monai.utils.files import atomic_path

Matrix = npt.NDArray[np.float64]

_TO_LPS = np.diag([-1.0, -1.0, 1.0])
# A picture has no world; ITK gives it the identity along its own axes, which is this in NIfTI's.
PICTURE_AFFINE: Matrix = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_field(
    ddf: torch.Tensor | npt.NDArray[Any], affine: npt.ArrayLike | torch.Tensor, path: str | os.PathLike[str]
) -> Path:
    """Write one field.

    Args:
        ddf: (d, *S) displacement in voxels, d = 2 or 3: ``out(x) = in(x + ddf(x))`` where both images lie on
            the grid of ``affine``. For fields between two grids see :func:`world_field`.
        affine: 4x4 voxel-to-world matrix of the grid, mm, NIfTI's axes (R, A, S); ``PICTURE_AFFINE`` for PNG.
        path: ``.nii`` or ``.nii.gz``.

    Returns:
        ``path``.

    Raises:
        ImageShapeError: when the field has another shape, or a volume is one voxel thick (ITK would take its
            field for a 2-D one).
        GeometryError: when ITK cannot hold the grid: its axes are oblique to each other, or a 2-D grid is
            tilted out of its plane.
        NonFiniteImageError: when the field holds NaN or infinite values.
        ImageError: when the suffix is another.
    """
    field = _as_array(ddf)
    matrix = check_affine(np.asarray(torch.as_tensor(affine)), "field")
    return write_world_field(voxels_to_world(field, matrix), matrix, path)


def write_world_field(field: npt.NDArray[Any], affine: npt.ArrayLike, path: str | os.PathLike[str]) -> Path:
    """Write a field that is in mm along (R, A, S) already, see :func:`write_field`.

    Args:
        field: (d, *S) displacement in mm: the moving image's point minus the fixed image's.
        affine: 4x4 voxel-to-world matrix of the fixed grid.
        path: ``.nii`` or ``.nii.gz``.
    """
    final = Path(path)
    if not final.name.lower().endswith((".nii", ".nii.gz")):
        raise ImageError(f"{final}: fields are written as .nii or .nii.gz; change the suffix.")
    values = _as_array(field)
    check_finite(values, f"field for {final}")
    axes = len(values)
    matrix = check_affine(np.asarray(affine), final)
    _check_itk(matrix, axes, final)
    if axes == 3 and 1 in values.shape[1:]:
        raise ImageShapeError(
            f"field for {final}: a volume of shape {values.shape[1:]} is one voxel thick, and ITK would read "
            "its field as 2-D; write it as a 2-D field."
        )
    lps = np.einsum("ij,j...->...i", _TO_LPS[:axes, :axes], values)
    shape = (*values.shape[1:], *(1,) * (4 - axes), axes)
    image = nib.Nifti1Image(lps.reshape(shape).astype(np.float32), matrix)
    image.header.set_intent("vector")
    image.header.set_xyzt_units("mm")
    with atomic_path(final) as temporary:
        nib.save(image, temporary)
    return final


def read_field(path: str | os.PathLike[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a field that :func:`write_field`, ANTs or SimpleITK wrote.

    Args:
        path: NIfTI with shape (X, Y, Z, 1, 3) or (X, Y, 1, 1, 2) and the intent "vector".

    Returns:
        (d, *S) float32 displacement in voxels of the file's own grid, and the 4x4 affine, float64.

    Raises:
        CorruptImageError: when the file is missing, damaged or no such field.
    """
    try:
        image: Any = nib.load(path)
        values = np.asarray(image.dataobj, dtype=np.float64)
        intent = image.header.get_intent()[0]
    except FileNotFoundError as error:
        raise CorruptImageError(f"{path}: no such file; check the path.") from error
    except Exception as error:
        raise CorruptImageError(f"{path}: cannot be read as NIfTI ({error}); write it again.") from error
    axes = values.shape[-1]
    if values.ndim != 5 or values.shape[3] != 1 or axes not in (2, 3) or intent != "vector":
        raise CorruptImageError(
            f"{path}: shape {values.shape} and intent {intent!r}; a displacement field has (X, Y, Z, 1, 3) "
            "or (X, Y, 1, 1, 2) and 'vector'."
        )
    if axes == 2 and values.shape[2] != 1:
        raise CorruptImageError(f"{path}: a volume with vectors of two numbers; give three per voxel.")
    check_finite(values, path)
    matrix = check_affine(np.asarray(image.affine), path)
    spatial = values.shape[:axes]
    ras = np.einsum("ij,...j->i...", _TO_LPS[:axes, :axes], values.reshape(*spatial, axes))
    ddf = np.einsum("ij,j...->i...", np.linalg.inv(matrix[:axes, :axes]), ras)
    return torch.from_numpy(ddf.astype(np.float32)), torch.from_numpy(matrix)


def voxels_to_world(field: npt.NDArray[Any], affine: npt.ArrayLike) -> Matrix:
    """A field (d, *S) in voxels as one in mm along (R, A, S)."""
    axes = len(field)
    world: Matrix = np.einsum("ij,j...->i...", np.asarray(affine, np.float64)[:axes, :axes], field)
    return world


def world_points(shape: tuple[int, ...], affine: npt.ArrayLike) -> Matrix:
    """World coordinates (d, *shape) in mm of the voxels of a grid with d = 2 or 3 axes."""
    axes = len(shape)
    matrix = np.asarray(affine, np.float64)
    points: Matrix = np.einsum("ij,j...->i...", matrix[:axes, :axes], np.indices(shape, np.float64))
    return points + matrix[:axes, 3].reshape(-1, *(1,) * axes)


def sample_at(image: npt.NDArray[Any], affine: npt.ArrayLike, points: Matrix, order: int = 1) -> Matrix:
    """Values of an image at world points, 0 outside of it.

    Args:
        image: (C, *S).
        affine: its 4x4 voxel-to-world matrix.
        points: (d, *T) in mm.
        order: 1 linear, 0 the nearest voxel (for labels).

    Returns:
        (C, *T) float64.
    """
    from scipy.ndimage import map_coordinates

    axes = len(points)
    matrix = np.asarray(affine, np.float64)
    offset = matrix[:axes, 3].reshape(-1, *(1,) * axes)
    places = np.einsum("ij,j...->i...", np.linalg.inv(matrix[:axes, :axes]), points - offset)
    # The nearest voxel reaches half a voxel beyond the last centre, and so does ITK's linear interpolation.
    limits = np.asarray(image.shape[1:], np.float64).reshape(-1, *(1,) * axes)
    inside = ((places >= -0.5) & (places <= limits - 0.5)).all(0)
    values = np.stack(
        [
            map_coordinates(channel, places, order=order, mode="nearest", output=np.float64)
            for channel in image
        ]
    )
    sampled: Matrix = values * inside
    return sampled


def _as_array(ddf: torch.Tensor | npt.NDArray[Any]) -> npt.NDArray[Any]:
    values = ddf.detach().cpu().numpy() if isinstance(ddf, torch.Tensor) else np.asarray(ddf)
    if values.ndim not in (3, 4) or values.shape[0] != values.ndim - 1:
        raise ImageShapeError(
            f"field of shape {values.shape}; give one field (2, X, Y) or (3, X, Y, Z), without a batch axis."
        )
    return values


def _check_itk(matrix: Matrix, axes: int, path: Path) -> None:
    """Refuse grids that a NIfTI can describe and ITK cannot."""
    directions = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-4:
        raise GeometryError(
            f"{path}: the axes of the grid are not at right angles, which ITK cannot hold; resample the "
            "fixed image to a rectangular grid first."
        )
    if axes == 2 and max(np.abs(matrix[:2, 2]).max(), np.abs(matrix[2, :2]).max()) > 1e-4:
        raise GeometryError(
            f"{path}: the plane of the 2-D grid is tilted, which ITK cannot hold in 2-D; give a volume."
        )
