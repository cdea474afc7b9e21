"""How each kind of lesion is painted: outline, displacement, intensity, and the mask of what changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from robustmed_monai.transforms.brain_region import BrainRegion
from robustmed_monai.transforms.random_fields import smooth_noise

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

MATERIAL = (
    0.05  # a voxel is changed when its intensity moved by at least this, about twice the noise of T1 images
)
_FARTHEST = 7.0  # pixels of a 128-pixel grid (13 mm) by which the wall of a ventricle moves at most


@dataclass(frozen=True)
class LesionSpec:
    """Everything that decides a lesion: drawing the same spec into the same image gives the same bits.

    Attributes:
        kind: one of `KINDS`.
        center: voxel coordinates of the seed point (on the brain's surface for ``thin_rim``; not used by
            ``enlarged_ventricles``).
        area: aimed area in pixels of a 128-pixel grid; in 3-D that of the middle cross-section of a ball.
        contrast: strength; 0 changes nothing. ``hyper``, ``hypo``: change of intensity in units of the range;
            ``thin_rim``: the same with a sign (bright > 0, dark < 0); ``cavity``: share of CSF in the mix, up
            to 1; ``mass_effect``: share of the strongest push, up to 1; ``enlarged_ventricles``: share of the
            ``area``, up to 1.
        seed: of the random outline and texture.
    """

    kind: str
    center: tuple[float, ...]
    area: float
    contrast: float
    seed: int


def paint(image: Array, spec: LesionSpec, region: BrainRegion) -> tuple[Array, Mask, Mask]:
    """Return the image after drawing, the mask and the core that was meant to change."""
    if spec.contrast == 0 or not region.brain.any():
        return image, np.zeros(image.shape, dtype=bool), np.zeros(image.shape, dtype=bool)
    rng = np.random.default_rng(spec.seed)
    if spec.kind == "enlarged_ventricles":
        return _enlarge_ventricles(image, spec, region)
    if spec.kind == "mass_effect":
        return _push(image, spec, region, rng)
    core = _rim(spec, region) if spec.kind == "thin_rim" else _blob(spec, spec.area, region, rng)
    after = _fill(image, core, spec, region, rng)
    return after, _changed(image, after), core


def _changed(before: Array, after: Array) -> Mask:
    return _filled(np.abs(after - before) >= MATERIAL)


def _filled(mask: Mask) -> Mask:
    from scipy.ndimage import binary_fill_holes

    filled: Mask = binary_fill_holes(mask)
    return filled


def _count(area: float, region: BrainRegion) -> int:
    radius = math.sqrt(area / math.pi) * region.unit
    return round(math.pi * radius**2 if region.brain.ndim == 2 else 4.0 / 3.0 * math.pi * radius**3)


def _lowest(field: NDArray[np.float64], allowed: Mask, count: int) -> Mask:
    values = field[allowed]
    limit = np.partition(values, min(count, values.size) - 1)[min(count, values.size) - 1]
    lowest: Mask = allowed & (field <= limit)
    return lowest


def _offsets(shape: Sequence[int], center: Sequence[float]) -> NDArray[np.float64]:
    axes = [np.arange(size) - middle for size, middle in zip(shape, center, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _outline(spec: LesionSpec, region: BrainRegion, rng: np.random.Generator) -> NDArray[np.float64]:
    """Distance from the center, stretched along random axes and made uneven by noise of two lengths."""
    ndim = region.brain.ndim
    axes, _ = np.linalg.qr(rng.standard_normal((ndim, ndim)))
    stretch = np.exp(rng.normal(0.0, 0.2, ndim))
    offsets = _offsets(region.brain.shape, spec.center)
    turned = np.tensordot(axes * stretch[:, None], offsets, axes=1)
    uneven = sum(
        share * smooth_noise(region.brain.shape, length * region.unit, rng)
        for share, length in ((0.3, 6.0), (0.2, 2.5))
    )
    outline: NDArray[np.float64] = np.sqrt((turned**2).sum(0)) * np.exp(uneven)
    return outline


def _blob(spec: LesionSpec, area: float, region: BrainRegion, rng: np.random.Generator) -> Mask:
    return _connected(_lowest(_outline(spec, region, rng), _tissue(spec, region), _count(area, region)), spec)


def _tissue(spec: LesionSpec, region: BrainRegion) -> Mask:
    allowed: Mask = region.brain & ~region.ventricles
    center = tuple(round(c) for c in spec.center)
    return allowed if allowed[center] else region.brain


def _connected(mask: Mask, spec: LesionSpec) -> Mask:
    from scipy.ndimage import label

    pieces, _ = label(mask)
    number = pieces[tuple(round(c) for c in spec.center)]
    return _filled(pieces == number) if number else mask


def _rim(spec: LesionSpec, region: BrainRegion) -> Mask:
    """Crescent under the brain's surface: thickest at the center, its length follows from the area."""
    from scipy.ndimage import distance_transform_edt

    depth = distance_transform_edt(region.brain) - 0.5
    thickness = (1.5 + 0.14 * math.sqrt(spec.area)) * region.unit
    along = np.sqrt((_offsets(region.brain.shape, spec.center) ** 2).sum(0))
    shell = region.brain & (depth < thickness)
    needed = along / np.sqrt(np.maximum(1.0 - depth / thickness, 1e-6))
    width = 1.0 if region.brain.ndim == 2 else 2.0 * math.sqrt(spec.area) * region.unit
    return _lowest(needed, shell, round(spec.area * region.unit**2 * width))


