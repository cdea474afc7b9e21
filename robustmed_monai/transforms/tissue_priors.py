"""Where tissues, ventricles and deep grey matter lie in the MNI152 frame, by the template's maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from robustmed_monai.transforms.field_files import sample_at, world_points
from robustmed_monai.transforms.template_head import distance_at

# The ventricles in mm of MNI152, right and left alike: a place within the lateral ones, whose fluid hangs
# together; boxes (low, high) around the third and the fourth; a tube through the inferior horns, which are
# too narrow for the template's maps.
_LATERAL = (12.0, -4.0, 22.0)
_BOXES = (((-4, -29, -12), (4, 4, 10)), ((-14, -52, -46), (14, -34, -20)))
_HORN, _HORN_RADIUS = ((30.0, -8.0, -20.0), (33.0, -22.0, -14.0), (34.0, -36.0, -6.0)), 4.0
# Fluid less deep inside of the brain is no part of the lateral ventricles, mm.
_DEPTH = 8.0

# Deep grey matter in mm of MNI152, right and left alike: ellipsoids (middle, half axes) around thalamus, head
# of the caudate, putamen and pallidum, and a tube along the caudate's body.
_DEEP = (
    ((11.0, -18.0, 8.0), (9.5, 14.0, 9.0)),
    ((12.0, 14.0, 4.0), (6.0, 10.0, 11.0)),
    ((27.0, 3.0, 1.0), (6.5, 17.0, 11.0)),
    ((20.0, -4.0, -1.0), (6.0, 9.0, 6.0)),
)
_BODY, _BODY_RADIUS, _BODY_SHARE = ((12.0, 12.0, 10.0), (15.0, 0.0, 20.0), (18.0, -12.0, 22.0)), 5.0, 0.8
# Brainstem: midbrain, pons and medulla.
_STEM = (
    ((0.0, -24.0, -14.0), (17.0, 11.0, 11.0)),
    ((0.0, -27.0, -31.0), (17.0, 14.0, 15.0)),
    ((0.0, -38.0, -50.0), (11.0, 11.0, 18.0)),
)
# How much larger than drawn they may be, and how gradually they end, in half axes.
_BEYOND, _FADE = 1.1, 0.08


def tissue_priors(
    shape: tuple[int, ...],
    affine: npt.ArrayLike,
    margin: float = 1.0,
    border: float = 1.5,
    blur: float = 1.4,
    floor: tuple[float, float, float] = (0.08, 0.05, 0.05),
) -> NDArray[np.float32]:
    """Probability of each tissue on a grid of the MNI152 frame.

    Args:
        shape: (X, Y, Z).
        affine: 4x4 voxel-to-world matrix of the grid (R, A, S), mm; its axes are those of the world.
        margin: fluid between the brain's surface and the skull, mm.
        border: how gradually the skull begins, mm (scale of a logistic curve).
        blur: standard deviation in mm of the smoothing of the template's maps.
        floor: added to the probabilities of CSF, grey and white matter inside of the skull: people vary more
            than the 152 of the template.

    Returns:
        (4, X, Y, Z) float32 that sum to one: outside of the skull, CSF, grey matter, white matter.

    References:
        Fonov et al., "Unbiased average age-appropriate atlases for pediatric studies", NeuroImage 2011
        (MNI152 ICBM 2009a, as packaged by nilearn).
    """
    from nilearn import datasets
    from scipy.ndimage import gaussian_filter
    from scipy.special import expit

    points = world_points(shape, affine)
    distance = distance_at(points)
    inside = expit((margin - distance) / border)
    sigma = blur / np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0)
    maps = []
    for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template):
        source = load(resolution=1)
        values = source.get_fdata(dtype=np.float32)[None]
        maps.append(gaussian_filter(sample_at(values, source.affine, points)[0], sigma))
    grey, white = maps
    tissues = np.stack([np.clip(1 - grey - white, 0, 1), grey, white])
    tissues += np.reshape(floor, (3, 1, 1, 1))
    tissues *= inside / tissues.sum(0)
    priors: NDArray[np.float32] = np.concatenate([1 - inside[None], tissues]).astype(np.float32)
    return priors


@cache
def template_tissue() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Share of grey and white matter of MNI152 together, (X, Y, Z) of 2 mm, and its voxel-to-world matrix."""
    from nilearn import datasets

    maps = [
        load(resolution=2) for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    ]
    return sum(image.get_fdata(dtype=np.float32) for image in maps), maps[0].affine


