"""Maps of aligned heads, kept where the template has its brain: healthy scalps and skulls differ."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from robustmed_monai.transforms.align_to_template import placement_of
from robustmed_monai.transforms.field_files import world_points
from robustmed_monai.transforms.template_head import distance_at
from robustmed_monai.utils.errors import ConfigError


class KeepBraind(MapTransform):
    """Set maps of aligned heads to 0 where the template, some millimetres wider, has no brain.

    So are those of the same keys in ``network_space``, which a FileEvaluator's scores and sheets are made of.

    Args:
        keys: maps (C, X, Y, S) in the frame of the stack.
        stack_key: the stack as ``AlignToTemplated`` left it; maps of one that was not aligned stay as they
            are.
        margin: mm outside of the brain's surface that are kept, for what alignment leaves.

    Raises:
        ConfigError: for a negative margin.
    """

    def __init__(self, keys: KeysCollection, stack_key: str = "image", margin: float = 4.0) -> None:
        super().__init__(keys)
        if margin < 0:
            raise ConfigError(f"margin={margin}: give mm, 0 or above.")
        self.stack_key = stack_key
        self.margin = margin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the maps changed."""
        result = dict(data)
        stack = result[self.stack_key]
        if placement_of(stack) is None:
            return result
        kept = template_brain(tuple(stack.shape[1:]), stack.affine, self.margin)
        seen = dict(result.get("network_space", {}))
        for key in self.key_iterator(result):
            result[key] = result[key] * kept.to(result[key])
            seen |= {key: seen[key] * kept.to(seen[key])} if key in seen else {}
        return {**result, "network_space": seen} if seen else result


def template_brain(shape: tuple[int, ...], affine: npt.ArrayLike, margin: float = 0.0) -> torch.Tensor:
    """Where the template has its brain, bool, on a grid of the frame.

    Args:
        shape: (X, Y, Z) of the grid.
        affine: its 4x4 voxel-to-world matrix, mm of MNI152.
        margin: mm outside of the surface that count.
    """
    return torch.as_tensor(distance_at(world_points(shape, affine)) <= margin)