def _fill(image: Array, core: Mask, spec: LesionSpec, region: BrainRegion, rng: np.random.Generator) -> Array:
    """Mix the lesion's intensity in: soft edge and partly erased anatomy, sharp edge for a cavity."""
    from scipy.ndimage import gaussian_filter

    edge = 0.5 if spec.kind == "cavity" else 0.8
    weight = gaussian_filter(core.astype(np.float32), edge * region.unit, truncate=3.0) * region.brain
    fine, coarse = (smooth_noise(image.shape, length * region.unit, rng) for length in (1.0, 4.0))
    if spec.kind == "cavity":
        inside = region.csf_level * (1.0 + 0.08 * fine + 0.05 * coarse)
        mixed: Array = np.clip(image + np.float32(spec.contrast) * weight * (inside - image), 0.0, 1.0)
        return mixed
    erased = gaussian_filter(image, 2.5 * region.unit, truncate=3.0) - image
    shift = -spec.contrast if spec.kind == "hypo" else spec.contrast
    texture = np.clip(1.0 + 0.12 * fine + 0.18 * coarse, 0.4, 1.6)
    after = image + weight * (min(1.0, 2.0 * abs(shift)) * erased + shift * texture)
    # Nothing in a T1 image of the brain is much darker than CSF, and bright lesions keep their texture.
    after = np.maximum(after, np.minimum(image, np.float32(0.9 * region.csf_level)))
    bright = np.minimum(after, 0.9) + 0.1 * np.tanh(np.maximum(after - 0.9, 0.0) / 0.25)
    result: Array = np.where(after > np.maximum(image, 0.9), np.maximum(bright, image), after)
    return result.astype(np.float32)


def _push(
    image: Array, spec: LesionSpec, region: BrainRegion, rng: np.random.Generator
) -> tuple[Array, Mask, Mask]:
    """Push tissue away from the center and put a dark, uneven core where it was."""
    from scipy.ndimage import gaussian_filter

    core = _blob(spec, 0.6 * spec.area, region, rng)
    radius = max(1.5 * region.unit, (core.sum() / (math.pi if core.ndim == 2 else 4.19)) ** (1.0 / core.ndim))
    offsets = _offsets(image.shape, spec.center)
    distance = np.sqrt((offsets**2).sum(0))
    # The source of radius r is r (1 - p w(r)) with w falling: it rises with r for every p < 1, nothing folds.
    fall = np.exp(-((np.maximum(distance / radius - 0.5, 0.0) / 0.9) ** 2))
    pull = 0.75 * spec.contrast * fall * gaussian_filter(region.brain.astype(np.float64), 1.5 * region.unit)
    pushed = _sampled(image, -offsets * pull)
    after = _fill(
        pushed, core, LesionSpec("hypo", spec.center, spec.area, 0.35 * spec.contrast, 0), region, rng
    )
    moved = (distance * pull >= 0.5 * region.unit) & region.brain
    changed = (np.abs(after - image) >= MATERIAL) & (moved | core)
    # Displaced edges change in thin lines; the mask takes the areas where they lie dense.
    dense = gaussian_filter(changed.astype(np.float32), 1.2 * region.unit) >= 0.5
    return after, _filled((dense & region.brain) | (core & changed)), core


