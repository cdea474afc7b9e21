"""Slices of images and volumes in memory: read once through the checked reader, served as whole batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Compose
from tqdm import tqdm

from robustmed_monai.data.datalist import subject_numbers
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.transforms.load import LoadCheckedImaged
from robustmed_monai.transforms.scale_foreground import ScaleForegroundd
from robustmed_monai.transforms.slice_selection import SelectSlicesd
from robustmed_monai.transforms.volume_slices import VolumeToSlicesd
from robustmed_monai.utils.errors import DataError, original_error

ReadItem = Callable[[Any], Any]


def slice_transforms(
    image_size: int, spacing: float | None = None, slice_range: Sequence[float] = (0.0, 1.0)
) -> Compose:
    """The transforms of ``preprocessing`` in the configs: one datalist item to its slices in [0, 1].

    Args:
        image_size: side of the slices in pixels.
        spacing: size of a pixel in mm, see ``VolumeToSlicesd``.
        slice_range: part of the slices to take, see ``SelectSlicesd``.

    Returns:
        A transform that turns the paths `image` and, where there is one, `mask` into stacks
        (1, image_size, image_size, S).
    """
    keys = ("image", "mask")
    return Compose(
        [
            LoadCheckedImaged(keys, channels=1, allow_missing_keys=True),
            ScaleForegroundd("image"),
            VolumeToSlicesd(keys, image_size, spacing, mode=("bilinear", "nearest"), allow_missing_keys=True),
            SelectSlicesd(keys, slice_range, allow_missing_keys=True),
        ]
    )


def read_items(
    data: Sequence[Mapping[str, Any]], transform: ReadItem, progress: str | None = "read images"
) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Each item of a datalist with what a transform makes of it.

    Args:
        data: datalist items, see ``load_datalist``.
        transform: item to what is wanted of it.
        progress: title of the progress bar; None shows none.

    Raises:
        DataError: when there are no items. What the transform raises comes as it is, not in MONAI's wrapping.
    """
    if not data:
        raise DataError("no images to read; check --dataset_dir.")
    for item in tqdm(data, desc=progress, leave=False, disable=progress is None or None):
        try:
            found = transform(dict(item))
        except RuntimeError as error:
            raise original_error(error) from None
        yield item, found


def first_axis(stack: torch.Tensor) -> torch.Tensor:
    """A stack (C, X, Y, S) as a plain batch (S, C, X, Y)."""
    return torch.as_tensor(stack).as_subclass(torch.Tensor).movedim(-1, 0).contiguous()


class SliceDataset(TensorDataset):
    """All slices of a datalist as one tensor in memory; a batch is one indexing operation.

    Args:
        data: datalist items, see ``load_datalist``.
        transform: item to stacks `image` (C, X, Y, S) in [0, 1] and, where it has one, `mask` (1, X, Y, S);
            see ``slice_transforms``.
        progress: title of the progress bar; None shows none.

    Raises:
        DataError: when there are no items; ImageError of the transform when a file cannot be used.

    Use with ``DataLoader(..., collate_fn=identity_collate)``: batches are dictionaries of `image`
    (B, C, X, Y), `healthy` (B,) bool, `index` (B,) of the item, `subject` (B,) its number, and `mask`
    (B, 1, X, Y) when any item of the data has one.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: ReadItem,
        progress: str | None = "read images",
    ) -> None:
        images, masks, index, healthy = [], [], [], []
        for i, (item, stacks) in enumerate(read_items(data, transform, progress)):
            slices = {"image": first_axis(stacks["image"])}
            if "mask" in stacks:
                slices["mask"] = (first_axis(stacks["mask"]) > 0).float()
            images.append(slices["image"])
            empty = torch.zeros_like(slices["image"][:, :1])
            masks.append(slices.get("mask", empty))
            index.append(torch.full((len(empty),), i))
            healthy.append(_healthy(item, slices))
        tensors = {"image": torch.cat(images), "index": torch.cat(index), "healthy": torch.cat(healthy)}
        tensors["subject"] = torch.tensor(subject_numbers(data))[tensors["index"]]
        if any("mask" in item for item in data):
            tensors["mask"] = torch.cat(masks)
        super().__init__(tensors, data)


def identity_collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Collate function for a data set that already makes batches."""
    return batch


def _healthy(item: Mapping[str, Any], slices: Mapping[str, torch.Tensor]) -> torch.Tensor:
    # A slice of an abnormal volume is abnormal where its mask says so; without a mask all of them are.
    if item.get("healthy", True):
        return torch.ones(len(slices["image"]), dtype=torch.bool)
    if "mask" in slices and len(slices["mask"]) > 1:
        return ~slices["mask"].flatten(1).any(1)
    return torch.zeros(len(slices["image"]), dtype=torch.bool)
