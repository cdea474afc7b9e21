"""Intensities of an image to [0, 1] by its own foreground or by the white of its file, and back."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import ImageMetaKey, ensure_tuple_rep

from robustmed_monai.transforms.image_readers.picture import PICTURE_SUFFIXES
from robustmed_monai.transforms.same_grid import placed_like
from robustmed_monai.utils.errors import ConfigError

# Where more than this share of the voxels that are not 0 lies below `low`, clipping them loses something.
_LOST = 0.02
# Such images begin at this percentile of what is not exactly 0.
_DARKEST = 0.1
# Zeros that fill this share of such an image are air that was set to 0 after the rest was normalised.
_MASKED = 0.1
# What is darker than this share of the percentile of all voxels above `low` is air, not foreground: how much
# noisy air the field of view holds must not change the scale.
_AIR = 0.1
_LOW, _HIGH = "scaled_low", "scaled_high"


class IntensityWarning(UserWarning):
    """The intensities of an image are not of the kind that a network expects."""


class ScaleForeground(Transform):
    """Scale an image so that ``low`` becomes 0 and a percentile of its foreground 1, and clip.

    Foreground is what is brighter than the noise of air: a tenth of that percentile of all voxels above
    ``low``. Of picture files, which were scaled when they were made, it is all above ``low``; in those that
    ``data_prep`` cut from a volume, white is the volume's and becomes 1, so that they are as bright as the
    slices that inference cuts from that volume. An image with
    much below ``low`` (z-scores, CT) is scaled from its darkest voxels instead, unless ``high`` is given, and
    zeros that stand for the air around it become 0. What became 0 and 1 is kept in the meta data
    (``scaled_low``, ``scaled_high``, in the intensities of the file, however often the image is scaled) for
    ``UnscaleIntensityd``. An image without foreground gives zeros, a constant one gives ones; the former
    warns.

    Args:
        percentile: percentile, in (0, 100], of the foreground that becomes 1; None: 99.5, and ``max_value``.
        low: intensity that becomes 0; what is below becomes 0 too, but see above.
        high: intensity that becomes 1, in place of the percentile.
        max_value: the white of a picture (its meta data's ``max_value``) becomes 1, in place of the
            percentile; images without one take the percentile.

    Raises:
        ConfigError: for a percentile or a range out of order.

    Example:
        >>> ScaleForeground(percentile=100)(torch.tensor([[0.0, 2.0, 4.0]]))
        tensor([[0.0000, 0.5000, 1.0000]])
    """

    def __init__(
        self,
        percentile: float | None = 99.5,
        low: float = 0.0,
        high: float | None = None,
        max_value: bool = False,
    ) -> None:
        if percentile is None:
            percentile, max_value = 99.5, True
        if not 0 < percentile <= 100:
            raise ConfigError(f"percentile is {percentile}; choose it in (0, 100].")
        if high is not None and not high > low:
            raise ConfigError(f"high is {high} and low {low}; high must be larger.")
        self.percentile = percentile
        self.low = low
        self.high = high
        self.max_value = max_value

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the image (any shape) in [0, 1], float32.

        Warns:
            IntensityWarning: when the image is empty, or much of it lies below ``low``.
        """
        values = image.detach().as_subclass(torch.Tensor).float()
        meta = image.meta if isinstance(image, MetaTensor) else {}
        low, air = self._low(values, scaled=_HIGH in meta)
        high = self._high(image, values if air is None else values[~air], low)
        scaled = ((values - low) / (high - low)).clamp(0, 1)
        if air is not None:
            scaled = scaled.masked_fill(air, 0.0)
        if not isinstance(image, MetaTensor):
            return scaled
        result = placed_like(scaled, image)
        zero, span = _before(meta)
        result.meta = {**meta, _LOW: zero + float(low) * span, _HIGH: zero + float(high) * span}
        return result

    def _low(self, values: torch.Tensor, scaled: bool) -> tuple[float, torch.Tensor | None]:
        """The intensity that becomes 0, and which voxels are air that was set to 0 (None: none)."""
        if not ((values > self.low) | ((values != 0) & (values < self.low))).any():
            # What was scaled before and is empty now was emptied by a transform between, which has said why.
            if not scaled:
                message = f"the image is empty: no voxel is above {self.low:g}"
                warnings.warn(message, IntensityWarning, stacklevel=3)
            return self.low, None
        filled = values != 0
        lost = float(((values < self.low) & filled).sum() / filled.sum().clamp(min=1))
        # A window that somebody chose is meant to cut.
        if lost <= _LOST or self.high is not None:
            return self.low, None
        low = float(np.percentile(values[filled].cpu().numpy(), _DARKEST))
        warnings.warn(
            f"{100 * lost:.0f} % of the voxels lie below {self.low:g} (down to {float(values.min()):g}), as "
            f"in normalised images and CT: it is scaled from {low:g} on",
            IntensityWarning,
            stacklevel=3,
        )
        masked = float((~filled).float().mean()) > _MASKED
        return low, ~filled if masked else None

    def _high(self, image: torch.Tensor, values: torch.Tensor, low: float) -> float:
        meta = image.meta if isinstance(image, MetaTensor) else {}
        by_file = self.max_value or (self.high is None and meta.get("scaled_as_volume"))
        white = meta.get("max_value") if by_file else None
        if white is not None:
            zero, span = _before(meta)
            return (float(white) - zero) / span
        if self.high is not None:
            return self.high
        found = values[values > low].cpu().numpy()
        if not found.size:
            return low + 1.0
        high = float(np.percentile(found, self.percentile))
        if not _is_picture(image):
            high = float(np.percentile(found[found > low + _AIR * (high - low)], self.percentile))
        return high if high > low else low + 1.0


def _before(meta: Mapping[str, Any]) -> tuple[float, float]:
    """The file's intensity that is 0 now, and how many of them make 1; an image may have been scaled."""
    zero = float(meta.get(_LOW, 0.0))
    return zero, float(meta.get(_HIGH, 1.0)) - zero


def _is_picture(image: torch.Tensor) -> bool:
    file = image.meta.get(ImageMetaKey.FILENAME_OR_OBJ) if isinstance(image, MetaTensor) else None
    return str(file or "").lower().endswith(PICTURE_SUFFIXES)


class ScaleForegroundd(MapTransform):
    """Dictionary version of :class:`ScaleForeground`.

    Args:
        keys: images.
        percentile: see :class:`ScaleForeground`.
        low: see :class:`ScaleForeground`.
        high: see :class:`ScaleForeground`.
        max_value: see :class:`ScaleForeground`.
        allow_missing_keys: do not raise when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        percentile: float | None = 99.5,
        low: float = 0.0,
        high: float | None = None,
        max_value: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scale = ScaleForeground(percentile, low, high, max_value)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images scaled."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.scale(result[key])
        return result


class UnscaleIntensityd(MapTransform):
    """Turn images in [0, 1] back to the intensities of the image that ``ScaleForegroundd`` scaled.

    Args:
        keys: images made from ``orig_key``.
        orig_key: the scaled image.
        shift: False for differences, which have no zero of their own: they are only stretched; one for all
            keys or one each.
        allow_missing_keys: do not raise when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        orig_key: str,
        shift: bool | Sequence[bool] = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orig_key = orig_key
        self.shift = ensure_tuple_rep(shift, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images in the source's intensities.

        Raises:
            ConfigError: when ``orig_key`` was not scaled.
        """
        result = dict(data)
        meta = getattr(result.get(self.orig_key), "meta", {})
        if _HIGH not in meta:
            raise ConfigError(f"orig_key {self.orig_key!r} was not scaled; put ScaleForegroundd before.")
        low, high = meta[_LOW], meta[_HIGH]
        for key, shift in self.key_iterator(result, self.shift):
            result[key] = result[key] * (high - low) + (low if shift else 0.0)
        return result