def ventricle_region(shape: tuple[int, ...], affine: npt.ArrayLike) -> NDArray[np.float32]:
    """Where fluid of the MNI152 frame is the ventricles': what lies nearer to theirs than to other fluid.

    Args:
        shape: (X, Y, Z).
        affine: see ``tissue_priors``.

    Returns:
        (X, Y, Z) float32 in [0, 1].

    Source: the template's maps, see ``tissue_priors``; which of their fluid is that of the ventricles is said
    by a few places of this module, drawn by hand.
    """
    from scipy.ndimage import distance_transform_edt, label

    tissue, source = template_tissue()
    points = world_points(tissue.shape, source)
    distance = distance_at(points)
    fluid = (tissue < 0.5) & (distance < 2.0)
    pieces = label(fluid & (distance < -_DEPTH))[0]
    sides = [
        sample_at(pieces[None], source, np.reshape((s * _LATERAL[0], *_LATERAL[1:]), (3, 1, 1, 1)), 0)
        for s in (1, -1)
    ]
    ventricles = np.isin(pieces, [int(number.item()) for number in sides]) & (pieces > 0)
    for low, high in _BOXES:
        bounds = [np.reshape(bound, (3, 1, 1, 1)) for bound in (low, high)]
        ventricles |= fluid & ((points >= bounds[0]) & (points <= bounds[1])).all(0)
    ventricles |= _near_path(np.concatenate([np.abs(points[:1]), points[1:]]), _HORN, _HORN_RADIUS)
    nearer = distance_transform_edt(~ventricles) < distance_transform_edt(~fluid | ventricles)
    region = sample_at(nearer[None].astype(np.float32), source, world_points(shape, affine))[0]
    return np.asarray(region, np.float32)


def deep_grey_region(shape: tuple[int, ...], affine: npt.ArrayLike) -> NDArray[np.float32]:
    """Where grey matter of the MNI152 frame is that of thalamus, caudate, putamen or pallidum.

    Args:
        shape: (X, Y, Z).
        affine: see ``tissue_priors``.

    Returns:
        (X, Y, Z) float32 in [0, 1]; the white matter between them lies within, too.

    Source: places of this module, drawn by hand on the template's map of grey matter.
    """
    points = world_points(shape, affine)
    sides = np.concatenate([np.abs(points[:1]), points[1:]])
    body = _BODY_SHARE * _near_path(sides, _BODY, _BODY_RADIUS)
    return np.asarray(np.maximum(body, _in_ellipsoids(sides, _DEEP)), np.float32)


def brainstem_region(shape: tuple[int, ...], affine: npt.ArrayLike) -> NDArray[np.float32]:
    """Where tissue of the MNI152 frame is that of the brainstem.

    Args:
        shape: (X, Y, Z).
        affine: see ``tissue_priors``.

    Returns:
        (X, Y, Z) float32 in [0, 1]; neighbouring fluid lies within, too.

    Source: places of this module, drawn by hand on the template.
    """
    return np.asarray(_in_ellipsoids(world_points(shape, affine), _STEM), np.float32)


def _in_ellipsoids(
    points: NDArray[np.float64], ellipsoids: Sequence[tuple[Sequence[float], Sequence[float]]]
) -> NDArray[np.float64]:
    """How much points (3, *S) lie within any of some ellipsoids (middle, half axes)."""
    from scipy.special import expit

    region = np.zeros(points.shape[1:])
    for middle, axes in ellipsoids:
        away = [(points[k] - middle[k]) / axes[k] for k in range(3)]
        region = np.maximum(region, expit((_BEYOND - np.linalg.norm(away, axis=0)) / _FADE))
    return region


def _near_path(
    points: NDArray[np.float64], path: Sequence[Sequence[float]], radius: float
) -> NDArray[np.bool_]:
    """Which points (3, *S) lie within a radius of a path of straight pieces."""
    near = np.zeros(points.shape[1:], np.bool_)
    for start, end in pairwise(np.reshape(path, (-1, 3, 1, 1, 1))):
        along = end - start
        share = np.clip(((points - start) * along).sum(0) / (along**2).sum(), 0, 1)
        near |= ((points - start - share * along) ** 2).sum(0) <= radius**2
    return near
