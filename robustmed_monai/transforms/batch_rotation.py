"""Rotations and intensities of a training batch on its device."""

from __future__ import annotations

import torch

from robustmed_monai.transforms.adapters import Batch, BatchTransform
from robustmed_monai.transforms.params import Params, Shape, per_image
from robustmed_monai.transforms.rotation import all_rotations, check_rotations, rotate, rotation_labels
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError


class BatchAllRotations(BatchTransform):
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

    def apply(self, batch: Batch, params: Params) -> Batch:
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


class BatchRotationFilter(BatchTransform):
    """Leaves images upright but filters and masks them as their rotations are; four change nothing.

    Args:
        num_rotations: 4 or 8.
        mode: see ``rotate``.
    """

    def __init__(self, num_rotations: int = 4, mode: str = "isotropic") -> None:
        check_rotations(num_rotations, mode)
        self.num_rotations = num_rotations
        self.mode = mode

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with `image` (B, C, S, S) filtered."""
        return {**batch, "image": rotate(batch["image"], 0, self.num_rotations, self.mode)}


class BatchRandRotation(BatchTransform):
    """Turns each image of a batch by a random rotation, 0 included; labels stay (a control's augmentation).

    Args:
        num_rotations: 4 or 8.
        mode: see ``rotate``.
    """

    def __init__(self, num_rotations: int = 4, mode: str = "isotropic") -> None:
        check_rotations(num_rotations, mode)
        self.num_rotations = num_rotations
        self.mode = mode

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw a rotation class per image."""
        return {"index": (torch.rand(shape[0], generator=generator) * self.num_rotations).long()}

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with `image` (B, C, S, S) turned."""
        turned = rotate(batch["image"], params["index"], self.num_rotations, self.mode)
        return {**batch, "image": turned}


class BatchRandIntensity(BatchTransform):
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

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw three shares in [-1, 1) per image."""
        return {"share": 2 * torch.rand(shape[0], 3, generator=generator) - 1}

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with `image` (B, C, S, S) in [0, 1] (``unit_range``) changed."""
        image = unit_range(batch["image"], "BatchRandIntensity")
        brightness, contrast, gamma = (
            per_image(share, image) * r
            for share, r in zip(params["share"].unbind(1), self.ranges, strict=True)
        )
        mean = image.mean((1, 2, 3), keepdim=True)
        changed = ((image - mean) * (1 + contrast) + mean + brightness).clamp(0, 1)
        return {**batch, "image": changed ** torch.exp2(gamma)}
