"""CIFL's features of whole images, and of volumes that do not fit into memory at once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from monai.inferers import Inferer


class FeatureInferer(Inferer):
    """Applies a CIFL network to images of any size, large ones tile by tile.

    The convolutions run on each tile with as much of the image around it as they see, the normalisation on
    the whole image, so the result is that of the whole image at once. (MONAI's SlidingWindowInferer would
    blend windows whose borders know nothing of what lies beyond, each normalised by itself.)

    Args:
        roi_size: side of the tiles in voxels; None takes every image whole.
    """

    def __init__(self, roi_size: int | None = None) -> None:
        super().__init__()
        self.roi_size = roi_size

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *_: Any, **__: Any) -> torch.Tensor:
        """Features (B, C, *spatial) of images (B, 1, *spatial)."""
        cifl: Any = network
        full, all_ = inputs.shape[2:], slice(None)
        if self.roi_size is None or max(full) <= self.roi_size:
            features: torch.Tensor = cifl(inputs)
            return features
        maps = torch.empty(len(inputs), cifl.out_channels, *full, device=inputs.device)
        for start in product(*(range(0, side, self.roi_size) for side in full)):
            stop = [min(a + self.roi_size, side) for a, side in zip(start, full, strict=True)]
            low = [max(a - cifl.radius, 0) for a in start]
            window = tuple(slice(a, b + cifl.radius) for a, b in zip(low, stop, strict=True))
            inner = tuple(slice(a - c, b - c) for a, b, c in zip(start, stop, low, strict=True))
            tile = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            maps[(all_, all_, *tile)] = cifl.maps(inputs[(all_, all_, *window)])[(all_, all_, *inner)]
        features = cifl.normalize(maps)
        return features
