"""Whole data sets in memory as tensors, on the device that needs them; a batch is one indexing operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.params import draw
from robustmed_monai.utils.errors import DataError


class TensorDataset(Dataset[dict[str, torch.Tensor]]):
    """Tensors whose first axis is the case.

    Use with ``DataLoader(..., collate_fn=identity_collate)``, which then handles no case alone.

    Args:
        tensors: name to tensor (N, ...), `image` (N, C, X, Y) among them.
        data: one item per file that the tensors come from, with its path as "image"; for digests.

    Raises:
        DataError: when there is no case, or the tensors differ in their number.

    Example:
        >>> data = TensorDataset({"image": torch.zeros(5, 1, 8, 8), "label": torch.arange(5)})
        >>> data.__getitems__([4, 0])["label"]
        tensor([4, 0])
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], data: Sequence[Mapping[str, Any]] = ()) -> None:
        counts = {k: len(v) for k, v in tensors.items()}
        if not counts or len(set(counts.values())) > 1 or 0 in counts.values():
            raise DataError(f"tensors of {counts} cases; give the same number, at least one, of each.")
        self.tensors = dict(tensors)
        self.data = list(data)

    def __len__(self) -> int:
        """Number of cases."""
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One case."""
        return {k: v[index] for k, v in self.tensors.items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A whole batch at once; PyTorch's loader calls this when it is there."""
        device = next(iter(self.tensors.values())).device
        chosen = torch.as_tensor(indices).to(device)
        return {k: v.index_select(0, chosen) for k, v in self.tensors.items()}


def with_corrupted(data: Any, corruption: Corruption, seed: int = 0) -> TensorDataset:
    """Add to each image of a data set in memory one fixed corrupted copy, for validation.

    Args:
        data: TensorDataset or SliceDataset with `image` (N, C, X, Y).
        corruption: what to do, with its coins.
        seed: the copy of case i depends on the seed and on i alone.

    Returns:
        The data with `corrupted` (N, C, X, Y) as well.
    """
    image = data.tensors["image"]
    seeds = torch.randint(2**62, (len(image),), generator=torch.Generator().manual_seed(seed)).tolist()
    params = draw(corruption.sample, image.shape[1:], [torch.Generator().manual_seed(s) for s in seeds])
    return TensorDataset({**data.tensors, "corrupted": corrupt(image, corruption, params)}, data.data)
