"""Anomaly maps cut at a threshold."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import AsDiscrete, MapTransform

from robustmed_monai.utils.errors import ConfigError

# Where more than this many times the share of healthy pixels reach the threshold, it is not the lesion alone.
_TOO_MANY = 3


class ThresholdMapd(MapTransform):
    """Add a mask of where a map reaches a threshold, and a warning where that is nearly everywhere.

    Args:
        keys: one key, a map of any shape.
        threshold: the mask is 1 where the map is this or above; None: no mask is added.
        mask_key: where the mask goes.
        fpr: share of healthy pixels that reach the threshold; three times as many are warned of. None: no
            share is known.
        within: key of a mask of the pixels that count.

    Raises:
        ConfigError: for a threshold that is no finite number above 0: maps are 0 where nothing was assessed.
    """

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float | None,
        mask_key: str = "anomaly_mask",
        fpr: float | None = None,
        within: str = "in_distribution",
    ) -> None:
        super().__init__(keys)
        if threshold is not None and not 0 < threshold < math.inf:
            raise ConfigError(
                f"threshold={threshold}; give a finite number above 0: maps are 0 where nothing was assessed."
            )
        self.threshold = threshold
        self.mask_key = mask_key
        self.fpr = fpr
        self.within = within

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the mask."""
        result = dict(data)
        if self.threshold is None:
            return result
        found = result[self.first_key(result)]
        mask = AsDiscrete(threshold=self.threshold)(found.clone())
        result[self.mask_key] = mask
        if self.fpr is not None and self.within in result and (counted := result[self.within] > 0).any():
            share = float(mask[counted.expand_as(mask)].mean())
            if share > _TOO_MANY * self.fpr:
                said = (
                    f"{100 * share:.0f} % of what was assessed is above the threshold, of healthy training "
                    f"images {100 * self.fpr:g} %: rather another scanner or contrast than a lesion; "
                    "calibrate with healthy images of yours (robustmed calibrate)"
                )
                result["warnings"] = [*result.get("warnings", []), said]
        return result
