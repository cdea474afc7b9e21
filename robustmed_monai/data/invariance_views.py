"""Fixed batches that measure the contrast invariance of features: synthesised shapes, and real brains.

Each batch is a dictionary with `image` (3 B, 1, *spatial) in [0, 1], three views of B anatomies one after the
other: an image, another contrast, and the first inverted; and `mask` (B, 1, *spatial), 1 where features are
compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.transforms import Compose, ResizeWithPadOrCropd

from robustmed_monai.data.datalist import load_datalist
from robustmed_monai.data.slice_dataset import SliceDataset, read_items, slice_transforms
from robustmed_monai.transforms.contrasts import invert, smooth_remap
from robustmed_monai.transforms.load import LoadCheckedImaged
from robustmed_monai.transforms.scale_foreground import ScaleForegroundd
from robustmed_monai.transforms.volume_slices import VolumeToSlicesd
from robustmed_monai.utils.errors import ConfigError, DataError

if TYPE_CHECKING:
    from robustmed_monai.data.synthetic_views import SyntheticViews

Batch = dict[str, Any]


def shape_batches(views: SyntheticViews, count: int) -> list[Batch]:
    """The first batches of a source of synthesised pairs, with the inverse of each image.

    Args:
        views: the source; give it a seed that the training does not use.
        count: number of batches.

    Returns:
        Batches with `kind` "shapes"; features are compared everywhere.
    """
    found = []
    for number in range(count):
        pair = views.batch(number)["image"]
        first = pair[: len(pair) // 2]
        image = torch.cat([pair, 1 - first])
        found.append({"image": image, "mask": torch.ones_like(first), "kind": "shapes"})
    return found


def brain_batches(
    dataset_dir: str | None,
    section: str = "validation",
    spatial_dims: int = 2,
    image_size: int = 128,
    slice_range: Sequence[float] = (0.45, 0.65),
    limit: int = 24,
    batch_size: int = 8,
    seed: int = 0,
    spacing: float | None = None,
) -> list[Batch]:
    """Images of a data set, each remapped by a random smooth curve and inverted inside the brain.

    Labels serve as masks only: the brain is where the label is above 0, or where the image is, without one.

    Args:
        dataset_dir: as in ``load_datalist``; None takes the embedded brains.
        section: "training", "validation" or "test".
        spatial_dims: 2 takes axial slices, 3 whole volumes.
        image_size: side in pixels of slices, or in voxels of the cube that is cut from the middle of volumes.
        slice_range: part of a volume's axial slices to take, see ``SelectSlicesd``; with spatial_dims=2.
        limit: images at most, spread evenly over the data.
        batch_size: images per batch, at least 2 (each is compared with the next as another anatomy).
        seed: seed of the curves.
        spacing: size of a pixel in mm that slices of volumes are brought to; with spatial_dims=2.

    Returns:
        Batches with `kind` "brains".

    Raises:
        ConfigError: for a batch size below 2.
        DataError: when there are fewer than two images.
    """
    if batch_size < 2:
        raise ConfigError(f"batch_size={batch_size}: images are compared with each other; give at least 2.")
    items = [_masked_by_label(item) for item in load_datalist(dataset_dir, section)]
    if spatial_dims == 3:
        image, mask = _volumes(_spread(items, limit), image_size)
    else:
        image, mask = _slices(items, image_size, spacing, slice_range, limit)
    if len(image) < 2:
        raise DataError(f"dataset_dir {dataset_dir}: 1 image in {section}; give at least 2 to compare.")
    remapped = smooth_remap(image, torch.Generator().manual_seed(seed))
    views = torch.stack([image, remapped, invert(image, mask)])
    # A last batch of one would have nothing to be compared with.
    parts = [slice(i, i + batch_size) for i in range(0, len(image), batch_size) if len(image) - i > 1]
    return [{"image": views[:, p].flatten(0, 1), "mask": mask[p], "kind": "brains"} for p in parts]


def _masked_by_label(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"image": item["image"], **({"mask": item["label"]} if "label" in item else {})}


def _spread(items: Sequence[Any], limit: int) -> list[Any]:
    if len(items) <= limit:
        return list(items)
    return [items[i] for i in torch.linspace(0, len(items) - 1, limit).round().long().tolist()]


def _slices(
    items: Sequence[Mapping[str, Any]],
    size: int,
    spacing: float | None,
    slice_range: Sequence[float],
    limit: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    # Of more items than images none beyond the limit is needed.
    found = SliceDataset(_spread(items, limit), slice_transforms(size, spacing, slice_range), progress=None)
    chosen = torch.tensor(_spread(range(len(found)), limit))
    image = found.tensors["image"][chosen]
    mask = found.tensors["mask"][chosen] if "mask" in found.tensors else torch.zeros_like(image)
    return image, _filled(image, mask)


def _volumes(items: Sequence[Mapping[str, Any]], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    keys = ("image", "mask")
    cut = Compose(
        [
            LoadCheckedImaged(keys, channels=1, allow_missing_keys=True),
            ScaleForegroundd("image"),
            VolumeToSlicesd(keys, mode=("bilinear", "nearest"), allow_missing_keys=True),
            ResizeWithPadOrCropd(keys, (size,) * 3, allow_missing_keys=True),
        ]
    )
    images, masks = [], []
    for _, found in read_items(items, cut, progress=None):
        image = torch.as_tensor(found["image"]).as_subclass(torch.Tensor)
        images.append(image)
        masks.append((found["mask"].as_tensor() > 0).float() if "mask" in found else torch.zeros_like(image))
    image, mask = torch.stack(images), torch.stack(masks)
    return image, _filled(image, mask)


def _filled(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Masks, and the foreground where an image has none."""
    empty = ~mask.flatten(1).any(1)
    return torch.where(empty.reshape(-1, *[1] * (image.ndim - 1)), (image > 0).float(), mask)
