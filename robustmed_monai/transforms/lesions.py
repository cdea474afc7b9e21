"""Controlled lesions drawn into healthy T1-weighted brain images, with the mask of what changed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import RandomizableTransform
from monai.utils import convert_to_dst_type, convert_to_numpy, ensure_tuple_rep
from numpy.typing import NDArray

from robustmed_monai.transforms.adapters import SeededDictTransform
from robustmed_monai.transforms.brain_region import BrainRegion, find_brain_region
from robustmed_monai.transforms.lesion_painting import Array, LesionSpec, Mask, paint
from robustmed_monai.transforms.unit_range import unit_array
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

KINDS = ("hyper", "hypo", "mass_effect", "cavity", "enlarged_ventricles", "thin_rim")
SIZES: Mapping[str, tuple[float, float]] = {
    "small": (16.0, 71.0),
    "medium": (71.0, 570.0),
    "large": (570.0, 1400.0),
}
CONTRASTS: Mapping[str, tuple[float, float]] = {
    "hyper": (0.2, 0.45),
    "hypo": (0.15, 0.45),
    "mass_effect": (0.5, 1.0),
    "cavity": (0.8, 1.0),
    "enlarged_ventricles": (1.0, 1.0),
    "thin_rim": (0.25, 0.5),
}
_ATTEMPTS = 60


def size_name(pixels: int, grid: int = 128) -> str:
    """Name the size of a lesion after its mask, as the RA evaluation does (percentiles of ATLAS lesions).

    Args:
        pixels: pixels of the 2-D mask.
        grid: pixels along the longer side of the image; sizes are counted on a 128-pixel grid.

    Returns:
        ``small`` (up to 71 pixels), ``medium`` (up to 570) or ``large``.

    Example:
        >>> size_name(71), size_name(72), size_name(600)
        ('small', 'medium', 'large')
    """
    area = pixels * (128.0 / grid) ** 2
    return "small" if area <= 71.0 else "medium" if area <= 570.0 else "large"


def sample_lesion(
    image: Array,
    rng: np.random.Generator,
    kinds: Sequence[str] = KINDS,
    sizes: Sequence[str] = tuple(SIZES),
    contrast: tuple[float, float] | None = None,
    region: BrainRegion | None = None,
) -> LesionSpec:
    """Choose a lesion that can be seen in this image.

    A kind and a size are drawn; then places, outlines and contrasts are tried until at least 70 % of the
    lesion's core changes materially and the mask of a slice falls into the size (in a volume the size sets
    only the aim). A hyperintense lesion is thus never hidden in saturated white matter. Where nothing fits,
    the next pair of kind and size is drawn.

    Args:
        image: healthy image, (X, Y) or (X, Y, Z), in [0, 1].
        rng: source of randomness.
        kinds: kinds to choose from, see `KINDS`.
        sizes: sizes to choose from: ``small``, ``medium``, ``large``.
        contrast: range of the strength (> 0); None takes `CONTRASTS` of the kind.
        region: the image's regions, when already known; else estimated from the image.

    Returns:
        The lesion, to be drawn with `draw_lesion`.

    Raises:
        ConfigError: for an unknown kind or size or an empty range.
        DataError: when the image has no brain, or no place was found for any of the kinds and sizes.
        ImageError: when the image is not in [0, 1].

    References:
        Size limits: Bercea et al., "Reversing the abnormal", MICCAI 2023 (evaluation on ATLAS at 128 x 128).
    """
    _check_choice("kinds", kinds, KINDS)
    _check_choice("sizes", sizes, tuple(SIZES))
    if contrast is not None and not 0 < contrast[0] <= contrast[1] <= 1:
        raise ConfigError(f"contrast: found {contrast}; give an increasing range inside (0, 1].")
    image = unit_array(image, "sample_lesion")
    region = find_brain_region(image) if region is None else region
    if not region.brain.any():
        raise DataError("image: no brain was found in it; give a T1-weighted head or brain image in [0, 1].")
    choices = [(kind, size) for kind in kinds for size in sizes]
    for index in rng.permutation(len(choices)):
        kind, size = choices[index]
        spec = _visible_spec(image, rng, kind, SIZES[size], contrast or CONTRASTS[kind], region)
        if spec is not None:
            return spec
    raise DataError(
        f"image: no visible lesion of kinds {list(kinds)} and sizes {list(sizes)} fits; allow more of them."
    )


def draw_lesion(image: Array, spec: LesionSpec, region: BrainRegion | None = None) -> tuple[Array, Mask]:
    """Draw one lesion and say where the image changed.

    The mask holds every voxel that moved by at least `MATERIAL` (0.05 of the range) and the holes inside such
    an area, except: for ``enlarged_ventricles`` it is the area that became ventricle, and for ``mass_effect``
    it is the core and, of the tissue displaced by at least half a pixel (of a 128-pixel grid), the areas
    where changed voxels lie dense. Tissue displaced elsewhere by these two kinds is not in the mask.

    Args:
        image: healthy image, (X, Y) or (X, Y, Z), in [0, 1].
        spec: the lesion.
        region: the image's regions, when already known; else estimated from the image.

    Returns:
        The image with the lesion (float32 in [0, 1]) and the bool mask, both of the image's shape.

    Raises:
        ConfigError: when the spec does not fit the image.
        ImageError: when the image is not in [0, 1].
    """
    _check_choice("spec.kind", (spec.kind,), KINDS)
    if len(spec.center) != image.ndim:
        raise ConfigError(
            f"spec.center: found {len(spec.center)} coordinates for {image.ndim} axes; give as many."
        )
    image = unit_array(image, "draw_lesion")
    region = find_brain_region(image) if region is None else region
    after, mask, _ = paint(image, spec, region)
    return after, mask


class RandLesion(RandomizableTransform):
    """Draw a random visible lesion into a healthy T1-weighted image.

    Args:
        kinds: kinds to choose from, see `KINDS`.
        sizes: sizes to choose from: ``small``, ``medium``, ``large``.
        contrast: range of the strength; None takes `CONTRASTS` of the kind drawn.
        prob: probability of a lesion.

    Attributes:
        spec: the lesion drawn by the last call, None when it drew none.

    Raises:
        ConfigError: for an unknown kind or size.
    """

    def __init__(
        self,
        kinds: Sequence[str] = KINDS,
        sizes: Sequence[str] = tuple(SIZES),
        contrast: tuple[float, float] | None = None,
        prob: float = 0.1,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        _check_choice("kinds", kinds, KINDS)
        _check_choice("sizes", sizes, tuple(SIZES))
        self.kinds = tuple(kinds)
        self.sizes = tuple(sizes)
        self.contrast = contrast
        self.spec: LesionSpec | None = None
        self._seed = 0

    def randomize(self, data: Any = None) -> None:
        """Decide whether to draw, and the seed of place, size, contrast and outline."""
        super().randomize(data)
        self._seed = int(self.R.randint(2**31))

    def __call__(
        self, img: NdarrayOrTensor, labels: NdarrayOrTensor | None = None, randomize: bool = True
    ) -> tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """Return the image and its anomaly mask.

        Args:
            img: (1, X, Y) or (1, X, Y, Z) in [0, 1], see ``unit_range``.
            labels: tissue labels of the same shape; without them the regions are estimated from the image.
            randomize: False repeats the last draw of the parameters.

        Returns:
            The image with the lesion and the mask (0 or 1), both of the shape and type of ``img``, float32.

        Raises:
            ImageShapeError: when the image does not have one channel.
            ImageError: when it is not in [0, 1], whether a lesion is drawn or not.
            DataError: when no visible lesion of the wanted kinds and sizes fits.
        """
        if randomize:
            self.randomize()
        if img.shape[0] != 1 or img.ndim not in (3, 4):
            raise ImageShapeError(f"img: found shape {tuple(img.shape)}; give (1, X, Y) or (1, X, Y, Z).")
        before = unit_array(img, "RandLesion")[0]
        after, mask = before, np.zeros(before.shape, dtype=bool)
        self.spec = None
        if self._do_transform:
            after, mask = self._drawn(before, labels, img)
        image, *_ = convert_to_dst_type(after[None], img, dtype=np.float32)
        label, *_ = convert_to_dst_type(mask[None].astype(np.float32), img, dtype=np.float32)
        return image, label

    def _drawn(
        self, before: Array, labels: NdarrayOrTensor | None, source: NdarrayOrTensor
    ) -> tuple[Array, Mask]:
        numbers = None if labels is None else convert_to_numpy(labels)[0].astype(np.int64)
        region = find_brain_region(before, numbers)
        rng = np.random.default_rng(self._seed)
        try:
            self.spec = sample_lesion(before, rng, self.kinds, self.sizes, self.contrast, region)
        except DataError as error:
            name = source.meta.get("filename_or_obj") if isinstance(source, MetaTensor) else None
            raise DataError(f"{name}: {error}" if name else str(error)) from error
        return draw_lesion(before, self.spec, region)


class RandLesiond(SeededDictTransform):
    """Dictionary-based `RandLesion`: changes the image and adds its anomaly mask and the kind.

    Args:
        keys: key of the healthy image; with several keys each gets a lesion of its own.
        mask_key: key (one for each image) that receives the mask.
        kind_key: key (one for each image) that receives the kind, ``healthy`` when no lesion was drawn.
        label_key: key of tissue labels, when the item has them.
        kinds: see `RandLesion`.
        sizes: see `RandLesion`.
        contrast: see `RandLesion`.
        prob: probability of a lesion.
        allow_missing_keys: do not raise when the image is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: KeysCollection = "mask",
        kind_key: KeysCollection = "kind",
        label_key: Hashable | None = None,
        kinds: Sequence[str] = KINDS,
        sizes: Sequence[str] = tuple(SIZES),
        contrast: tuple[float, float] | None = None,
        prob: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandLesion(kinds, sizes, contrast, prob), allow_missing_keys)
        self.mask_keys = ensure_tuple_rep(mask_key, len(self.keys))
        self.kind_keys = ensure_tuple_rep(kind_key, len(self.keys))
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with the lesion drawn in."""
        item = dict(data)
        labels = item[self.label_key] if self.label_key is not None else None
        for key, mask_key, kind_key in self.key_iterator(item, self.mask_keys, self.kind_keys):
            item[key], item[mask_key] = self.transform(item[key], labels)
            item[kind_key] = self.transform.spec.kind if self.transform.spec else "healthy"
        return item


def _check_choice(name: str, found: Sequence[str], known: Sequence[str]) -> None:
    unknown = [item for item in found if item not in known]
    if unknown or not found:
        raise ConfigError(f"{name}: found {list(found)}; choose one or more of {list(known)}.")


def _visible_spec(
    image: Array,
    rng: np.random.Generator,
    kind: str,
    area_range: tuple[float, float],
    contrast_range: tuple[float, float],
    region: BrainRegion,
) -> LesionSpec | None:
    places = _places(region, kind, math.sqrt(area_range[0] / math.pi))
    if not len(places):
        return None
    # Enlarged ventricles depend on the area alone.
    for _ in range(4 if kind == "enlarged_ventricles" else _ATTEMPTS):
        center = tuple(float(i) for i in places[rng.integers(len(places))])
        area = float(np.exp(rng.uniform(*np.log(area_range))))
        strength = float(rng.uniform(*contrast_range))
        if kind == "thin_rim":
            strength *= rng.choice((-1.0, 1.0))
        spec = LesionSpec(kind, center, area, strength, int(rng.integers(2**31)))
        _, mask, core = paint(image, spec, region)
        seen = (mask & core).sum() >= 0.7 * core.sum() and mask.any()
        pixels = mask.sum() / region.unit**2
        if seen and (image.ndim == 3 or area_range[0] <= pixels <= area_range[1]):
            return spec
    return None


def _places(region: BrainRegion, kind: str, radius: float) -> NDArray[np.intp]:
    from scipy.ndimage import distance_transform_edt

    if kind == "enlarged_ventricles":
        return np.argwhere(region.ventricles)[:1]
    depth = distance_transform_edt(region.brain)
    if kind == "thin_rim":
        return np.argwhere((depth > 0) & (depth <= 1.0))
    # Half of the smallest lesion's radius may stick out of the brain, where it is cut.
    return np.argwhere((depth > max(2.0, 0.5 * radius) * region.unit) & ~region.ventricles)
