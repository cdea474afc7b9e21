"""Foreign objects pasted into brain slices: things that no radiologist expects there, with their masks.

The pictures ship with scikit-image and may be used by anybody (its documentation of ``skimage.data``):
astronaut (NASA, public domain), chelsea (Stefan van der Walt, CC0), coffee (Rachel Michetti, CC0), coins
(Brooklyn Museum, no known restrictions), horse (Andreas Preuss, CC0), brick (CC0 Textures, CC0). Nothing of
them is part of this package. The shapes are procedural and need nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import RandomizableTransform
from monai.utils import convert_to_dst_type, ensure_tuple_rep
from numpy.typing import NDArray

from robustmed_monai.transforms.adapters import SeededDictTransform
from robustmed_monai.transforms.image_checks import check_finite
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

Array = NDArray[np.float32]

# Picture and box (left, upper, right, lower) that holds the object; an ellipse in the box is its outline.
PICTURES: Mapping[str, tuple[str, tuple[int, int, int, int]]] = {
    "face": ("astronaut", (150, 12, 302, 195)),
    "cat": ("chelsea", (20, 0, 390, 300)),
    "cup": ("coffee", (75, 13, 477, 372)),
    "coin": ("coins", (314, 155, 378, 219)),
    "horse": ("horse", (0, 0, 400, 328)),
}
SHAPES = ("disc", "square", "star", "ring")
_DETAIL = 96  # pixels along an object before it is made smaller
_ATTEMPTS = 60


@dataclass(frozen=True)
class ForeignObject:
    """An object to paste.

    Attributes:
        name: one of PICTURES or SHAPES.
        center: (x, y) in pixels.
        side: longer side in pixels.
        angle: rotation in radians.
        contrast: share of the slice's range, from its darkest to its brightest pixel, that the greys fill.
    """

    name: str
    center: tuple[float, float]
    side: float
    angle: float
    contrast: float


def sample_object(
    brain: NDArray[np.bool_],
    rng: np.random.Generator,
    names: Sequence[str] = tuple(PICTURES),
    size: Sequence[float] = (0.1, 0.3),
    contrast: Sequence[float] = (1.0, 1.0),
    overlap: float = 0.8,
) -> ForeignObject:
    """Choose an object and a place in the brain.

    Args:
        brain: (X, Y), True in the brain.
        rng: source of randomness.
        names: objects to choose from.
        size: range of the longer side, as a share of the brain's width.
        contrast: range of the contrast, in (0, 1].
        overlap: least share of the object that must lie in the brain. When no place is found at random, the
            smallest object is put where the brain is deepest.

    Raises:
        DataError: when there is no brain.
    """
    from scipy.ndimage import distance_transform_edt

    places = np.argwhere(brain)
    if not len(places):
        raise DataError("foreign object: the slice holds no brain; drop such slices.")
    width = float(np.ptp(places[:, 0]) + 1)
    name = str(names[int(rng.integers(len(names)))])
    angle, strength = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(contrast[0], contrast[1]))
    for _ in range(_ATTEMPTS):
        x, y = places[rng.integers(len(places))]
        spec = ForeignObject(
            name, (float(x), float(y)), width * float(rng.uniform(size[0], size[1])), angle, strength
        )
        mask = _placed(spec, brain.shape)[1] > 0.5
        if mask.any() and (mask & brain).sum() >= overlap * mask.sum():
            return spec
    x, y = np.unravel_index(int(distance_transform_edt(brain).argmax()), brain.shape)
    return ForeignObject(name, (float(x), float(y)), max(width * size[0], 2.0), angle, strength)


def draw_object(image: Array, spec: ForeignObject) -> tuple[Array, NDArray[np.bool_]]:
    """Paste an object.

    Args:
        image: (X, Y), any range.
        spec: the object.

    Returns:
        The image, and the mask of the pixels that are more than half the object's.
    """
    grey, alpha = _placed(spec, image.shape)
    low, high = float(image.min()), float(image.max())
    pasted = low + (high - low) * (0.5 + spec.contrast * (grey - 0.5))
    drawn: Array = (image * (1 - alpha) + pasted * alpha).astype(np.float32)
    return drawn, alpha > 0.5


class RandForeignObject(RandomizableTransform):
    """Paste one foreign object into a brain slice.

    Args:
        objects: names out of PICTURES and SHAPES.
        size: range of the longer side, as a share of the brain's width.
        contrast: range of the share of the slice's range that the object's greys fill.
        overlap: least share of the object in the brain.
        prob: probability of an object.

    Attributes:
        spec: the object drawn by the last call, None when it drew none.

    Raises:
        ConfigError: for an unknown object or a range outside of (0, 1].

    References:
        Drew, Vo and Wolfe, "The invisible gorilla strikes again", Psychological Science 2013; test set A of
        arXiv 1911.12161, whose sizes, contrasts and objects are not stated.
    """

    def __init__(
        self,
        objects: Sequence[str] = tuple(PICTURES),
        size: Sequence[float] = (0.1, 0.3),
        contrast: Sequence[float] = (1.0, 1.0),
        overlap: float = 0.8,
        prob: float = 0.5,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        known = (*PICTURES, *SHAPES)
        unknown = [name for name in objects if name not in known]
        if unknown or not objects:
            raise ConfigError(f"objects: found {list(objects)}; choose one or more of {list(known)}.")
        for name, span in (("size", size), ("contrast", contrast), ("overlap", (overlap, overlap))):
            if not 0 < span[0] <= span[1] <= 1:
                raise ConfigError(f"{name}: found {span}; give an increasing range inside (0, 1].")
        self.objects = tuple(objects)
        self.size = tuple(size)
        self.contrast = tuple(contrast)
        self.overlap = overlap
        self.spec: ForeignObject | None = None
        self._seed = 0

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandForeignObject:
        """Seed the objects to come."""
        super().set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """Decide whether to paste, and the seed of object, place, size, angle and contrast."""
        super().randomize(data)
        self._seed = int(self.R.randint(2**31))

    def __call__(
        self, img: NdarrayOrTensor, brain: NdarrayOrTensor | None = None, randomize: bool = True
    ) -> tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """Return the slice and its anomaly mask.

        Args:
            img: (1, X, Y), any range.
            brain: (1, X, Y), above 0 in the brain; None takes all that is brighter than the darkest pixel.
            randomize: False repeats the last draw.

        Returns:
            Slice and mask (0 or 1), both of the shape and type of ``img``, float32.

        Raises:
            ImageShapeError: when the shapes differ or are no (1, X, Y).
            DataError: when there is no brain to paste into.
            NonFiniteImageError: when the slice holds NaN or infinite values.
        """
        before = _plain(img)
        check_finite(before, "img")
        inside = before > before.min() if brain is None else _plain(brain) > 0
        if img.ndim != 3 or img.shape[0] != 1 or inside.shape != before.shape:
            raise ImageShapeError(
                f"img {tuple(img.shape)} and brain {tuple(inside.shape)}: give both as (1, X, Y)."
            )
        if randomize:
            self.randomize()
        before, inside = before[0], inside[0]
        after, mask = before, np.zeros(before.shape, dtype=bool)
        self.spec = None
        if self._do_transform:
            rng = np.random.default_rng(self._seed)
            self.spec = sample_object(inside, rng, self.objects, self.size, self.contrast, self.overlap)
            after, mask = draw_object(after, self.spec)
        image, *_ = convert_to_dst_type(after[None], img, dtype=np.float32)
        label, *_ = convert_to_dst_type(mask[None].astype(np.float32), img, dtype=np.float32)
        return image, label


class RandForeignObjectd(SeededDictTransform):
    """Dictionary-based `RandForeignObject`: changes the slice, adds its mask and the object's name.

    Args:
        keys: key of the slice; with several keys each gets an object of its own.
        brain_key: key (one for each slice) of the brain's mask.
        mask_key: key (one for each slice) that receives the anomaly mask.
        kind_key: key (one for each slice) that receives the object's name, ``healthy`` without one.
        objects: see `RandForeignObject`.
        size: see `RandForeignObject`.
        contrast: see `RandForeignObject`.
        overlap: see `RandForeignObject`.
        prob: probability of an object.
        allow_missing_keys: do not raise when the slice is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        brain_key: KeysCollection = "brain",
        mask_key: KeysCollection = "mask",
        kind_key: KeysCollection = "kind",
        objects: Sequence[str] = tuple(PICTURES),
        size: Sequence[float] = (0.1, 0.3),
        contrast: Sequence[float] = (1.0, 1.0),
        overlap: float = 0.8,
        prob: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        transform = RandForeignObject(objects, size, contrast, overlap, prob)
        super().__init__(keys, transform, allow_missing_keys)
        self.brain_keys = ensure_tuple_rep(brain_key, len(self.keys))
        self.mask_keys = ensure_tuple_rep(mask_key, len(self.keys))
        self.kind_keys = ensure_tuple_rep(kind_key, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with the object pasted in."""
        item = dict(data)
        for key, brain, mask, kind in self.key_iterator(
            item, self.brain_keys, self.mask_keys, self.kind_keys
        ):
            item[key], item[mask] = self.transform(item[key], item[brain])
            item[kind] = self.transform.spec.name if self.transform.spec else "healthy"
        return item


def _plain(array: NdarrayOrTensor) -> NDArray[Any]:
    # numpy has no bfloat16.
    plain = array.detach().cpu().float().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    return plain.astype(np.float32)


@lru_cache(maxsize=16)
def _object(name: str) -> tuple[Array, Array]:
    """Grey levels in [0, 1] and opacity of an object, (X, Y), its longer side _DETAIL pixels."""
    return _picture(name) if name in PICTURES else _shape(name)


def _picture(name: str) -> tuple[Array, Array]:
    from skimage import data
    from skimage.color import rgb2gray
    from skimage.transform import resize

    source, (left, upper, right, lower) = PICTURES[name]
    loaded = getattr(data, source)()
    grey = rgb2gray(loaded) if loaded.ndim == 3 else loaded / (1 if loaded.dtype == bool else 255)
    cut = np.asarray(grey, dtype=np.float32)[upper:lower, left:right].T
    shape = tuple(round(_DETAIL * side / max(cut.shape)) for side in cut.shape)
    small = resize(cut, shape, anti_aliasing=True).astype(np.float32)
    if source == "horse":
        # A silhouette: dark is horse. Bricks give it a texture.
        wall = data.brick()[: 2 * shape[1], : 2 * shape[0]].T[::2, ::2] / 255
        return _stretched(wall.astype(np.float32)), 1 - small
    x, y = (np.linspace(-1, 1, side) for side in shape)
    return _stretched(small), (np.hypot(x[:, None], y[None]) <= 1).astype(np.float32)


def _shape(name: str) -> tuple[Array, Array]:
    x, y = np.mgrid[-1 : 1 : _DETAIL * 1j, -1 : 1 : _DETAIL * 1j]
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    alpha = {
        "disc": distance <= 1,
        "square": np.maximum(abs(x), abs(y)) <= 0.7,
        "star": distance <= 0.65 + 0.35 * np.cos(5 * angle),
        "ring": (distance <= 1) & (distance >= 0.5),
    }[name]
    checks = (np.sin(3 * np.pi * x) * np.sin(3 * np.pi * y) > 0).astype(np.float32)
    return checks, alpha.astype(np.float32)


def _stretched(grey: Array) -> Array:
    low, high = float(grey.min()), float(grey.max())
    return (grey - low) / (high - low)


def _placed(spec: ForeignObject, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Grey levels and opacity of an object on the image's grid (X, Y)."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    grey, alpha = _object(spec.name)
    scale = max(grey.shape) / spec.side
    # Smoothing before it is made smaller, as much as the new pixels are larger than the old.
    smooth = max(0.0, (scale - 1) / 2)
    x, y = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    dx, dy = x - spec.center[0], y - spec.center[1]
    cos, sin = math.cos(spec.angle), math.sin(spec.angle)
    where = [
        scale * (cos * dx + sin * dy) + (grey.shape[0] - 1) / 2,
        scale * (cos * dy - sin * dx) + (grey.shape[1] - 1) / 2,
    ]
    edge = math.ceil(4 * smooth)
    padded = np.pad(alpha, edge)
    opacity = map_coordinates(
        gaussian_filter(padded, smooth), [axis + edge for axis in where], order=1, cval=0.0
    )
    levels = map_coordinates(gaussian_filter(grey, smooth), where, order=1, mode="nearest")
    return levels.astype(np.float32), opacity.clip(0, 1).astype(np.float32)
