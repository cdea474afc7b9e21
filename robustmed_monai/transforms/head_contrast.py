"""Which contrast a head has, by how bright its tissues are where the template has them."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from robustmed_monai.transforms.align_to_template import AlignmentWarning, AlignToTemplate, placement_of
from robustmed_monai.transforms.same_grid import has_voxel_size
from robustmed_monai.transforms.tissue_priors import tissue_priors

# What the template is surer of than this is looked at as CSF, grey and white matter, where there are as many
# voxels of each.
_SURE, _LEAST = (0.45, 0.5, 0.75), 50
# Brightness is 0 in CSF and 1 in white matter: fluid is below the first number, as bright as white matter is
# 1 more or less the second, far brighter is above the third.
_FLUID, _NEAR, _BRIGHT = 0.3, 0.2, 1.4
# White matter is brighter than CSF in fewer pairs (T2) or in more (T1, FLAIR); between nothing is said.
_BELOW, _ABOVE = 0.4, 0.6
# In T1 less of the grey matter is as bright as white matter, in FLAIR more; between nobody can be sure. Set
# between virtual subjects and 16 T1 heads, and 16 FLAIR heads (tools/results_contrast.py).
_APART, _ALIKE = 0.46, 0.52
# Where a volume that lies in no frame is looked at: size, spacing, heights and step, see ``AlignToTemplate``.
_FRAME = (128, 1.8203125, (18.0, 30.0), 2.0)
# Bins between half the brightness of white matter and all of it, and the spread of the smoothing over them.
_BINS, _SMOOTH = 60, 4.0


class TissueLevels(NamedTuple):
    """How bright the tissues of a head are beside each other.

    Attributes:
        white_over_csf: share of pairs in which white matter is brighter than CSF, in [0, 1].
        grey_like_white: share of grey matter, without the fluid in it, that is as bright as white matter or
            far brighter (darker where CSF is bright), in [0, 1].
    """

    white_over_csf: float
    grey_like_white: float


def tissue_levels(values: NDArray[Any], priors: NDArray[np.float32]) -> TissueLevels | None:
    """Compare the tissues of an image; unit, scale and sign of its intensities do not matter.

    Args:
        values: (X, Y, S); the lowest and the highest one may stand for what was clipped.
        priors: (4, X, Y, S), see ``tissue_priors``.

    Returns:
        The levels; None where the image shows too little of a tissue.
    """
    from sklearn.metrics import roc_auc_score

    csf, grey, white = (values[prior > sure] for prior, sure in zip(priors[1:], _SURE, strict=True))
    if min(len(csf), len(grey), len(white)) < _LEAST:
        return None
    pairs = roc_auc_score([0] * len(csf) + [1] * len(white), np.concatenate([csf, white]))
    fluid = float(np.median(csf))
    # Wide ventricles reach into what is white matter in the template.
    ends = np.quantile(white, [0.1, 0.9])
    range_ = float(ends[np.abs(ends - fluid).argmax()]) - fluid
    seen = (white > values.min()) & (white < values.max())
    white = white[seen & ((white - fluid) * np.sign(range_) > 0.5 * abs(range_))]
    if len(white) < _LEAST:
        return None
    tissue = (grey - fluid) / (_most_frequent(white) - fluid)
    tissue = tissue[tissue > _FLUID]
    alike = (np.abs(tissue - 1) < _NEAR) | (tissue > _BRIGHT)
    return TissueLevels(float(pairs), float(alike.mean())) if len(tissue) >= _LEAST else None


def head_contrast(levels: TissueLevels) -> str | None:
    """The contrast of a head by the levels of its tissues: "T1", "FLAIR" or "T2"; None where it is unsure.

    "T2" stands for all in which CSF is brighter than white matter: PD and inverted images too; "FLAIR" for
    all in which it is darker and grey matter is not darker than white matter: CT too.

    Example:
        >>> head_contrast(TissueLevels(0.9, 0.3)), head_contrast(TissueLevels(0.9, 0.6))
        ('T1', 'FLAIR')
        >>> head_contrast(TissueLevels(0.1, 0.3))
        'T2'
    """
    if levels.white_over_csf < _BELOW:
        return "T2"
    if levels.white_over_csf < _ABOVE or _APART < levels.grey_like_white < _ALIKE:
        return None
    return "FLAIR" if levels.grey_like_white >= _ALIKE else "T1"


class Doubt(NamedTuple):
    """What speaks against the contrast that a network knows.

    Attributes:
        sentence: what the head looks like, and by which figure.
        sure: False where it may be the known contrast all the same.
    """

    sentence: str
    sure: bool


def contrast_doubt(stack: Any, known: str, align: bool = False) -> Doubt | None:
    """Find out whether a head has another contrast than the one that is known.

    Args:
        stack: (C, X, Y, S), as ``AlignToTemplate`` made it, scaled and clipped or not.
        known: one of ``weight_info.CONTRASTS``.
        align: a volume with a background of 0 that lies in no frame is aligned first (seconds).

    Returns:
        The doubt; None where nothing speaks against the contrast, and for pictures and single slices: of one
        of unknown height too little is sure.
    """
    if placement_of(stack) is None and align and has_voxel_size(stack) and stack.shape[-1] > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AlignmentWarning)
            stack = AlignToTemplate(*_FRAME, on_failure="warn")(stack)
    if placement_of(stack) is None:
        return None
    plain = torch.as_tensor(stack).as_subclass(torch.Tensor).float().mean(0).cpu().numpy()
    levels = tissue_levels(plain, _priors(plain.shape, tuple(map(tuple, stack.affine.tolist()))))
    found = None if levels is None else head_contrast(levels)
    if levels is None or found == known:
        return None
    likes = {
        "T2": "looks like T2, PD or an inverted image",
        "FLAIR": "looks like FLAIR, or a T1 with next to no contrast of grey and white matter",
        "T1": "looks like T1",
        None: "grey and white matter or fluid do not stand apart as they should",
    }
    return Doubt(
        f"{likes[found]}: {levels.grey_like_white:.0%} of the grey matter is as bright as white matter, "
        f"which is brighter than fluid in {levels.white_over_csf:.0%} of pairs; these weights know {known}",
        found is not None,
    )


def _most_frequent(values: NDArray[Any]) -> float:
    from scipy.ndimage import gaussian_filter1d

    counts, ends = np.histogram(values, bins=_BINS)
    place = int(gaussian_filter1d(counts.astype(float), _SMOOTH).argmax())
    return float(ends[place] + ends[place + 1]) / 2


@lru_cache(maxsize=4)
def _priors(shape: tuple[int, ...], affine: tuple[tuple[float, ...], ...]) -> NDArray[np.float32]:
    return tissue_priors(shape, affine)
