"""Two adapters of the sample and apply protocol of ``transforms.params``: MONAI's transforms, and batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends
from torch import Tensor

from robustmed_monai.transforms.params import Params, Shape, draw_share, params_to
from robustmed_monai.utils.errors import ConfigError

Batch = dict[str, Tensor]


class BatchTransform(ABC):
    """A ``batch_transform`` of a MultiOptimizerTrainer: a whole batch on its device, one draw per sample.

    Under torchrun each process takes its rows of the draw for the global batch. A subclass defines ``apply``,
    and ``sample`` where it is random.
    """

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw for images of a shape (B, C, *spatial): tensors on the CPU whose first axis is the batch."""
        return {}

    @abstractmethod
    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return a new batch.

        Args:
            batch: `image` (B, C, *spatial) and what else there is.
            params: what ``sample`` gave for B images, on the device of `image`.
        """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Draw and apply.

        Args:
            batch: `image` (B, C, *spatial) and what else there is.
            generator: a CPU generator, in the same state in every process.

        Raises:
            ConfigError: when the batch is no dictionary with an `image`.
        """
        if not isinstance(batch, Mapping) or "image" not in batch:
            found = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
            raise ConfigError(
                f"{type(self).__name__}: found {found}; give a batch, a dictionary with `image` "
                "(B, C, *spatial)."
            )
        image = batch["image"]
        params = draw_share(self.sample, image.shape, generator)
        return self.apply(batch, params_to(params, image.device))


class BatchCompose:
    """Runs batch transforms one after the other.

    Args:
        transforms: each (batch, generator) to batch, or a list of such; None is left out.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        lists = [item if isinstance(item, Sequence) else [item] for item in transforms]
        self.transforms = [item for items in lists for item in items if item is not None]

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return what the last transform returns."""
        for transform in self.transforms:
            batch = transform(batch, generator)
        return batch


class SeededTransform(RandomizableTransform):
    """A random array transform of MONAI whose draw is a coin and one seed, so that it can be repeated.

    Args:
        prob: probability of doing it.

    Attributes:
        seed: the seed last drawn.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - MONAI's class attribute

    def __init__(self, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.seed = 0

    def randomize(self, data: Any = None) -> None:
        """Toss the coin and draw the seed."""
        super().randomize(None)
        self.seed = int(self.R.randint(2**63 - 1, dtype=np.int64))

    def generator(self) -> torch.Generator:
        """A new generator with the seed last drawn."""
        return torch.Generator().manual_seed(self.seed)


class SeededDictTransform(RandomizableTransform, MapTransform):
    """Dictionary form of an array transform that takes ``randomize=False``; all keys get the same draw.

    Args:
        keys: what to transform.
        transform: the array transform; it holds the probability.
        allow_missing_keys: do nothing about a key that is not there.
    """

    backend = SeededTransform.backend

    def __init__(self, keys: KeysCollection, transform: Any, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, transform.prob)
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Self:
        """Seed this transform and the array transform inside."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the dictionary, transformed."""
        changed = dict(data)
        self.transform.randomize()
        for key in self.key_iterator(changed):
            changed[key] = self.transform(changed[key], randomize=False)
        return changed
