"""Augmentation of images with label maps, a batch at once on its device: motion, contrast, synthesis."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustmed_monai.transforms.adapters import Batch, BatchTransform
from robustmed_monai.transforms.batch_affine import BatchRandAffine, apply_affine
from robustmed_monai.transforms.contrasts import apply_curves, head_classes, sample_curves
from robustmed_monai.transforms.params import Params, Shape, per_image
from robustmed_monai.transforms.synthesis.labels_to_image import LabelsToImage
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError


class BatchRandAffineLabel(BatchRandAffine):
    """``BatchRandAffine`` for `image` and `label` together; labels take the nearest value.

    The image is in [0, 1], or a stack of several feature maps of any range, which are 0 outside.

    Args:
        prob: share of the images that are moved. Moving blurs, so a network needs to see others, too.
        rotate_range: largest rotation in degrees.
        translate_range: largest shift as a share of the side.
        scale_range: smallest and largest zoom.
        flip_prob: probability of a left-right flip.

    Raises:
        ConfigError: when a range is out of bounds.
    """

    def __init__(
        self,
        prob: float = 0.3,
        rotate_range: float = 10.0,
        translate_range: float = 0.05,
        scale_range: Sequence[float] = (0.9, 1.1),
        flip_prob: float = 0.5,
    ) -> None:
        super().__init__(rotate_range, translate_range, scale_range, flip_prob)
        _check_prob(prob)
        self.prob = prob

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw one matrix per sample, and which are moved."""
        return {**super().sample(shape, generator), "moved": _coins(shape[0], self.prob, generator)}

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with `image` (B, C, X, Y) and `label` (B, 1, X, Y) moved alike.

        Raises:
            ImageError: when an image of one channel is not in [0, 1], moved or not.
        """
        image = batch["image"]
        if image.shape[1] == 1:
            image = unit_range(image, "BatchRandAffineLabel")
        where = torch.nonzero(params["moved"]).flatten()
        if not len(where):
            return {**batch, "image": image}
        image, label, matrices = image.clone(), batch["label"].clone(), params["matrix"][where]
        image[where] = apply_affine(image[where], matrices)
        label[where] = apply_affine(label[where].float(), matrices, "nearest").to(label.dtype)
        return {**batch, "image": image, "label": label}


class BatchRandRemap(BatchTransform):
    """Remaps the intensities of each image by a random smooth curve, see ``smooth_remap``.

    Args:
        prob: share of the images that are remapped.
        knots: values drawn per curve.
        dark_prob: share of the curves that leave a dark background dark.

    Raises:
        ConfigError: for an argument out of range.
    """

    def __init__(self, prob: float = 1.0, knots: int = 8, dark_prob: float = 0.5) -> None:
        _check_prob(prob)
        # A bad setting is refused now, not in the first batch.
        sample_curves(0, torch.Generator(), knots, dark_prob)
        self.prob = prob
        self.knots = knots
        self.dark_prob = dark_prob

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw one curve per image, and which are remapped."""
        curve = sample_curves(shape[0], generator, self.knots, self.dark_prob)
        return {"curve": curve, "remapped": _coins(shape[0], self.prob, generator)}

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with `image` (B, C, *spatial) in [0, 1] remapped."""
        image = unit_range(batch["image"], "BatchRandRemap")
        remapped = apply_curves(image, params["curve"])
        return {**batch, "image": torch.where(per_image(params["remapped"], image) > 0, remapped, image)}


class BatchFromLabels(BatchTransform):
    """Replaces each image by one of random contrast that is painted from its labels, as SynthSeg trains.

    What the labels leave in the background is split by the intensities of the image first (``head_classes``),
    so that heads keep a scalp.

    Args:
        num_classes: tissue labels are 0 to ``num_classes - 1``.
        bounds: see ``head_classes``.
        paint: how images are painted; None takes LabelsToImage's defaults.

    Source: Billot et al., SynthSeg, Medical Image Analysis 2023.
    """

    def __init__(
        self,
        num_classes: int = 4,
        bounds: Sequence[float] = (0.1, 0.45),
        paint: LabelsToImage | None = None,
    ) -> None:
        self.num_classes = num_classes
        self.bounds = tuple(bounds)
        self.paint = LabelsToImage() if paint is None else paint

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw one contrast per image."""
        return self.paint.sample(shape[0], self.num_classes + len(self.bounds), shape[2:], generator)

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with `image` (B, 1, *spatial) in [0, 1] painted; `label` stays."""
        classes = head_classes(batch["image"], batch["label"], self.num_classes, self.bounds)
        return {**batch, "image": self.paint.apply(classes, params)}


def _coins(rows: int, prob: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(rows, generator=generator) < prob


def _check_prob(prob: float) -> None:
    if not 0 <= prob <= 1:
        raise ConfigError(f"prob={prob}; give a share in [0, 1].")
