"""What training makes of clean images: several corrupted views of each, or corrupted ones with labels."""

from __future__ import annotations

import torch
from monai.utils.enums import CommonKeys as Keys

from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.monai_transforms import draw_share
from robustmed_monai.utils.errors import ConfigError


class CorruptedViews:
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
        >>> batch["corrupted"].shape, batch["variants"].shape
        (torch.Size([4, 1, 8, 8]), torch.Size([3, 4, 1, 8, 8]))
    """

    def __init__(self, corruption: Corruption, variants: int = 3) -> None:
        if variants < 0:
            raise ConfigError(f"variants={variants}; give 0 or more.")
        self.corruption = corruption
        self.variants = variants

    def __call__(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return the batch with its views.

        "corrupted" is (B, C, X, Y), "variants" (M, B, C, X, Y) where there are any; "gates" (B, K), 0 or 1,
        tells which of the K links of a chain changed "corrupted".
        """
        image = batch[Keys.IMAGE].as_subclass(torch.Tensor)
        count = self.variants + 1
        copies = image.repeat(count, 1, 1, 1)
        params = draw_share(self.corruption, copies.shape, generator)
        views = corrupt(copies, self.corruption, params).unflatten(0, (count, len(image)))
        added = {"corrupted": views[0]}
        if self.variants:
            added["variants"] = views[1:]
        if "gates" in params:
            added["gates"] = params["gates"][: len(image)].to(image)
        return {**batch, Keys.IMAGE: image, **added}


class CorruptedOrNot:
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

    def __init__(self, corruption: Corruption) -> None:
        self.corruption = corruption

    def __call__(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return the batch with its images corrupted or not, and "label" (B,), 1 where they are."""
        image = batch[Keys.IMAGE]
        params = draw_share(self.corruption, image.shape, generator)
        label = params["gates"].any(1).long().to(image.device)
        return {**batch, Keys.IMAGE: corrupt(image, self.corruption, params), Keys.LABEL: label}
