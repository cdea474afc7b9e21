"""Images with one class each, in memory: MedMNIST, folders named by class, or a datalist."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from robustmed_monai.data.datalist import load_datalist
from robustmed_monai.data.image_folder import SECTION_FOLDERS, folder_items, image_files, section_folders
from robustmed_monai.data.medmnist import medmnist_dataset
from robustmed_monai.data.slice_dataset import first_axis
from robustmed_monai.data.split import SECTIONS
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.rotation import to_square
from robustmed_monai.transforms.scale_foreground import ScaleForeground
from robustmed_monai.transforms.volume_slices import VolumeToSlices
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

_NOT_CLASSES = {"images", "masks", "labels"}

logger = logging.getLogger(__name__)


def labelled_images(
    section: str,
    dataset: str | None = None,
    dataset_dir: str | os.PathLike[str] | None = None,
    image_size: int = 32,
    channels: int = 1,
    num_classes: int | None = None,
    label_key: str = "level",
    upper_percentile: float | None = 99.5,
    source_size: int = 28,
    download: bool = False,
) -> TensorDataset:
    """Images of one section as square tensors with their classes.

    Args:
        section: "training", "validation" or "test".
        dataset: MedMNIST data set, or None for files.
        dataset_dir: the folder of the npz; without ``dataset`` a folder ``<section>/<class>/...`` (names of
            sections as in ``robustmed_monai.data.image_folder``), or whatever ``load_datalist`` takes (None:
            the embedded brains).
        image_size: side of the images in pixels.
        channels: channels of the images.
        num_classes: classes, 0 to ``num_classes - 1``; None does not check.
        label_key: whole number in the items of a datalist that is the class.
        upper_percentile: percentile of an image's foreground that becomes 1; None divides by the full scale
            of the file. MedMNIST is always divided by 255.
        source_size: edition of MedMNIST in pixels.
        download: fetch a MedMNIST file that is not there.

    Returns:
        `image` (N, C, S, S) float32 in [0, 1], `label` (N,) int64.

    Raises:
        ConfigError: for an argument out of range.
        DataError: when data are missing, a label is no class, or a class has no training image.
        ImageShapeError: when the images have other channels.
    """
    if section not in SECTIONS:
        raise ConfigError(f"section: found {section!r}; choose one of {list(SECTIONS)}.")
    if dataset is not None:
        found = medmnist_dataset(dataset, dataset_dir, section, source_size, download)
        image, label, items = found.tensors["image"], found.tensors["label"], [dict(v) for v in found.data]
        _check_channels(image, channels, dataset)
        if label.ndim != 1:
            raise DataError(f"{dataset}: has several labels per image; choose a data set with one.")
        image = to_square(image, image_size)
    else:
        items = _items(dataset_dir, section, label_key)
        read = SquareImages(image_size, channels, upper_percentile)
        stacks = [
            read(item["image"])
            for item in tqdm(items, desc=f"read {section} images", leave=False, disable=None)
        ]
        image = torch.cat(stacks)
        counts = torch.tensor([len(stack) for stack in stacks])
        label = torch.tensor([int(item["class"]) for item in items]).repeat_interleave(counts)
    _check_labels(label, num_classes, section, str(dataset or dataset_dir or "embedded"))
    return TensorDataset({"image": image, "label": label}, items)


class SquareImages:
    """Reads one file as square 2-D images in [0, 1], the same way in training and at inference.

    Args:
        image_size: side of the images in pixels.
        channels: channels of the images; 1 reduces a grey picture stored as RGB.
        upper_percentile: percentile of the foreground (of the whole file) that becomes 1; None divides by
            white, the ``max_value`` of the reader; volumes have none and are divided by percentile 99.5.
        on_nonfinite: policy for NaN and infinite values, see LoadCheckedImage.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 1,
        upper_percentile: float | None = 99.5,
        on_nonfinite: str = "raise",
    ) -> None:
        self.image_size = image_size
        white = upper_percentile is None
        self.scale = ScaleForeground(99.5 if upper_percentile is None else upper_percentile, max_value=white)
        self.load = LoadCheckedImage(on_nonfinite=on_nonfinite, channels=channels)  # type: ignore[arg-type]

    def __call__(self, path: str) -> torch.Tensor:
        """Read a picture (1, C, S, S) or the axial slices of a volume (slices, C, S, S)."""
        return to_square(self.slices(path), self.image_size)

    def slices(self, path: str) -> torch.Tensor:
        """The same at the file's own size, padded to a square."""
        return self.scaled(self.load(path))

    def scaled(self, image: Any) -> torch.Tensor:
        """The same of an image that was read already."""
        return first_axis(VolumeToSlices()(self.scale(image)))


