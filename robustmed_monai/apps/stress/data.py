"""Test sets of a stress test: tensors, MedMNIST's files, datalists with classes or masks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustmed_monai.apps.stress.views import Views, join_views, read_views
from robustmed_monai.data.datalist import load_datalist, subject_numbers
from robustmed_monai.data.medmnist import medmnist_dataset
from robustmed_monai.data.pairs import class_labels
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.same_grid import on_grid_of
from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.fingerprint import digest_objects
from robustmed_monai.utils.provenance import data_digest

TASKS = ("classification", "segmentation")
_PICTURES_KEPT, _VOLUMES_KEPT = 4096, 4


@dataclass(frozen=True)
class StressData:
    """A test set whose images are read one by one.

    Args:
        name: what the report calls it.
        task: "classification" or "segmentation".
        names: of the images.
        subjects: whose image each is.
        num_classes: classes 0 to ``num_classes - 1``; of a segmentation, the background among them.
        read: place of an image to the image (C, X, Y[, Z]) and its class () or labels (1, X, Y[, Z]).
        sha256: digest of the files.
        split: section of the data set.
        class_names: names of the classes.
        sample: the first image, for its shape.

    Raises:
        DataError: when there is no image.
    """

    name: str
    task: str
    names: Sequence[str]
    subjects: Sequence[str]
    num_classes: int
    read: Callable[[int], tuple[Any, Tensor]]
    sha256: str
    split: str = "test"
    class_names: Sequence[str] = ()
    medmnist: str | None = None
    sample: Views = field(init=False)

    def __post_init__(self) -> None:
        """Read the first image."""
        if not self.names:
            raise DataError(f"{self.name}: holds no image; give at least one.")
        if self.task not in TASKS:
            raise ConfigError(f"task {self.task!r}; choose one of {list(TASKS)}.")
        image, truth = self.read(0)
        object.__setattr__(self, "sample", read_views(image, truth, 0))
        kept = _PICTURES_KEPT if self.sample.images.ndim == 4 else _VOLUMES_KEPT
        object.__setattr__(self, "read", lru_cache(kept)(self.read))

    def __len__(self) -> int:
        return len(self.names)

    def views(self, index: int) -> Views:
        """One image."""
        image, truth = self.read(index)
        if self.task == "segmentation":
            truth = on_grid_of(image, truth, self.names[index])
        return read_views(image, truth, index)

    def batches(self, size: int) -> Iterator[Views]:
        """Consecutive images of the same shape and number of bits, up to ``size`` at once."""
        waiting: list[Views] = []
        for index in range(len(self)):
            views = self.views(index)
            if waiting and (len(waiting) == size or _kind(waiting[0]) != _kind(views)):
                yield join_views(waiting)
                waiting = []
            waiting.append(views)
        yield join_views(waiting)


def tensor_data(
    images: Any,
    labels: Any,
    name: str = "images",
    subjects: Sequence[Any] | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
) -> StressData:
    """Images in memory.

    Args:
        images: (N, C, X, Y[, Z]), float in [0, 1] or uint8.
        labels: (N,) classes, or (N, 1, X, Y[, Z]) label maps.
        name: what the report calls them.
        subjects: (N,) whose image it is; None takes every image for a subject of its own.
        num_classes: None takes one more than the highest label.
        class_names: names of the classes.

    Raises:
        DataError: when the numbers differ.

    Example:
        >>> data = tensor_data(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
        >>> data.task, len(data), data.num_classes
        ('classification', 4, 2)
    """
    pictures, truth = torch.as_tensor(images), torch.as_tensor(labels)
    owners = [str(i) for i in range(len(pictures))] if subjects is None else [str(s) for s in subjects]
    if not len(pictures) == len(truth) == len(owners):
        raise DataError(f"{len(pictures)} images, {len(truth)} labels, {len(owners)} subjects; give as many.")
    return StressData(
        name=name,
        task="classification" if truth.ndim == 1 else "segmentation",
        names=[str(i) for i in range(len(pictures))],
        subjects=owners,
        num_classes=num_classes or int(truth.max()) + 1,
        read=lambda index: (
            pictures[index],
            truth[index].to(torch.uint8) if truth.ndim > 1 else truth[index],
        ),
        sha256=digest_objects(pictures, truth),
        class_names=class_names,
    )


def medmnist_data(
    path: str | os.PathLike[str], section: str = "test", limit: int | None = None
) -> StressData:
    """A split of an official MedMNIST file, named as the data set.

    Args:
        path: the npz, ``pneumoniamnist.npz`` or ``pneumoniamnist_64.npz``.
        section: "training", "validation" or "test".
        limit: evenly spaced images of it.

    Raises:
        DataError: when the file is missing or not the official one, or has several labels an image.
    """
    file = Path(path)
    dataset, _, size = file.stem.partition("_")
    found = medmnist_dataset(dataset, file, section, int(size or 28)).tensors
    if found["label"].ndim != 1:
        raise DataError(f"{path}: has several labels per image; choose a data set with one.")
    kept = _spaced(len(found["label"]), limit)
    pixels, labels = (found["image"] * 255).round().to(torch.uint8), found["label"]
    from robustmed_monai.data.medmnist import medmnist_info

    names = list(medmnist_info(dataset)["label"].values())
    return StressData(
        name=dataset,
        task="classification",
        names=[f"{section}/{i}" for i in kept],
        subjects=[str(i) for i in kept],
        num_classes=len(names),
        read=lambda index: (pixels[kept[index]], labels[kept[index]]),
        sha256=data_digest(file),
        split=section,
        class_names=names,
        medmnist=dataset,
    )


def datalist_data(
    source: str | os.PathLike[str],
    section: str = "test",
    channels: int | None = None,
    num_classes: int | None = None,
    label_key: str = "label",
    limit: int | None = None,
    class_names: Sequence[str] = (),
) -> StressData:
    """A datalist (JSON) or folder of images with classes (whole numbers) or masks (files).

    Args:
        source: whatever ``load_datalist`` takes.
        section: section of the datalist.
        channels: that the images are to have, see ``LoadCheckedImage``.
        num_classes: of the model; None takes one more than the highest label of a classification, and 2 for
            masks.
        label_key: key of an item that holds its class (a whole number) or the path of its labels.
        limit: evenly spaced images of it.
        class_names: names of the classes.

    Raises:
        DataError: when a label is missing or no class, or some items have classes and others masks.
    """
    items = load_datalist(source, section)
    items = [items[i] for i in _spaced(len(items), limit)]
    keys = {
        item["image"]: next((k for k in (label_key, "mask") if item.get(k) is not None), "") for item in items
    }
    if missing := [image for image, key in keys.items() if not key]:
        raise DataError(
            f'{missing[0]}: has no "{label_key}" (a class, or a file of labels) in the datalist; add it, or '
            "name another key by --label_key."
        )
    labels = [item[keys[item["image"]]] for item in items]
    kinds = {type(label) for label in labels}
    if kinds not in ({int}, {str}):
        raise DataError(
            f"{source}: labels are {sorted(kind.__name__ for kind in kinds)}; give a whole number (the "
            "class) or a path (a mask) in all items."
        )
    task = "classification" if kinds == {int} else "segmentation"
    least = max(labels) + 1 if task == "classification" else 2
    # A network of one channel tells its structure from the background.
    count = max(num_classes or least, 2)
    if task == "classification" and not 0 <= min(labels) <= max(labels) < count:
        raise DataError(f"{source}: classes {sorted(set(labels))} for {count} classes; give --num_classes.")
    load, load_labels = LoadCheckedImage(channels=channels), LoadCheckedImage(channels=1)

    def read(index: int) -> tuple[Any, Tensor]:
        image = load(items[index]["image"])
        if task == "classification":
            return image, torch.tensor(labels[index])
        placed = on_grid_of(image, load_labels(labels[index]))
        found = class_labels(placed, count, str(labels[index]))
        return image, found.as_subclass(Tensor).to(torch.uint8)

    files = [item["image"] for item in items] + (labels if task == "segmentation" else [])
    root = os.path.commonpath([Path(item["image"]).parent for item in items])
    return StressData(
        name=Path(source).expanduser().absolute().name,
        task=task,
        names=[os.path.relpath(item["image"], root) for item in items],
        subjects=[str(item.get("subject", n)) for item, n in zip(items, subject_numbers(items), strict=True)],
        num_classes=count,
        read=read,
        sha256=digest_objects(data_digest(files), labels if task == "classification" else 0),
        split=section,
        class_names=class_names,
    )


def _kind(views: Views) -> tuple[torch.Size, bool]:
    return views.images.shape, views.eight_bit


def _spaced(count: int, limit: int | None) -> list[int]:
    if limit is None or limit >= count:
        return list(range(count))
    if limit < 1:
        raise ConfigError(f"limit={limit}; give at least 1 image.")
    return [int(i) for i in np.linspace(0, count - 1, limit).round()]
