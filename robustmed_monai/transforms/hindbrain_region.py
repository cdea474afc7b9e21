"""Where cerebellum and brainstem lie in the MNI152 frame, by places drawn by hand and the template's maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from robustmed_monai.transforms.field_files import sample_at, world_points
from robustmed_monai.transforms.tissue_priors import template_tissue

# Ellipsoids (middle, half axes) in mm of MNI152, right and left alike, that surely lie within a part; what
# lies between them goes to the part that it hangs together with.
_CEREBRUM = (
    ((0.0, -20.0, 40.0), (75.0, 100.0, 32.0)),
    ((0.0, 30.0, -10.0), (60.0, 40.0, 40.0)),
    ((38.0, -45.0, -6.0), (26.0, 40.0, 8.0)),  # above the tentorium
    ((14.0, -78.0, 0.0), (14.0, 20.0, 9.0)),
    ((24.0, -92.0, -6.0), (20.0, 12.0, 8.0)),
    ((52.0, -25.0, -18.0), (16.0, 30.0, 14.0)),  # temporal lobe
    ((40.0, 0.0, -30.0), (24.0, 20.0, 24.0)),
    ((25.0, -18.0, -18.0), (9.0, 18.0, 9.0)),  # hippocampus
    ((9.0, -14.0, 5.0), (15.0, 16.0, 9.0)),  # thalamus
)
_CEREBELLUM = (
    ((22.0, -64.0, -40.0), (26.0, 24.0, 14.0)),
    ((25.0, -62.0, -28.0), (16.0, 18.0, 6.0)),
    ((0.0, -60.0, -18.0), (10.0, 12.0, 13.0)),  # vermis
)
# No fluid parts the brainstem from its neighbours, so it is drawn as large as it is.
_BRAINSTEM = (
    ((0.0, -30.0, -10.0), (14.0, 8.0, 11.0)),  # midbrain
    ((0.0, -25.0, -31.0), (20.0, 13.0, 14.0)),  # pons
    ((0.0, -35.0, -30.0), (10.0, 9.0, 17.0)),
    ((0.0, -39.0, -46.0), (11.0, 10.0, 13.0)),  # medulla
    ((0.0, -45.0, -59.0), (11.0, 9.0, 11.0)),
)
# Of the template's tissue before the parts are told, in voxels of 2 mm.
_BLUR = 0.7


def hindbrain_region(shape: tuple[int, ...], affine: npt.ArrayLike) -> NDArray[np.float32]:
    """Where tissue of the MNI152 frame is that of the cerebellum, and where that of the brainstem.

    Places that surely lie within cerebrum and cerebellum grow over the template's tissue until they meet
    where there is least of it (a watershed): at the fluid of the tentorium. The brainstem is drawn.

    Args:
        shape: (X, Y, Z).
        affine: 4x4 voxel-to-world matrix of the grid (R, A, S), mm; its axes are those of the world.

    Returns:
        (2, X, Y, Z) float32 in [0, 1], cerebellum and brainstem; neighbouring fluid lies within, too.

    Source: places of this module, drawn by hand on the template's maps, see ``tissue_priors``.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.segmentation import watershed

    tissue, source = template_tissue()
    points = world_points(tissue.shape, source)
    places = np.zeros(tissue.shape, np.int16)
    for number, part in enumerate((_CEREBRUM, _CEREBELLUM), 1):
        places[_within(points, part)] = number
    stem = _within(points, _BRAINSTEM)
    height = 1 - np.clip(gaussian_filter(tissue, _BLUR), 0, 1)
    parts = watershed(height, places * ~stem, mask=~stem)
    regions = np.stack([parts == 2, stem]).astype(np.float32)
    return np.asarray(sample_at(regions, source, world_points(shape, affine)), np.float32)


def _within(
    points: NDArray[np.float64], ellipsoids: Sequence[tuple[Sequence[float], Sequence[float]]]
) -> NDArray[np.bool_]:
    """Which points (3, *S) lie within any of some ellipsoids, right and left alike."""
    sides = np.concatenate([np.abs(points[:1]), points[1:]])
    within = np.zeros(points.shape[1:], np.bool_)
    for middle, axes in ellipsoids:
        within |= sum(((sides[k] - middle[k]) / axes[k]) ** 2 for k in range(3)) <= 1
    return within
