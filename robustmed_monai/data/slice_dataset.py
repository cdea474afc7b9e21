"""Slices of images and volumes in memory: read once through the checked reader, served as whole batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

from robustmed_monai.data.datalist import subject_numbers
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.transforms.load import LoadCheckedImaged
from robustmed_monai.transforms.slices import filled_slices, volume_to_slices
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError


class AxialSlices:
    """Turns one datalist item into its square slices in [0, 1], the same way in training and at inference.

    Args:
        image_size: side of the slices in pixels.
        upper_percentile: percentile of the foreground (of the whole image or volume) that becomes 1.
        slice_range: part of a volume's non-empty axial slices to take, from 0 (lowest) to 1 (highest); a 2-D
            image is always taken whole.
        channels: channels of the image; 1 reduces a grey picture stored as RGB.
        on_nonfinite: policy for NaN and infinite values, see LoadCheckedImage.

    Raises:
        ConfigError: for a range that is not rising inside [0, 1].
    """

    def __init__(
        self,
        image_size: int,
        upper_percentile: float = 99.5,
        slice_range: Sequence[float] = (0.0, 1.0),
        channels: int | None = 1,
        on_nonfinite: str = "raise",
    ) -> None:
        if not 0 <= slice_range[0] < slice_range[1] <= 1:
            raise ConfigError(
                f"slice_range={list(slice_range)} must rise inside [0, 1], such as [0.45, 0.65]."
            )
        self.image_size = image_size
        self.upper_percentile = upper_percentile
        self.slice_range = tuple(slice_range)
        self.load = LoadCheckedImaged("image", on_nonfinite=on_nonfinite, channels=channels)  # type: ignore[arg-type]
        self.load_mask = LoadCheckedImaged("mask", channels=1, allow_missing_keys=True)

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Load the item's `image` and, if present, `mask`.

        Args:
            item: datalist item.

        Returns:
            The item with `image` (S, C, image_size, image_size) float32 and `mask` (S, 1, image_size,
            image_size) in {0, 1}.

        Raises:
            ImageError: when a file cannot be used, or mask and image have different grids; the message names
                the file.
        """
        paths: dict[Any, Any] = dict(item)
        data: dict[Any, Any] = self.load_mask(self.load(paths))
        slices, geometry = volume_to_slices(
            data["image"], self.image_size, upper_percentile=self.upper_percentile
        )
        result = {**item, "image": slices}
        if "mask" in data:
            if tuple(data["mask"].shape[1:]) != geometry.spatial_shape:
                raise ImageShapeError(
                    f"{item['mask']}: mask of {tuple(data['mask'].shape[1:])} voxels for an image of "
                    f"{geometry.spatial_shape} ({item['image']}); give a mask on the image's grid."
                )
            mask, _ = volume_to_slices((data["mask"] > 0).float(), self.image_size, mode="nearest-exact")
            result["mask"] = mask
        if len(slices) == 1:
            return result
        kept = self._kept(slices)
        return {**result, **{k: result[k][kept] for k in ("image", "mask") if k in result}}

    def _kept(self, slices: torch.Tensor) -> torch.Tensor:
        filled = filled_slices(slices)
        low, high = (round(share * (len(filled) - 1)) for share in self.slice_range)
        return filled[low : high + 1] if len(filled) else torch.arange(len(slices))


class SliceDataset(TensorDataset):
    """All slices of a datalist as one tensor in memory; a batch is one indexing operation.

    Args:
        data: datalist items, see ``load_datalist``.
        transform: item to slices, an AxialSlices.
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
        transform: Callable[[Mapping[str, Any]], dict[str, Any]],
        progress: str | None = "read images",
    ) -> None:
        if not data:
            raise DataError("no images to read; check --dataset_dir.")
        images, masks, index, healthy = [], [], [], []
        for i, item in enumerate(tqdm(data, desc=progress, leave=False, disable=progress is None or None)):
            slices = transform(item)
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
