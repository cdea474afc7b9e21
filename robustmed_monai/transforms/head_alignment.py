"""A head of any position, contrast and extent to the MNI152 template: affine, and aware of its failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from robustmed_monai.transforms.alignment import affine_matrix, to_itk
from robustmed_monai.transforms.field_files import Matrix
from robustmed_monai.transforms.template_head import template_head
from robustmed_monai.utils.errors import ImageError

# Grids of the search and of the refinement, mm.
_COARSE, _FINE = 7.2, 3.6
# What lies deeper below the top of the head is neck, mm.
_HEAD_DEPTH = 165.0
# Nods of the starts, radians: heads lie in a scanner between chin up and chin down.
_PITCHES = (-0.35, 0.0, 0.35)
# Turns about the vertical, degrees, where a file does not tell how the head lies: back to front it would pass
# for a head with .43 to .53 of mutual information (.48 to .85 as it is), so that is always looked at.
_BACK_TO_FRONT, _OTHER_WAYS = (180,), (90, -90, 45, -45)
# Where images are compared: in the brain and around it, of a whole head only above the base of the skull (mm,
# z of the template): further down, it has a face and a neck and the template has none.
_REACH, _INSIDE, _SKULL_BASE = 30.0, 3.0, -10.0
# A brain without its skull ends here, mm outside of the template's.
_BRAIN_END = 1.0
# Brighter than this share of the brightest percentile is head.
_AIR = 0.15
_BINS = 32
# Deeper than this below the surface of the brain there is tissue all around, mm.
_DEEP = -10.0
_STEPS = np.linspace(0, 1, 17)[1:-1]
# Heads have at least this much mutual information with the template (natural units), and inside of the brain;
# a smooth ball would have the first of these.
_LEAST_INFORMATION, _LEAST_INSIDE = 0.3, 0.04
# Sides of a head are of these sizes relative to the template's, and at most so skewed.
_STRETCH, _SKEW = (0.7, 1.45), 0.3


@dataclass(frozen=True)
class HeadAlignment:
    """How a head lies relative to the template.

    Attributes:
        matrix: 4x4 matrix from world points of the template (R, A, S; mm) to those of the image.
        information: mutual information of the image and the template, >= 0.
        doubt: why this is no alignment; None where it is one.
    """

    matrix: Matrix
    information: float
    doubt: str | None

    @property
    def turn(self) -> float:
        """By how many degrees, in [0, 180], left and right are turned against what the affine says.

        A nod turns about the axis from left to right and does not count.
        """
        left, _, right = np.linalg.svd(self.matrix[:3, :3])
        return float(np.degrees(np.arccos(np.clip((left @ right)[0, 0], -1, 1))))


def align_head(image: npt.NDArray[Any], affine: npt.ArrayLike) -> HeadAlignment:
    """Align a head, with or without skull, face and neck, of any contrast, to the MNI152 template.

    The head is found by its brightness, a neck is cut off, and a similarity transform is searched from three
    nods on a grid of 7.2 mm, to the template's head (``template_head``) and to its brain alone. The best one
    becomes an affine transform on a grid of 3.6 mm. Both maximise the mutual information in the brain, the
    vault of the skull and the air around it. Then back and front change places, and where no head was found
    it is looked for turned by 45 and 90 degrees about the vertical: the file may be wrong about how it lies.
    The same image gives the same matrix.

    Args:
        image: (X, Y, Z), not negative, air near 0.
        affine: its 4x4 voxel-to-world matrix (R, A, S), mm; it says which way is up.

    Returns:
        The alignment; where it has a ``doubt`` its matrix is of no use.
    """
    values = np.clip(np.asarray(image, np.float32), 0, None)
    try:
        coarse, fine = (_on_grid(to_itk(values, affine), step) for step in (_COARSE, _FINE))
    except (RuntimeError, ImageError) as error:
        return _not_found(error)
    found = _aligned(coarse, fine, _PITCHES)
    for degrees in (*_BACK_TO_FRONT, *(_OTHER_WAYS if found.doubt else ())):
        turn = _about_vertical(degrees)
        other = _aligned(_turned(coarse, turn), _turned(fine, turn), (0.0,))
        if other.doubt is None and (found.doubt is not None or other.information > found.information):
            found = replace(other, matrix=turn.T @ other.matrix)
    return found


def _about_vertical(degrees: float) -> Matrix:
    turn = np.eye(4)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn[:2, :2] = [[cosine, -sine], [sine, cosine]]
    return turn


def _turned(image: Any, turn: Matrix) -> Any:
    """The same voxels turned about the vertical, which ITK's world shares with ours."""
    import SimpleITK

    moved, turning = SimpleITK.Image(image), turn[:3, :3]
    moved.SetDirection((turning @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    moved.SetOrigin((turning @ image.GetOrigin()).tolist())
    return moved


def _aligned(coarse: Any, fine: Any, pitches: Sequence[float]) -> HeadAlignment:
    try:
        # The template that is like the image says more about it, whether it has its skull or not.
        ends = [_refined(_searched(coarse, stripped, pitches), fine, stripped) for stripped in (False, True)]
        information, found = max(ends, key=lambda end: end[0])
        inside = _information_inside(found, fine)
    except (RuntimeError, ImageError) as error:
        return _not_found(error)
    matrix = affine_matrix(found, 3)
    return HeadAlignment(matrix, information, _doubt(matrix, information, inside))


def _not_found(error: Exception) -> HeadAlignment:
    reason = str(error).strip().splitlines()[-1]
    return HeadAlignment(np.eye(4), 0.0, f"no alignment was found ({reason})")


def _doubt(matrix: Matrix, information: float, inside: float) -> str | None:
    if information < _LEAST_INFORMATION:
        return f"it is not like a head (mutual information {information:.2f}, below {_LEAST_INFORMATION:.2f})"
    if inside < _LEAST_INSIDE:
        return f"its inside is not like a brain (mutual information {inside:.3f}, below {_LEAST_INSIDE:.2f})"
    stretch = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    sides = np.linalg.norm(matrix[:3, :3], axis=0)
    angles = np.abs((matrix[:3, :3] / sides).T @ (matrix[:3, :3] / sides) - np.eye(3)).max()
    if not _STRETCH[0] < stretch.min() <= stretch.max() < _STRETCH[1] or angles > _SKEW:
        sizes = ", ".join(f"{side:.2f}" for side in sides)
        return f"it would be a head of {sizes} times the usual width, length and height"
    return None


@cache
def _template(step: float, stripped: bool) -> tuple[Any, Any, Matrix]:
    """The template's head or brain, where it is compared (1 or 0), and its extent in ITK's world (2, 3)."""
    import SimpleITK

    head = template_head()
    shown = np.where(head.distance < _BRAIN_END, head.image, np.float32(0)) if stripped else head.image
    image, distance = (_on_grid(to_itk(part, head.affine), step) for part in (shown, head.distance))
    depth = SimpleITK.GetArrayFromImage(distance)
    height = image.GetOrigin()[2] + image.GetSpacing()[2] * np.arange(depth.shape[0])[:, None, None]
    compared = (depth < _INSIDE) | ((depth < _REACH) & (stripped | (height > _SKULL_BASE)))
    mask = SimpleITK.GetImageFromArray(compared.astype(np.uint8))
    mask.CopyInformation(image)
    return image, mask, _extent(image)


def _on_grid(image: Any, step: float) -> Any:
    """An ITK image smoothed and sampled about every ``step`` mm along its own axes."""
    import SimpleITK

    spacing, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    count = np.maximum(np.round(size * spacing / step), 1).astype(int)
    wanted = size * spacing / count
    for axis in np.nonzero((wanted > 1.2 * spacing) & (size >= 4))[0]:
        sigma = 0.45 * float(np.sqrt(wanted[axis] ** 2 - spacing[axis] ** 2))
        image = SimpleITK.RecursiveGaussian(image, sigma=sigma, direction=int(axis))
    origin = image.TransformContinuousIndexToPhysicalPoint(((wanted / spacing - 1) / 2).tolist())
    return SimpleITK.Resample(
        image,
        count.tolist(),
        SimpleITK.Transform(),
        SimpleITK.sitkLinear,
        origin,
        wanted.tolist(),
        image.GetDirection(),
        0.0,
    )


def _extent(image: Any) -> Matrix:
    """Lowest and highest point (2, 3) of a head without its neck, in ITK's world (L, P, S)."""
    import SimpleITK
    from scipy.ndimage import label

    values = SimpleITK.GetArrayFromImage(image)
    bright = values[values > _AIR * values.max()]
    if not bright.size:
        raise ImageError("it is empty")
    pieces, _ = label(values > _AIR * np.percentile(bright, 99))
    counts = np.bincount(pieces.ravel())
    counts[0] = 0
    voxels = np.argwhere(pieces == counts.argmax())[:, ::-1]
    steps = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    points = voxels @ steps.T + np.array(image.GetOrigin())
    head = points[points[:, 2] > points[:, 2].max() - _HEAD_DEPTH]
    ends: Matrix = np.percentile(head, [1, 99], axis=0)
    return ends


def _searched(moving: Any, stripped: bool, pitches: Sequence[float]) -> Any:
    """The best similarity transform from the template to a head, of those found from each start."""
    import SimpleITK

    fixed, mask, usual = _template(_COARSE, stripped)
    found = _extent(moving)
    # Tops and middles meet; the head turns about the middle of the template's.
    middle, usual_middle = found.mean(0), usual.mean(0)
    middle[2], usual_middle[2] = found[1, 2], usual[1, 2]
    turning = usual_middle - [0, 0, _HEAD_DEPTH / 2]
    sides = np.median(((found[1] - found[0]) / (usual[1] - usual[0]))[:2])
    ends = []
    for pitch in pitches:
        start = SimpleITK.Similarity3DTransform()
        start.SetCenter(turning.tolist())
        start.SetRotation([1.0, 0.0, 0.0], pitch)
        start.SetScale(float(np.clip(sides, *_STRETCH)))
        start.SetTranslation((middle - usual_middle).tolist())
        method = _method(mask, share=1.0, step=3.0, least=1e-2, rounds=40)
        method.SetInitialTransform(start, True)
        method.Execute(fixed, moving)
        ends.append((-float(method.GetMetricValue()), start))
    return max(ends, key=lambda end: end[0])[1]


def _refined(start: Any, moving: Any, stripped: bool) -> tuple[float, Any]:
    """Mutual information of the affine transform that a similarity transform becomes, and the transform."""
    import SimpleITK

    fixed, mask, _ = _template(_FINE, stripped)
    transform = SimpleITK.AffineTransform(3)
    transform.SetCenter(start.GetCenter())
    transform.SetMatrix(start.GetMatrix())
    transform.SetTranslation(start.GetTranslation())
    method = _method(mask, share=0.3, step=1.0, least=1e-3, rounds=100)
    method.SetInitialTransform(transform, True)
    method.Execute(fixed, moving)
    return -float(method.GetMetricValue()), transform


def _information_inside(transform: Any, moving: Any) -> float:
    """Mutual information of an aligned image and the template deep in the brain, natural units."""
    import SimpleITK
    from sklearn.metrics import mutual_info_score

    head = template_head()
    fixed = to_itk(head.image, head.affine)
    moved = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(moving, fixed, transform, SimpleITK.sitkLinear, -1.0)
    ).T
    deep = (head.distance < _DEEP) & (moved >= 0)
    if not deep.any():
        return 0.0
    steps = (np.searchsorted(np.quantile(v, _STEPS), v) for v in (head.image[deep], moved[deep]))
    return float(mutual_info_score(*steps))


def _method(mask: Any, share: float, step: float, least: float, rounds: int) -> Any:
    import SimpleITK

    method = SimpleITK.ImageRegistrationMethod()
    # On several threads the sums, and so the last bits, would differ from run to run.
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.REGULAR if share < 1 else method.NONE)
    method.SetMetricSamplingPercentage(share, 1)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(step, least, rounds)
    method.SetOptimizerScalesFromPhysicalShift()
    return method
