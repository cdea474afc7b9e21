"""Two images on one grid: affine pre-alignment by SimpleITK, and what a field there means outside of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from robustmed_monai.transforms.field_files import Matrix, sample_at, world_points
from robustmed_monai.utils.errors import ImageError

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def to_itk(image: npt.NDArray[Any], affine: npt.ArrayLike) -> Any:
    """A SimpleITK image of an array (*S) with 2 or 3 axes, on the grid of a 4x4 affine (R, A, S), mm."""
    import SimpleITK

    axes = image.ndim
    matrix = (_LPS @ np.asarray(affine, np.float64))[:, [*range(axes), 3]][[*range(axes), 3]]
    spacing = np.linalg.norm(matrix[:axes, :axes], axis=0)
    made = SimpleITK.GetImageFromArray(np.ascontiguousarray(image.T, np.float32))
    made.SetSpacing(spacing.tolist())
    made.SetOrigin(matrix[:axes, -1].tolist())
    made.SetDirection((matrix[:axes, :axes] / spacing).ravel().tolist())
    return made


def align_affine(
    moving: npt.NDArray[Any],
    moving_affine: npt.ArrayLike,
    fixed: npt.NDArray[Any],
    fixed_affine: npt.ArrayLike,
    seed: int = 1,
) -> Matrix:
    """Affine alignment by mutual information, coarse to fine, from the centres of what is above 0.

    Args:
        moving: (*S) with 2 or 3 axes.
        moving_affine: its 4x4 voxel-to-world matrix (R, A, S), mm.
        fixed: (*T).
        fixed_affine: its matrix.
        seed: seed of the voxels that the measure looks at, >= 1 (0 would be the time of day).

    Returns:
        4x4 matrix from world points of the fixed image to world points of the moving one.

    Raises:
        ImageError: when SimpleITK cannot align them; the message says why.
    """
    import SimpleITK

    axes = fixed.ndim
    target, source = to_itk(fixed, fixed_affine), to_itk(moving, moving_affine)
    method = SimpleITK.ImageRegistrationMethod()
    # Several threads sum in an order of their own each time.
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(1.0 if axes == 2 else 0.2, seed)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    # Images below 16 voxels across say too little.
    factors = [f for f in (4, 2, 1) if f == 1 or min(fixed.shape) >= 16 * f]
    method.SetShrinkFactorsPerLevel(factors)
    method.SetSmoothingSigmasPerLevel([f / 2 if f > 1 else 0 for f in factors])
    try:
        start = SimpleITK.CenteredTransformInitializer(
            to_itk(fixed > 0, fixed_affine),
            to_itk(moving > 0, moving_affine),
            SimpleITK.AffineTransform(axes),
            SimpleITK.CenteredTransformInitializerFilter.MOMENTS,
        )
        method.SetInitialTransform(start, inPlace=False)
        found = method.Execute(target, source)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ImageError(
            f"affine alignment failed ({reason}); check that the images overlap, or leave it out."
        ) from error
    return affine_matrix(found, axes)


def refine_affine(
    moving: npt.NDArray[Any], fixed: npt.NDArray[Any], affine: npt.ArrayLike, steps: int = 60
) -> Matrix:
    """Affine alignment by mutual information of two volumes on one grid that nearly lie on each other.

    Args:
        moving: (X, Y, Z).
        fixed: the same shape.
        affine: 4x4 voxel-to-world matrix of their grid (R, A, S), mm.
        steps: largest number of steps, of 1 mm at first.

    Returns:
        4x4 matrix from world points of the fixed image to world points of the moving one; the identity where
        SimpleITK finds nothing.
    """
    import SimpleITK

    target, source = to_itk(fixed, affine), to_itk(moving, affine)
    method = SimpleITK.ImageRegistrationMethod()
    # As above: the same bits each time.
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.25, 1)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-2, steps)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2])
    method.SetSmoothingSigmasPerLevel([1])
    start = SimpleITK.AffineTransform(3)
    middle = np.asarray(affine) @ [*((side - 1) / 2 for side in fixed.shape), 1]
    start.SetCenter((_LPS @ middle)[:3].tolist())
    method.SetInitialTransform(start, inPlace=False)
    try:
        return affine_matrix(method.Execute(target, source), 3)
    except RuntimeError:
        return np.eye(4)


def resample_to(
    image: npt.NDArray[Any],
    affine: npt.ArrayLike,
    shape: tuple[int, ...],
    target_affine: npt.ArrayLike,
    matrix: npt.ArrayLike | None = None,
    order: int = 1,
) -> Matrix:
    """An image (C, *S) on another grid, through an alignment.

    Args:
        image: (C, *S).
        affine: its 4x4 voxel-to-world matrix.
        shape: shape of the other grid, as many axes.
        target_affine: matrix of the other grid.
        matrix: 4x4 from world points of the other grid to those of the image; None for the identity.
        order: 1 linear, 0 the nearest voxel.

    Returns:
        (C, *shape) float64; 0 outside of the image.
    """
    return sample_at(image, affine, _mapped(world_points(shape, target_affine), matrix), order)


def field_between(
    step: npt.NDArray[Any], fixed_affine: npt.ArrayLike, matrix: npt.ArrayLike | None = None
) -> Matrix:
    """The field from the fixed to the moving image: first the displacement, then the alignment.

    Args:
        step: (d, *S) displacement in mm on the fixed grid, found after the alignment.
        fixed_affine: matrix of the fixed grid.
        matrix: what :func:`align_affine` returned; None for the identity.

    Returns:
        (d, *S) in mm along (R, A, S), for ``write_world_field``.
    """
    points = world_points(step.shape[1:], fixed_affine)
    world: Matrix = _mapped(points + step, matrix) - points
    return world


def inverse_field_between(
    inverse_step: npt.NDArray[Any],
    step_affine: npt.ArrayLike,
    moving_shape: tuple[int, ...],
    moving_affine: npt.ArrayLike,
    matrix: npt.ArrayLike | None = None,
) -> Matrix:
    """The field from the moving to the fixed image, on the moving image's own grid.

    Args:
        inverse_step: (d, *S) inverse displacement in mm on any grid.
        step_affine: matrix of that grid.
        moving_shape: shape of the moving image.
        moving_affine: its matrix.
        matrix: what :func:`align_affine` returned; None for the identity.

    Returns:
        (d, *moving_shape) in mm along (R, A, S). Outside of the step's grid it is the alignment alone.
    """
    points = world_points(moving_shape, moving_affine)
    aligned = _mapped(points, None if matrix is None else np.linalg.inv(np.asarray(matrix)))
    world: Matrix = aligned + sample_at(inverse_step, step_affine, aligned) - points
    return world


def _mapped(points: Matrix, matrix: npt.ArrayLike | None) -> Matrix:
    if matrix is None:
        return points
    full, axes = np.asarray(matrix, np.float64), len(points)
    moved: Matrix = np.einsum("ij,j...->i...", full[:axes, :axes], points)
    return moved + full[:axes, 3].reshape(-1, *(1,) * axes)


def affine_matrix(transform: Any, axes: int) -> Matrix:
    """4x4 matrix in (R, A, S), mm, of an affine transform of ITK with 2 or 3 axes."""
    origin = np.asarray(transform.TransformPoint([0.0] * axes))
    steps = [np.asarray(transform.TransformPoint(row.tolist())) - origin for row in np.eye(axes)]
    matrix = np.eye(4)
    matrix[:axes, :axes] = np.stack(steps, axis=1)
    matrix[:axes, 3] = origin
    return _LPS @ matrix @ _LPS
