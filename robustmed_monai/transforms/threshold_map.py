"""Anomaly maps cut at a threshold."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import AsDiscrete, MapTransform


class ThresholdMapd(MapTransform):
    """Add a mask of where a map reaches a threshold.

    Args:
        keys: one key, a map of any shape.
        threshold: the mask is 1 where the map is this or above; None: no mask is added.
        mask_key: where the mask goes.
    """

    def __init__(self, keys: KeysCollection, threshold: float | None, mask_key: str = "anomaly_mask") -> None:
        super().__init__(keys)
        self.threshold = threshold
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the mask."""
        result = dict(data)
        if self.threshold is not None:
            found = result[self.first_key(result)]
            result[self.mask_key] = AsDiscrete(threshold=self.threshold)(found.clone())
        return result
