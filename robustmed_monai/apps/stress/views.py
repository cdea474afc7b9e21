"""Images on their way through a stress test, in [0, 1], and what is known of their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from robustmed_monai.transforms.unit_range import WHITE, unit_range


@dataclass(frozen=True)
class Views:
    """Consecutive images of a test set that have the same shape.

    Args:
        images: (B, C, X, Y[, Z]) float32 in [0, 1].
        truth: (B,) classes, or (B, 1, X, Y[, Z]) uint8 labels.
        first: place of the first image in the test set.
        low: value of black in the file of each image.
        high: value of white in the file of each image.
        affines: of each image (4, 4).
        metas: meta data of each image.
        eight_bit: whether grey values have 8 bits; else 16.
    """

    images: Tensor
    truth: Tensor
    first: int
    low: Sequence[float]
    high: Sequence[float]
    affines: Sequence[Tensor]
    metas: Sequence[Mapping[str, Any]]
    eight_bit: bool = True

    def __len__(self) -> int:
        return len(self.images)

    def with_images(self, images: Tensor, truth: Tensor | None = None) -> Views:
        """The same with other images, and other labels where they moved."""
        return replace(self, images=images, truth=self.truth if truth is None else truth)

    def with_affines(self, affines: Sequence[Tensor]) -> Views:
        """The same with other headers."""
        return replace(self, affines=affines)

    def as_read(self, index: int) -> MetaTensor:
        """One image (C, X, Y[, Z]) as a reader of its file would give it."""
        low, high = self.low[index], self.high[index]
        values = self.images[index].cpu() * (high - low) + low
        known = self.metas[index] or {"original_channel_dim": 0, "max_value": high}
        # A quarter turn has given it another shape than its file has.
        meta = {**known, "spatial_shape": np.array(values.shape[1:])}
        meta.pop("affine", None)
        return MetaTensor(values, affine=self.affines[index].clone(), meta=meta)

    def spacing(self) -> list[float]:
        """Size of a pixel or voxel of the first image along each axis, by its header."""
        axes = self.images.ndim - 2
        return [float(size) for size in self.affines[0][:3, :3].norm(dim=0)[:axes]]


def read_views(image: Any, truth: Tensor, first: int) -> Views:
    """One image as its reader gave it.

    Args:
        image: (C, X, Y[, Z]) with meta data, or a plain tensor: uint8, or floating in [0, 1].
        truth: its class (), or its labels (1, X, Y[, Z]).
        first: place in the test set.

    Raises:
        ImageError: for a plain tensor of other values: clipped, it would be another image.
    """
    plain = torch.as_tensor(image).as_subclass(Tensor)
    if not isinstance(image, MetaTensor) and plain.is_floating_point():
        plain = unit_range(plain, f"image {first}")
    meta = dict(image.meta) if isinstance(image, MetaTensor) else {}
    affine = image.affine if isinstance(image, MetaTensor) else torch.eye(4, dtype=torch.float64)
    if meta.get("max_value"):
        low, high = 0.0, float(meta["max_value"])
    elif plain.dtype in WHITE or not isinstance(image, MetaTensor):
        low, high = 0.0, float(WHITE.get(plain.dtype, 1))
    else:
        low, high = min(0.0, float(plain.min())), float(plain.max())
    high = high if high > low else low + 1
    unit = ((plain.to(torch.float32) - low) / (high - low)).clamp(0, 1)
    eight_bit = high in (1.0, 255.0) and low == 0
    return Views(unit[None], truth[None], first, [low], [high], [affine], [meta], eight_bit)


def join_views(parts: Sequence[Views]) -> Views:
    """Several consecutive ones of the same shape as one."""
    return Views(
        torch.cat([part.images for part in parts]),
        torch.cat([part.truth for part in parts]),
        parts[0].first,
        low=[value for part in parts for value in part.low],
        high=[value for part in parts for value in part.high],
        affines=[affine for part in parts for affine in part.affines],
        metas=[meta for part in parts for meta in part.metas],
        eight_bit=all(part.eight_bit for part in parts),
    )
