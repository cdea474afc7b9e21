"""Find the head, the brain and the ventricles in a T1-weighted image, with or without labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from robustmed_monai.transforms.unit_range import unit_array
from robustmed_monai.utils.errors import ImageShapeError

CSF = 1  # in tissue labels: 0 background, 1 CSF, 2 grey matter, 3 white matter


@dataclass(frozen=True)
class BrainRegion:
    """Where things are in one image.

    Attributes:
        head: foreground without holes, bool, shape of the image.
        brain: intracranial region (tissue and CSF) without holes, bool, inside ``head``.
        ventricles: deep CSF, bool, inside ``brain``; may be empty.
        csf_level: intensity of CSF in [0, 1], the lowest tenth (partial volume brightens thin ventricles).
        unit: voxels of this grid that make one pixel of a 128-pixel grid.
    """

    head: NDArray[np.bool_]
    brain: NDArray[np.bool_]
    ventricles: NDArray[np.bool_]
    csf_level: float
    unit: float


def find_brain_region(image: NDArray[np.float32], labels: NDArray[np.integer] | None = None) -> BrainRegion:
    """Estimate the regions of a T1-weighted head or skull-stripped brain.

    Without labels the head is what Otsu's threshold leaves after filling; the brain is the bright core that
    remains below the head's surface when thin bridges to the scalp are eroded, grown back and closed; the
    ventricles are the larger dark pieces deep inside it. When the core fills nearly the whole head, the image
    is taken as skull-stripped and the brain is the head.

    Args:
        image: (X, Y) or (X, Y, Z) in [0, 1].
        labels: tissue labels of the same shape (0 background, 1 CSF, 2 grey, 3 white matter).

    Returns:
        The regions; ``brain`` is empty for an empty image.

    Raises:
        ImageShapeError: when the image is neither 2-D nor 3-D or the labels have another shape.
        ImageError: when the image is not in [0, 1].
    """
    if image.ndim not in (2, 3):
        raise ImageShapeError(
            f"image: found {image.ndim} axes; give one slice (X, Y) or one volume (X, Y, Z)."
        )
    if labels is not None and labels.shape != image.shape:
        raise ImageShapeError(
            f"labels: found shape {labels.shape}, the image has {image.shape}; make them equal."
        )
    image = unit_array(image, "find_brain_region")
    unit = max(image.shape[:2]) / 128.0
    head = _largest(_closed(image > 0.4 * _otsu(image), 2.0 * unit))
    if labels is None:
        # Fat may be far brighter than the brain and would draw the threshold up.
        threshold = _otsu(np.minimum(image, 1.2 * _middle_level(image, head)))
        brain = _bright_core(image > threshold, head, unit)
        csf = brain & (image < _csf_limit(image[brain], threshold))
    else:
        brain = _filled(_largest(labels > 0))
        head = head | brain
        csf = labels == CSF
    ventricles = _deep_pieces(csf, brain, unit)
    dark = image[ventricles] if ventricles.any() else image[csf]
    return BrainRegion(head, brain, ventricles, float(np.percentile(dark, 10)) if dark.size else 0.0, unit)


def fill_holes(masks: torch.Tensor) -> torch.Tensor:
    """Fill what each mask encloses: (B, 1, *spatial) bool to the same."""
    found = [torch.from_numpy(_filled(mask[0].cpu().numpy())) for mask in masks]
    return torch.stack(found)[:, None].to(masks.device) if found else masks


def _otsu(image: NDArray[np.float32]) -> float:
    from skimage.filters import threshold_otsu

    inside = image[image > 0.02]
    return float(threshold_otsu(inside)) if inside.size and np.ptp(inside) > 0 else 0.5


def _middle_level(image: NDArray[np.float32], head: NDArray[np.bool_]) -> float:
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(head)
    middle = image[depth > 0.5 * depth.max()]
    return float(np.median(middle)) if middle.size else 1.0


def _csf_limit(values: NDArray[np.float32], threshold: float) -> float:
    from skimage.filters import threshold_multiotsu

    # With little CSF the three classes may all be tissue; the first limit then lies above the threshold.
    if np.unique(values).size < 3:
        return threshold
    return min(threshold, float(threshold_multiotsu(values, classes=3, nbins=64)[0]))


def _bright_core(bright: NDArray[np.bool_], head: NDArray[np.bool_], unit: float) -> NDArray[np.bool_]:
    from scipy.ndimage import distance_transform_edt

    if not bright.any():
        return np.zeros_like(head)
    solid = distance_transform_edt(bright)
    depth = distance_transform_edt(head)
    for radius in np.arange(1.0, 6.0) * unit:
        core = _pieces_below(solid > radius, depth, radius + 3.0 * unit, 10.0 * unit)
        # While the scalp hangs on the brain no large piece lies wholly below the surface of the head.
        if core.sum() > 0.2 * head.sum():
            break
    else:
        return head
    grown = distance_transform_edt(~core) <= radius + unit
    brain = _closed(grown & bright, 6.0 * unit) & head
    return head if brain.sum() > 0.88 * head.sum() else brain


def _pieces_below(
    mask: NDArray[np.bool_], depth: NDArray[np.float64], surface: float, deep: float
) -> NDArray[np.bool_]:
    from scipy.ndimage import label

    pieces, count = label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    shallow = np.bincount(pieces[mask & (depth <= surface)], minlength=count + 1)
    inner = np.bincount(pieces[mask & (depth > deep)], minlength=count + 1)
    below = (shallow <= 0.02 * sizes) & (inner > 0.1 * sizes)
    below[0] = False
    kept: NDArray[np.bool_] = below[pieces]
    return kept


def _deep_pieces(csf: NDArray[np.bool_], brain: NDArray[np.bool_], unit: float) -> NDArray[np.bool_]:
    from scipy.ndimage import center_of_mass, distance_transform_edt, label

    depth = distance_transform_edt(brain)
    deep = csf & (depth > 0.3 * depth.max())
    solid = distance_transform_edt(deep) > unit
    opened = deep & (distance_transform_edt(~solid) <= 1.5 * unit) if solid.any() else deep
    pieces, count = label(opened)
    if not count:
        return np.zeros_like(brain)
    sizes = np.bincount(pieces.ravel())[1:]
    centres = center_of_mass(opened, pieces, range(1, count + 1))
    middle = np.array([depth[tuple(np.round(c).astype(int))] > 0.45 * depth.max() for c in centres])
    kept = middle & (sizes >= 10 * unit**brain.ndim) & (sizes >= 0.2 * max(sizes[middle], default=0))
    return np.isin(pieces, np.flatnonzero(kept) + 1)


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import label

    pieces, count = label(mask)
    if not count:
        return np.zeros_like(mask, dtype=bool)
    largest: NDArray[np.bool_] = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    return largest


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_fill_holes

    filled: NDArray[np.bool_] = binary_fill_holes(mask)
    return filled


def _closed(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    from scipy.ndimage import distance_transform_edt

    margin = int(np.ceil(radius)) + 1
    padded = np.pad(mask, margin)
    dilated = distance_transform_edt(~padded) <= radius
    closed = distance_transform_edt(dilated) > radius
    return _filled(closed[(slice(margin, -margin),) * mask.ndim])
