"""CIFL's features of whole images, and of volumes that do not fit into memory at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monai.inferers.inferer import Inferer

from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.transforms.volume_slices import filled_slices
from robustmed_monai.visualize.features import feature_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_VOLUME_TILE = 96


class FeatureInferer(Inferer):
    """Applies a CIFL network to images of any size, large ones tile by tile.

    The convolutions run on each tile with as much of the image around it as they see, the normalisation on
    the whole image, so the result is that of the whole image at once. (MONAI's SlidingWindowInferer would
    blend windows whose borders know nothing of what lies beyond, each normalised by itself.)

    Args:
        roi_size: side of the tiles in voxels; None takes 2-D images whole and volumes in tiles of 96.
    """

    def __init__(self, roi_size: int | None = None) -> None:
        super().__init__()
        self.roi_size = roi_size

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *_: Any, **__: Any) -> torch.Tensor:
        """Features (B, C, *spatial) of images (B, 1, *spatial) in [0, 1], see ``unit_range``."""
        cifl: Any = network
        inputs = unit_range(torch.as_tensor(inputs), "FeatureInferer").float()
        full, all_ = inputs.shape[2:], slice(None)
        side_of_tile = self.roi_size or (_VOLUME_TILE if len(full) == 3 else max(full))
        if max(full) <= side_of_tile:
            features: torch.Tensor = cifl(inputs)
            return features
        maps = torch.empty(len(inputs), cifl.out_channels, *full, device=inputs.device)
        for start in product(*(range(0, side, side_of_tile) for side in full)):
            stop = [min(a + side_of_tile, side) for a, side in zip(start, full, strict=True)]
            low = [max(a - cifl.radius, 0) for a in start]
            window = tuple(slice(a, b + cifl.radius) for a, b in zip(low, stop, strict=True))
            inner = tuple(slice(a - c, b - c) for a, b, c in zip(start, stop, low, strict=True))
            tile = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            maps[(all_, all_, *tile)] = cifl.maps(inputs[(all_, all_, *window)])[(all_, all_, *inner)]
        features = cifl.normalize(maps)
        return features


def feature_report(output: Mapping[str, Any]) -> dict[str, Any]:
    """What ``features.json`` says about an image: number of channels, slice on the sheet."""
    return {
        "channels": int(output["pred"].shape[0]),
        "slice_shown": middle_slice(output["network_space"]["image"]),
    }


def channels_sheet(output: Mapping[str, Any]) -> Figure:
    """The middle slice of an image and its channels."""
    space = output["network_space"]
    shown = middle_slice(space["image"])
    name = f"{Path(output['path']).name.split('.')[0]}\nslice {shown}"
    image, features = (torch.as_tensor(space[k]).as_subclass(torch.Tensor) for k in ("image", "pred"))
    return feature_sheet({name: image[..., shown]}, {name: features[..., shown]})


def middle_slice(stack: torch.Tensor) -> int:
    """The middle of the slices of (C, X, Y, S) that hold something: shoulders would be the fullest."""
    filled = filled_slices(stack)
    return int(filled[len(filled) // 2]) if len(filled) else 0