def class_weights(label: torch.Tensor | TensorDataset, num_classes: int, power: float = 1.0) -> list[float]:
    """Weights of the classes in a loss: their shares to the power of ``-power``, with mean 1 over the images.

    Args:
        label: (N,) classes of the training images, or these images with their `label`.
        num_classes: number of classes.
        power: 0 weights all alike, 1 gives every class the same say.

    Example:
        >>> class_weights(torch.tensor([0, 1, 1, 1]), 2)
        [2.0, 0.6666666865348816]
    """
    classes = label.tensors["label"] if isinstance(label, TensorDataset) else label
    share = torch.bincount(classes, minlength=num_classes) / len(classes)
    weights = share.clamp(min=1e-12) ** -power
    return [float(w) for w in weights / (weights * share).sum()]


def _items(dataset_dir: str | os.PathLike[str] | None, section: str, label_key: str) -> list[dict[str, Any]]:
    folders = _class_folders(dataset_dir)
    if folders:
        return _items_of_classes(folders, section)
    items = load_datalist(dataset_dir, section)
    bad = [item for item in items if not isinstance(item.get(label_key), int)]
    if bad:
        raise DataError(
            f"{dataset_dir}: {bad[0]['image']} has no whole number '{label_key}', the class to learn; "
            "add it to each item, name another key by --label_key, or make folders train/<class>/."
        )
    return [{**item, "class": item[label_key]} for item in items]


def _class_folders(dataset_dir: str | os.PathLike[str] | None) -> dict[str, Path]:
    """Folders of the sections when the training one has a folder per class, else nothing."""
    root = Path(str(dataset_dir)).expanduser()
    if not root.is_dir() or (root / "datalist.json").exists():
        return {}
    sections = section_folders(root)
    return sections if "training" in sections and _classes(sections["training"]) else {}


def _classes(training: Path) -> list[str]:
    names = (path.name for path in training.iterdir() if path.is_dir() and not path.name.startswith("."))
    return sorted(name for name in names if name.lower() not in _NOT_CLASSES)


def _items_of_classes(sections: Mapping[str, Path], section: str) -> list[dict[str, Any]]:
    root = sections["training"].parent
    if section not in sections:
        wanted = " or ".join(SECTION_FOLDERS[section])
        raise DataError(f"{root}: no folder {wanted}; make it, with one folder per class.")
    classes = _classes(sections["training"])
    unknown = sorted(set(_classes(sections[section])) - set(classes))
    if unknown:
        raise DataError(
            f"{sections[section] / unknown[0]}: is no class of {sections['training']} ({classes})."
        )
    items: list[dict[str, Any]] = []
    for label, name in enumerate(classes):
        folder = sections[section] / name
        found = folder_items(folder, None) if folder.is_dir() and any(image_files(folder)) else []
        if section == "training" and not found:
            raise DataError(f"{folder}: holds no image; add images of this class or remove it.")
        items += [{"image": item["image"], "class": label} for item in found]
    if not items:
        raise DataError(f"{sections[section]}: holds no image in {', '.join(classes)}; add them.")
    logger.info(f"{section}: {len(items)} images of {len(classes)} classes in {sections[section]}")
    return items


def _check_channels(image: torch.Tensor, channels: int, dataset: str) -> None:
    if image.shape[1] != channels:
        raise ImageShapeError(
            f"{dataset}: its images have {image.shape[1]} channel(s), the network takes {channels}; give "
            f"--channels {image.shape[1]}, or the overlay {dataset}.json where there is one."
        )


def _check_labels(label: torch.Tensor, num_classes: int | None, section: str, name: str) -> None:
    if num_classes is None:
        return
    found: Mapping[int, int] = dict(zip(*(v.tolist() for v in label.unique(return_counts=True)), strict=True))
    others = sorted(set(found) - set(range(num_classes)))
    if others:
        raise DataError(
            f"{name}, {section}: has the class(es) {others}, the network has 0 to {num_classes - 1}; give "
            f"--num_classes {max(others) + 1}."
        )
    absent = sorted(set(range(num_classes)) - set(found))
    if absent and section == "training":
        raise DataError(
            f"{name}: no training image of class(es) {absent}; add some, or give fewer --num_classes."
        )