def _enlarge_ventricles(image: Array, spec: LesionSpec, region: BrainRegion) -> tuple[Array, Mask, Mask]:
    """Move the wall of the ventricles outwards in short steps until the new area is reached."""
    nothing = np.zeros(image.shape, dtype=bool)
    if not region.ventricles.any():
        return image, nothing, nothing
    box = _box(region.ventricles, round(24 * region.unit))
    ventricles, brain = region.ventricles[box], region.brain[box]
    aim = spec.contrast * min(_count(spec.area, region), 0.4 * brain.sum())
    grown, displacement = ventricles, np.zeros((image.ndim, *brain.shape))
    moved = 0.0
    while moved < _FARTHEST * region.unit and (missing := aim - (grown & ~ventricles).sum()) > 0:
        step, length = _wall_step(grown, brain, missing, region.unit)
        moved += length
        displacement = step + _interpolated(displacement, step)
        grown = _sampled(ventricles.astype(np.float32), displacement) >= 0.5
    after, mask, core = image.copy(), nothing, nothing.copy()
    after[box] = _sampled(image[box], displacement)
    core[box] = grown & ~ventricles
    mask = core & (np.abs(after - image) >= MATERIAL)
    return after, mask, core


def _wall_step(grown: Mask, brain: Mask, missing: float, unit: float) -> tuple[NDArray[np.float64], float]:
    """Displacement that moves the wall of ``grown`` by up to one voxel, less when less area is missing."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    wall = distance_transform_edt(~grown) - distance_transform_edt(grown)
    wall = gaussian_filter(np.where(wall > 0, wall - 0.5, wall + 0.5), 0.8 * unit)
    ring = ((wall > 0) & (wall <= 1.0) & brain).sum()
    length = min(1.0, max(0.35, missing / max(ring, 1)))
    # Tissue gives way within eight pixels of the wall; its slope stays far under 1, so nothing folds.
    amount = length * np.exp(-0.5 * (np.maximum(wall, 0.0) / (4.0 * unit)) ** 2)
    amount *= gaussian_filter(brain.astype(np.float64), 2.0 * unit)
    return -np.stack(np.gradient(wall)) * amount, length


def _box(mask: Mask, margin: int) -> tuple[slice, ...]:
    found = np.argwhere(mask)
    low, high = found.min(0) - margin, found.max(0) + margin + 1
    return tuple(
        slice(max(0, start), min(size, stop)) for start, stop, size in zip(low, high, mask.shape, strict=True)
    )


def _sampled(image: Array, displacement: NDArray[np.float64]) -> Array:
    still = (np.abs(displacement) < 1e-3).all(0)
    return np.where(still, image, _interpolated(image[None], displacement)[0])


def _interpolated(fields: NDArray[np.floating], displacement: NDArray[np.float64]) -> Array:
    """Values of (C, ...) fields at each voxel plus its displacement, linearly; beyond the edge the edge's."""
    shape = displacement.shape[1:]
    to_unit = np.array([2.0 / max(size - 1, 1) for size in shape]).reshape(-1, *[1] * len(shape))
    points = (_offsets(shape, (0.0,) * len(shape)) + displacement) * to_unit - 1.0
    # grid_sample wants the last axis first.
    grid = torch.from_numpy(np.moveaxis(points[::-1], 0, -1).astype(np.float32))[None]
    source = torch.from_numpy(np.asarray(fields, dtype=np.float32))[None]
    values: Array = torch.nn.functional.grid_sample(
        source, grid, mode="bilinear", padding_mode="border", align_corners=True
    )[0].numpy()
    return values
