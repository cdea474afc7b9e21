"""Whether a volume holds the whole of a head, and a head of a human's size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from robustmed_monai.transforms.align_to_template import Placement, placement_of
from robustmed_monai.transforms.field_files import sample_at, world_points
from robustmed_monai.transforms.template_head import template_head

# Of the template's brain this share may lie outside of an image: alignment is right to some millimetres.
_TOLERATED = 0.02
# Inside of the skull, ml: wider than the 1,100 to 1,900 of healthy adults.
_LEAST, _MOST = 800, 2200


class SayHeadOutsided(MapTransform):
    """Add to ``warnings`` where a volume ends within the brain, and where the brain found has no human size.

    Args:
        keys: one key, the mask (1, X, Y, Z) of the inside of the skull, on the grid of the source.
        stack_key: the stack in the frame that the mask was found in; nothing is said of one that is in none.
    """

    def __init__(self, keys: KeysCollection, stack_key: str = "image") -> None:
        super().__init__(keys)
        self.stack_key = stack_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the sentences first among its warnings."""
        result = dict(data)
        mask, stack = result[self.first_key(result)], result[self.stack_key]
        placement = placement_of(stack)
        if placement is None:
            return result
        said = []
        missing = _share_outside(tuple(stack.shape[1:]), stack.affine, placement)
        if missing > _TOLERATED:
            said.append(
                f"{missing:.0%} of the brain lie outside of the image; the volumes are those of the rest"
            )
        millilitres = float((mask > 0).sum() * mask.affine[:3, :3].det().abs()) / 1000
        if not _LEAST <= millilitres <= _MOST:
            said.append(
                f"the inside of the skull measures {millilitres:.0f} ml, a human's {_LEAST} to {_MOST}: "
                "look at the labels"
            )
        return {**result, "warnings": [*said, *result.get("warnings", [])]}


def _share_outside(shape: tuple[int, ...], affine: torch.Tensor, placement: Placement) -> float:
    """Share of the template's brain that lies outside of the source."""
    head = template_head()
    brain = sample_at((head.distance < 0)[None].astype("float32"), head.affine, world_points(shape, affine))
    voxels = torch.from_numpy(brain[0] > 0.5).nonzero().double()
    matrix = torch.as_tensor(placement.matrix).double()
    places = voxels @ matrix[:3, :3].T + matrix[:3, 3]
    limits = torch.tensor(placement.spatial_shape) - 0.5
    outside = ((places < -0.5) | (places > limits)).any(1)
    return float(outside.double().mean())
