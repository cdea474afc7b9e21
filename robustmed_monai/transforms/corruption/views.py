"""What training makes of clean images: several corrupted views of each, or corrupted ones with labels."""

from __future__ import annotations

import torch
from monai.utils.enums import CommonKeys as Keys

from robustmed_monai.transforms.adapters import Batch, BatchTransform
from robustmed_monai.transforms.corruption.core import Corruption, corrupt, ready_images
from robustmed_monai.transforms.corruption.monai_transforms import BatchCorruption
from robustmed_monai.transforms.params import Params, Shape
from robustmed_monai.utils.errors import ConfigError


class CorruptedViews(BatchTransform):
    """``batch_transform`` of a MultiOptimizerTrainer: adds corrupted copies of the images to a batch.

    Args:
        corruption: what to do, with its coins: ``unoranic_chain(prob=0.25)``.
        variants: views beside the first one. The authors' code makes 3, the paper's text says 2; an
            auto-encoder needs none.

    Raises:
        ConfigError: for a negative number of variants.

    Example:
        >>> from robustmed_monai.transforms.corruption.noise import gaussian_noise
        >>> views = CorruptedViews(gaussian_noise(0.1), variants=3)
        >>> batch = views({"image": torch.zeros(4, 1, 8, 8)}, torch.Generator().manual_seed(0))
        >>> batch["corrupted"].shape
        torch.Size([16, 1, 8, 8])
    """

    def __init__(self, corruption: Corruption, variants: int = 3) -> None:
        if variants < 0:
            raise ConfigError(f"variants={variants}; give 0 or more.")
        self.corruption = corruption
        self.views = variants + 1

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw for all views of the images."""
        return self.corruption.sample((self.views * shape[0], *shape[1:]), generator)

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with its views.

        "corrupted" is (V B, C, X, Y), view after view: the V = ``variants`` + 1 views of image b are the rows
        b, B + b, ...; "gates" (B, K), 0 or 1, tells which of the K links of a chain changed the first view.
        """
        image = ready_images(batch[Keys.IMAGE], self.corruption)
        views = corrupt(image.repeat(self.views, 1, 1, 1), self.corruption, params)
        if image.is_contiguous(memory_format=torch.channels_last):
            views = views.contiguous(memory_format=torch.channels_last)
        added = {"corrupted": views}
        if "gates" in params:
            added["gates"] = params["gates"][: len(image)].to(image)
        return {**batch, Keys.IMAGE: image, **added}


class CorruptedOrNot(BatchCorruption):
    """``batch_transform`` of a MultiOptimizerTrainer for a net that learns whether an image is corrupted.

    Args:
        corruption: from ``one_of``, such as ``unoranic_detection(prob=0.5)``.

    Example:
        >>> from robustmed_monai.transforms.corruption.combine import one_of
        >>> from robustmed_monai.transforms.corruption.noise import gaussian_noise
        >>> task = CorruptedOrNot(one_of([gaussian_noise(0.1)], prob=0.5))
        >>> task({"image": torch.zeros(4, 1, 8, 8)}, torch.Generator().manual_seed(0))["label"]
        tensor([1, 1, 1, 1])
    """

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with its images corrupted or not, and "label" (B,), 1 where they are."""
        return {**super().apply(batch, params), Keys.LABEL: params["gates"].any(1).long()}
