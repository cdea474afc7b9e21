"""Augmentation of images with label maps, a batch at once on its device: motion, contrast, synthesis."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustmed_monai.transforms.batch_affine import BatchRandAffine, apply_affine, sample_affine
from robustmed_monai.transforms.contrasts import head_classes, sample_curves, smooth_remap
from robustmed_monai.transforms.corruption.core import take, to_device
from robustmed_monai.transforms.synthesis.labels_to_image import LabelsToImage
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.random import rank_share, shared_rand

Batch = dict[str, torch.Tensor]


class BatchRandAffineLabel(BatchRandAffine):
    """``BatchRandAffine`` for `image` and `label` together; labels take the nearest value.

    The image may as well be a stack of feature maps.

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

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with `image` (B, C, X, Y) and `label` (B, 1, X, Y) moved alike."""
        rows = len(batch["image"])
        matrices = sample_affine(rows, generator, *self.ranges)
        chosen = shared_rand(rows, 1, generator)[:, 0] < self.prob
        if not chosen.any():
            return batch
        where = torch.nonzero(chosen).flatten().to(batch["image"].device)
        image, label = batch["image"].clone(), batch["label"].clone()
        image[where] = apply_affine(image[where], matrices[chosen])
        label[where] = apply_affine(label[where].float(), matrices[chosen], "nearest").to(label.dtype)
        return {**batch, "image": image, "label": label}


class BatchRandRemap:
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

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with `image` (B, C, *spatial) in [0, 1] remapped."""
        image = batch["image"]
        remapped = smooth_remap(image, generator, self.knots, self.dark_prob)
        chosen = shared_rand(len(image), 1, generator).to(image.device) < self.prob
        return {**batch, "image": torch.where(chosen.view(-1, *[1] * (image.ndim - 1)), remapped, image)}


class BatchFromLabels:
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

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch with `image` (B, 1, *spatial) in [0, 1] painted; `label` stays."""
        image = batch["image"]
        classes = head_classes(image, batch["label"], self.num_classes, self.bounds)
        (world, rank), rows = rank_share(), len(image)
        count = self.num_classes + len(self.bounds)
        drawn = self.paint.sample(rows * world, count, image.shape[2:], generator)
        # Each process keeps its samples of the global batch, see ``shared_randn``.
        own = take(drawn, torch.arange(rank, rows * world, world)) if world > 1 else drawn
        return {**batch, "image": self.paint.apply(classes, to_device(own, image.device))}


def _check_prob(prob: float) -> None:
    if not 0 <= prob <= 1:
        raise ConfigError(f"prob={prob}; give a share in [0, 1].")
