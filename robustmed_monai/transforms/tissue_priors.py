"""Where tissues lie in the MNI152 frame, by the template's maps of grey and white matter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from robustmed_monai.transforms.field_files import sample_at, world_points
from robustmed_monai.transforms.template_head import template_head

_FAR = 100.0  # mm to the brain, outside of the template's grid


def tissue_priors(
    shape: tuple[int, ...],
    affine: npt.ArrayLike,
    margin: float = 1.5,
    border: float = 1.5,
    blur: float = 1.4,
    floor: tuple[float, float, float] = (0.08, 0.05, 0.02),
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
    head = template_head()
    distance = sample_at(head.distance[None] - _FAR, head.affine, points)[0] + _FAR
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
