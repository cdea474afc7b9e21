"""The MNI152 template with a skull and a scalp: what heads are aligned to, in the frame of networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from robustmed_monai.transforms.field_files import sample_at
from robustmed_monai.transforms.random_fields import enlarge

Array = NDArray[np.float32]

# Middle of the template's field of view (197 x 233 x 189 mm) in mm along right, anterior, superior.
CENTRE = (0.0, -18.0, 22.0)
_STEP = 2
# Air around the template's field of view at the sides and at the top, in mm; below, there is no neck to show.
_MARGIN = 24
# Thickness of cerebrospinal fluid, bone and scalp outside of the brain, mm, and the T1 intensities of fluid,
# bone and fat beside those of the template's own tissue.
_LAYERS = ((2.7, 0.13), (8.7, 0.8), (14.5, 0.0))
_FLUID = 0.24
_FAR = 100.0  # mm to the brain, outside of the template's grid


@dataclass(frozen=True)
class TemplateHead:
    """The template's head on a grid of 2 mm.

    Attributes:
        image: T1-weighted intensities in [0, 1], float32.
        distance: signed distance to the surface of the brain in mm, > 0 outside, float32.
        affine: 4x4 voxel-to-world matrix (R, A, S), mm, of MNI152.
    """

    image: Array
    distance: Array
    affine: NDArray[np.float64]


@cache
def template_head() -> TemplateHead:
    """Make the head: the template's brain inside of a skull and a scalp of even thickness (it has neither).

    References:
        Fonov et al., "Unbiased average age-appropriate atlases for pediatric studies", NeuroImage 2011
        (MNI152 ICBM 2009a, as packaged by nilearn).
    """
    from nilearn import datasets

    source = datasets.load_mni152_template(resolution=1)
    t1 = source.get_fdata(dtype=np.float32)
    margins = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, _MARGIN))
    distance = np.pad(brain_distance(t1 > 0)[::_STEP, ::_STEP, ::_STEP], _in_steps(margins), mode="edge")
    distance += _beyond(distance.shape, _in_steps(margins))
    brain = np.pad(_halved(t1), _in_steps(margins))[tuple(slice(n) for n in distance.shape)]
    image = np.where(distance < 0, np.maximum(brain, _FLUID), np.float32(_FLUID))
    for start, level in _LAYERS:
        image += (np.float32(level) - image) * np.clip((distance - start) / 3.0 + 0.5, 0, 1)
    affine = source.affine @ np.diag([_STEP, _STEP, _STEP, 1.0])
    affine[:2, 3] -= _MARGIN
    return TemplateHead(image.astype(np.float32), distance, affine)


def distance_at(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed distance in mm from points of MNI152 (3, *S) to the surface of the template's brain.

    Outside of the template's grid it is 100.
    """
    head = template_head()
    distance: NDArray[np.float64] = sample_at(head.distance[None] - _FAR, head.affine, points)[0] + _FAR
    return distance


def brain_distance(brain: NDArray[np.bool_]) -> Array:
    """Signed distance in mm to the brain's surface, found at 2 mm and interpolated to 1 mm; > 0 outside."""
    from scipy.ndimage import distance_transform_edt

    margin = 24
    coarse = np.pad(brain[::2, ::2, ::2], margin // 2)
    closed = distance_transform_edt(distance_transform_edt(~coarse) <= 3.0) > 3.0
    signed = distance_transform_edt(~closed) - distance_transform_edt(closed)
    lattice = np.pad((2.0 * signed).astype(np.float32), ((0, 1),) * 3, mode="edge")
    full = enlarge(lattice, (2.0,) * 3, [size + 2 * margin for size in brain.shape])
    return full[(slice(margin, -margin),) * 3]


def _in_steps(margins: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    return tuple((low // _STEP, high // _STEP) for low, high in margins)


def _halved(t1: Array) -> Array:
    """Every second voxel of a smoothed image: what a grid of 2 mm can hold."""
    from scipy.ndimage import gaussian_filter

    smooth: Array = gaussian_filter(t1, 0.6)[::_STEP, ::_STEP, ::_STEP]
    return smooth


def _beyond(shape: tuple[int, ...], margins: tuple[tuple[int, int], ...]) -> Array:
    """Distance in mm to the part of a grid inside of its margins."""
    squared = np.zeros(shape, np.float32)
    for axis, (low, high) in enumerate(margins):
        place = np.arange(shape[axis], dtype=np.float32)
        outside = _STEP * np.maximum(np.maximum(low - place, place - (shape[axis] - 1 - high)), 0)
        squared += np.expand_dims(outside**2, [a for a in range(3) if a != axis])
    return np.sqrt(squared)
