"""Pairs of images with tissue labels for registration: random ones to train on, fixed ones to measure on."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from monai.transforms import Compose, Orientation, ResizeWithPadOrCrop, Spacing
from torch.utils.data import Dataset, get_worker_info
from tqdm import tqdm

from robustmed_monai.data.datalist import load_datalist
from robustmed_monai.data.slice_dataset import first_axis
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.same_grid import on_grid_of
from robustmed_monai.transforms.scale_foreground import ScaleForeground
from robustmed_monai.transforms.volume_slices import VolumeToSlices
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

_SLICE_NUMBER = re.compile(r"[_-](?:slice|level)[_-]?(\d+)")


def tissue_images(
    section: str,
    dataset_dir: str | os.PathLike[str] | None = None,
    image_size: int | Sequence[int] = 128,
    spatial_dims: int = 2,
    num_classes: int = 4,
    spacing: float | None = None,
    upper_percentile: float = 99.5,
) -> TensorDataset:
    """Healthy images of one section with their tissue labels, in memory.

    Args:
        section: "training", "validation" or "test".
        dataset_dir: whatever ``load_datalist`` takes; each item needs a `label`.
        image_size: side of the slices in pixels; in 3-D the shape of the volumes.
        spatial_dims: 2 takes pictures and the axial slices of volumes; 3 takes volumes.
        num_classes: labels are 0 (background) to ``num_classes - 1``, or grey levels spread evenly from 0 to
            255, as in the PNG of OASIS.
        spacing: size in mm of a pixel, see ``VolumeToSlices``; of a voxel in 3-D, where it is needed.
        upper_percentile: percentile of the foreground that becomes 1.

    Returns:
        `image` (N, 1, *S) float32 in [0, 1], `label` (N, 1, *S) uint8, `subject` (N,) and `group` (N,): only
        images of one group (the level of the slice) show the same part of the body.

    Raises:
        ConfigError: for an argument out of range.
        DataError: when an item has no label, or a label is not a class.
        ImageShapeError: when label and image have different grids.
    """
    unsized = spatial_dims == 3 and spacing is None
    if spatial_dims not in (2, 3) or num_classes < 2 or unsized or (spacing is not None and spacing <= 0):
        raise ConfigError(
            f"spatial_dims={spatial_dims}, num_classes={num_classes}, spacing={spacing}; give 2 or 3 "
            "dimensions, at least 2 classes and a voxel size above 0."
        )
    scale = ScaleForeground(upper_percentile)
    items = [item for item in load_datalist(dataset_dir, section) if item.get("healthy", True)]
    if not items:
        raise DataError(f"{dataset_dir}: no healthy image in {section!r}; registration is measured on those.")
    subjects = {name: i for i, name in enumerate(sorted({_subject(item) for item in items}))}
    parts: dict[str, list[torch.Tensor]] = {"image": [], "label": [], "subject": [], "group": []}
    for item in tqdm(items, desc=f"read {section} images", leave=False, disable=None):
        image, label = _load(item)
        image, label = scale(image), class_labels(label, num_classes, str(item["label"]))
        if spatial_dims == 2:
            cut = VolumeToSlices(int(np.max(image_size)), spacing)
            images, labels, group = _slices(item, image, label, cut)
        else:
            images, labels = _volume(image, label, _shape(image_size), float(spacing or 0))
            group = torch.zeros(1, dtype=torch.long)
        parts["image"].append(images)
        parts["label"].append(labels)
        parts["group"].append(group)
        parts["subject"].append(torch.full_like(group, subjects[_subject(item)]))
    return TensorDataset({k: torch.cat(v) for k, v in parts.items()}, items)


def keep_images(data: TensorDataset) -> TensorDataset:
    """Add the images once more as `target`, which stays when features take the place of `image`."""
    return TensorDataset({**data.tensors, "target": data.tensors["image"]}, data.data)


class RandomPairs(Dataset[dict[str, torch.Tensor]]):
    """Each case as moving image, with a case of another subject, drawn anew each time, as fixed image.

    Use with ``DataLoader(..., num_workers=0, collate_fn=identity_collate)``. To resume a training exactly,
    keep ``generator`` in the checkpoint. Under torchrun, with a DistributedSampler, the pairs of all
    processes are those of one.

    Args:
        data: `image`, `label`, `subject` and `group`, see ``tissue_images``.
        seed: seed of the draws.

    Raises:
        ConfigError: when drawn from in a worker of a loader.
        DataError: when a case has no partner: there is no other subject in its group.
    """

    def __init__(self, data: TensorDataset, seed: int = 0) -> None:
        self.data = data.data
        self.tensors = data.tensors
        self.generator = torch.Generator().manual_seed(seed)
        self.rank, self.world = idist.get_rank(), idist.get_world_size()
        self.partners = [_partners(data.tensors, i) for i in range(len(data))]

    def __len__(self) -> int:
        """Number of moving images."""
        return len(self.partners)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One pair."""
        return {k: v[0] for k, v in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch of pairs: `moving`, `fixed` (B, C, *S) and all else, as `moving_label`, `fixed_label`."""
        if get_worker_info() is not None:
            raise ConfigError(
                "RandomPairs: all workers of a loader would draw the same pairs, and the same again in each "
                "epoch; give num_workers=0: the images are in memory."
            )
        chosen = [self._draw(self.partners[i]) for i in indices]
        return _pairs(self.tensors, torch.tensor(list(indices)), torch.tensor(chosen))

    def _draw(self, partners: torch.Tensor) -> int:
        # The draws go to the processes in turn, as a DistributedSampler deals out the cases.
        places = [torch.randint(len(partners), (), generator=self.generator) for _ in range(self.world)]
        return int(partners[places[self.rank]])


def fixed_pairs(data: TensorDataset, count: int = 100, seed: int = 0) -> TensorDataset:
    """The same pairs of different subjects every time, none of them twice.

    Args:
        data: see ``tissue_images``.
        count: number of pairs; all there are when there are fewer.
        seed: seed of the choice.

    Returns:
        `moving`, `fixed` (N, C, *S) and all else that the data have, as `moving_label`, `fixed_label`.

    Raises:
        ConfigError: when ``count`` is below 1.
        DataError: when there is no pair.
    """
    if count < 1:
        raise ConfigError(f"count={count}; give at least 1 pair.")
    possible = [(i, j) for i in range(len(data)) for j in _partners(data.tensors, i).tolist()]
    order = np.random.default_rng(seed).permutation(len(possible))[:count]
    chosen = torch.tensor([possible[i] for i in order])
    return TensorDataset(_pairs(data.tensors, chosen[:, 0], chosen[:, 1]), data.data)


def _pairs(
    tensors: Mapping[str, torch.Tensor], moving: torch.Tensor, fixed: torch.Tensor
) -> dict[str, torch.Tensor]:
    found = {}
    for name, values in tensors.items():
        suffix = "" if name == "image" else f"_{name}"
        found[f"moving{suffix}"] = values[moving]
        found[f"fixed{suffix}"] = values[fixed]
    return found


def _partners(tensors: Mapping[str, torch.Tensor], index: int) -> torch.Tensor:
    group, subject = tensors["group"], tensors["subject"]
    found = torch.nonzero((group == group[index]) & (subject != subject[index])).flatten()
    if not len(found):
        raise DataError(
            f"image {index} (subject {int(subject[index])}, level {int(group[index])}) has no image of "
            "another subject at its level to be registered to; add subjects, or give the items a common "
            "'level'."
        )
    return found


def _subject(item: Mapping[str, Any]) -> str:
    return str(item.get("subject", item["image"]))


def _load(item: Mapping[str, Any]) -> tuple[Any, Any]:
    if not item.get("label"):
        raise DataError(f"{item['image']}: has no label; list one, or put it into labels/ beside images/.")
    load = LoadCheckedImage(channels=1)
    image = load(item["image"])
    return image, on_grid_of(image, load(item["label"]))


def class_labels(label: Any, num_classes: int, path: str) -> Any:
    """Labels as class numbers, whether kept as such or as grey levels of a PNG."""
    last = num_classes - 1
    classes = label * (last / 255) if float(label.max()) > last else label
    rounded = classes.round()
    whole = float((classes - rounded).abs().max()) < 1e-3
    if not whole or float(rounded.min()) < 0 or float(rounded.max()) > last:
        raise DataError(
            f"{path}: its values go to {float(label.max()):g} and are neither the classes 0 to {last} nor "
            f"grey levels {255 // last} apart; give --num_classes, or convert the labels."
        )
    return rounded


def _slices(
    item: Mapping[str, Any], image: Any, label: Any, cut: VolumeToSlices
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    where = cut.geometry(image)
    images, labels = first_axis(cut(image, where)), first_axis(cut(label, where, "nearest"))
    if len(images) == 1:
        named = _SLICE_NUMBER.search(str(item["image"]))
        level = item.get("level", int(named.group(1)) if named else 0)
        return images, labels.to(torch.uint8), torch.tensor([int(level)])
    kept = torch.nonzero(labels.flatten(1).any(1)).flatten()
    return images[kept], labels[kept].to(torch.uint8), kept


def _volume(
    image: Any, label: Any, shape: Sequence[int], spacing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    if image.ndim != 4:
        raise ImageShapeError("spatial_dims=3 needs volumes, found a picture; give --spatial_dims 2.")
    result = []
    for volume, mode in ((image, "bilinear"), (label, "nearest")):
        fit = Compose(
            [
                Orientation(axcodes="RPS", labels=None),
                Spacing((spacing,) * 3, mode=mode, padding_mode="zeros"),
                ResizeWithPadOrCrop(list(shape)),
            ]
        )
        result.append(torch.as_tensor(fit(volume)).as_subclass(torch.Tensor)[None])
    return result[0].float().contiguous(), result[1].round().to(torch.uint8).contiguous()


def _shape(image_size: int | Sequence[int]) -> list[int]:
    return [image_size] * 3 if isinstance(image_size, int) else list(image_size)
