"""A corruption as MONAI's array and dictionary transform, and as a batched transform."""

from __future__ import annotations

import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.utils import convert_to_dst_type, convert_to_tensor

from robustmed_monai.transforms.adapters import Batch, BatchTransform, SeededDictTransform, SeededTransform
from robustmed_monai.transforms.corruption.core import Corruption, corrupt, ready_images
from robustmed_monai.transforms.params import Params, Shape

__all__ = [
    "BatchCorruption",
    "RandCorruption",
    "RandCorruptionD",
    "RandCorruptionDict",
    "RandCorruptiond",
]


class RandCorruption(SeededTransform):
    """Corrupt an image (C, X, Y[, Z]) in [0, 1] with a probability.

    Args:
        corruption: what to do, such as ``imagenet_c("motion_blur", 3)``.
        prob: probability of doing it.

    Example:
        >>> from robustmed_monai.transforms.corruption.noise import gaussian_noise
        >>> transform = RandCorruption(gaussian_noise(0.1), prob=1.0).set_random_state(seed=0)
        >>> transform(torch.full((1, 8, 8), 0.5)).shape
        torch.Size([1, 8, 8])
    """

    def __init__(self, corruption: Corruption, prob: float = 0.1) -> None:
        super().__init__(prob)
        self.corruption = corruption

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Return the image, corrupted or not: of the same kind (array, tensor, MetaTensor) and float type.

        Args:
            img: (C, X, Y[, Z]), float in [0, 1], or uint8 or uint16, which become float32 in [0, 1].
            randomize: False repeats the last draw.

        Raises:
            ImageShapeError: when the corruption has no meaning for this number of axes.
            ImageError: when the image is of another type, or leaves [0, 1], corrupted or not.
        """
        if randomize:
            self.randomize()
        image = ready_images(convert_to_tensor(img, track_meta=False)[None], self.corruption, batched=False)
        if self._do_transform:
            params = self.corruption.sample(image.shape, self.generator())
            image = corrupt(image, self.corruption, params)
        result: NdarrayOrTensor = convert_to_dst_type(image[0], img, dtype=image.dtype)[0]
        return result


class RandCorruptiond(SeededDictTransform):
    """Dictionary form of :class:`RandCorruption`; all keys get the same draw.

    Args:
        keys: images to corrupt.
        corruption: what to do.
        prob: probability of doing it.
        allow_missing_keys: do nothing about a key that is not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        corruption: Corruption,
        prob: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandCorruption(corruption, prob), allow_missing_keys)


class BatchCorruption(BatchTransform):
    """Corrupts `image` of a whole batch on its device: a ``batch_transform`` of a trainer.

    Args:
        corruption: what to do. Coins are part of it: ``chain(..., prob)`` and ``one_of(..., prob)``.

    Example:
        >>> from robustmed_monai.transforms.corruption.noise import gaussian_noise
        >>> batch = {"image": torch.zeros(4, 1, 8, 8)}
        >>> BatchCorruption(gaussian_noise(0.1))(batch, torch.Generator().manual_seed(0))["image"].shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(self, corruption: Corruption) -> None:
        self.corruption = corruption

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw the parameters of a batch."""
        return self.corruption.sample(shape, generator)

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with `image` (B, C, X, Y[, Z]) in [0, 1] corrupted."""
        return {**batch, "image": corrupt(batch["image"], self.corruption, params)}


RandCorruptionD = RandCorruptionDict = RandCorruptiond
