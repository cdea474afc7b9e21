"""Rotations of a training batch on its device: all of each image with their classes, or one at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from robustmed_monai.transforms.rotation import all_rotations, check_rotations, rotate, rotation_labels
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.random import shared_rand

Batch = dict[str, torch.Tensor]
BatchTransform = Callable[[Batch, torch.Generator], Batch]


class BatchAllRotations:
    """Turns a batch into all rotations of its images, labelled by their rotation class (RotNet's task).

    Args:
        num_rotations: 4 or 8.
        mode: see ``rotate``.
        keep_label: repeat the labels of the images in place of the rotation classes.

    Source: Gidaris et al., ICLR 2018: every image enters the batch with all of its rotations.
    """

    def __init__(self, num_rotations: int = 4, mode: str = "isotropic", keep_label: bool = False) -> None:
        check_rotations(num_rotations, mode)
        self.num_rotations = num_rotations
        self.mode = mode
        self.keep_label = keep_label

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return `image` (B * K, C, S, S) and `label` (B * K,)."""
        image = batch["image"]
        turned = all_rotations(image, self.num_rotations, self.mode)
        if self.keep_label:
            return {**batch, "image": turned, "label": batch["label"].repeat_interleave(self.num_rotations)}
        return {
            **batch,
            "image": turned,
            "label": rotation_labels(len(image), self.num_rotations, image.device),
        }


class BatchRandRotate90:
    """Leaves images upright but filters and masks them as their rotations are; nothing to do for four.

    Args:
        num_rotations: 4 or 8.
        mode: see ``rotate``.
    """

    def __init__(self, num_rotations: int = 4, mode: str = "isotropic") -> None:
        check_rotations(num_rotations, mode)
        self.num_rotations = num_rotations
        self.mode = mode

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with `image` (B, C, S, S) filtered."""
        return {**batch, "image": rotate(batch["image"], 0, self.num_rotations, self.mode)}


class BatchRandRotation:
    """Turns each image of a batch by a random rotation, 0 included; labels stay (a control's augmentation).

    Args:
        num_rotations: 4 or 8.
        mode: see ``rotate``.
    """

    def __init__(self, num_rotations: int = 4, mode: str = "isotropic") -> None:
        check_rotations(num_rotations, mode)
        self.num_rotations = num_rotations
        self.mode = mode

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with `image` (B, C, S, S) turned."""
        image = batch["image"]
        drawn = (shared_rand(len(image), 1, generator)[:, 0] * self.num_rotations).long()
        return {**batch, "image": rotate(image, drawn.to(image.device), self.num_rotations, self.mode)}


class BatchRandIntensity:
    """Random brightness, contrast and gamma of each image of a batch.

    Args:
        brightness: largest shift of the grey values, either way.
        contrast: largest relative change of the contrast about the image's mean, either way.
        gamma: largest change of log2(gamma), either way.

    Raises:
        ConfigError: for a negative range.
    """

    def __init__(self, brightness: float = 0.1, contrast: float = 0.2, gamma: float = 0.3) -> None:
        if min(brightness, contrast, gamma) < 0:
            raise ConfigError(f"ranges {(brightness, contrast, gamma)} must not be negative.")
        self.ranges = (brightness, contrast, gamma)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with `image` (B, C, S, S) in [0, 1] changed."""
        image = batch["image"]
        drawn = (2 * shared_rand(len(image), 3, generator) - 1).to(image)[:, :, None, None, None]
        brightness, contrast, gamma = (drawn[:, i] * r for i, r in enumerate(self.ranges))
        mean = image.mean((1, 2, 3), keepdim=True)
        changed = ((image - mean) * (1 + contrast) + mean + brightness).clamp(0, 1)
        return {**batch, "image": changed ** torch.exp2(gamma)}


class BatchCompose:
    """Runs batch transforms one after the other.

    Args:
        transforms: each (batch, generator) to batch.
    """

    def __init__(self, transforms: Sequence[BatchTransform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return what the last transform returns."""
        for transform in self.transforms:
            batch = transform(batch, generator)
        return batch
