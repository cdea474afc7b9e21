"""The doors to a corruption: MONAI's array and dictionary transforms, and the batched callable."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
from torch import Tensor

from robustmed_monai.transforms.corruption.core import Corruption, Params, Shape, corrupt, take

__all__ = [
    "BatchCorruption",
    "RandCorruption",
    "RandCorruptionD",
    "RandCorruptionDict",
    "RandCorruptiond",
    "draw_share",
]


class RandCorruption(RandomizableTransform):
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

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - MONAI's class attribute

    def __init__(self, corruption: Corruption, prob: float = 0.1) -> None:
        RandomizableTransform.__init__(self, prob)
        self.corruption = corruption
        self.seed = 0

    def randomize(self, data: Any = None) -> None:
        """Throw the coin and draw the seed of the parameters."""
        super().randomize(None)
        self.seed = int(self.R.randint(2**63 - 1, dtype=np.int64))

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Return the image, corrupted or not: float32 of the same kind (array, tensor, MetaTensor).

        Args:
            img: (C, X, Y[, Z]), float in [0, 1] or uint8.
            randomize: False repeats the last draw.
        """
        if randomize:
            self.randomize()
        image = convert_to_tensor(img, track_meta=False)[None]
        if not self._do_transform:
            changed = image / 255 if image.dtype == torch.uint8 else image
        else:
            generator = torch.Generator().manual_seed(self.seed)
            changed = corrupt(image, self.corruption, self.corruption.sample(image.shape, generator))
        result: NdarrayOrTensor = convert_to_dst_type(changed[0], img, dtype=changed.dtype)[0]
        return result


class RandCorruptiond(RandomizableTransform, MapTransform):
    """Dictionary form of :class:`RandCorruption`; all keys get the same draw.

    Args:
        keys: images to corrupt.
        corruption: what to do.
        prob: probability of doing it.
        allow_missing_keys: do nothing about a key that is not there.
    """

    backend = RandCorruption.backend

    def __init__(
        self,
        keys: KeysCollection,
        corruption: Corruption,
        prob: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.transform = RandCorruption(corruption, prob=prob)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandCorruptiond:
        """Seed this transform."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Return the dictionary with its images corrupted, or not."""
        changed = dict(data)
        self.transform.randomize()
        for key in self.key_iterator(changed):
            changed[key] = self.transform(changed[key], randomize=False)
        return changed


class BatchCorruption:
    """Corrupt a whole batch on its device; under torchrun, with the draw of the global batch.

    Args:
        corruption: what to do. Coins are part of it: ``chain(..., prob)`` and ``one_of(..., prob)``.

    Example:
        >>> from robustmed_monai.transforms.corruption.noise import gaussian_noise
        >>> batch = BatchCorruption(gaussian_noise(0.1))
        >>> batch(torch.zeros(4, 1, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(self, corruption: Corruption) -> None:
        self.corruption = corruption

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return (B, C, X, Y[, Z]) images of the same device and memory format."""
        return corrupt(images, self.corruption, draw_share(self.corruption, images.shape, generator))


def draw_share(corruption: Corruption, shape: Shape, generator: torch.Generator) -> Params:
    """Parameters of this process's batch: its rows of the draw of the global batch under torchrun.

    Args:
        corruption: what to draw for.
        shape: (B, C, X, Y[, Z]) of this process's batch.
        generator: a CPU generator in the same state in every process.
    """
    world, rank = idist.get_world_size(), idist.get_rank()
    params = corruption.sample((shape[0] * world, *shape[1:]), generator)
    return take(params, torch.arange(rank, shape[0] * world, world)) if world > 1 else params


RandCorruptionD = RandCorruptionDict = RandCorruptiond
