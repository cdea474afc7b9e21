"""MedMNIST's 2-D data sets from their official npz files; and one function for these and for datalists.

The files hold pictures as (rows, columns), as NumPy and Pillow do; this package's axes are (X, Y), columns
before rows, as in MONAI. The readers here transpose; whoever reads a file otherwise must swap the axes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustmed_monai.data.datalist import load_datalist
from robustmed_monai.data.slice_dataset import ReadItem, SliceDataset, slice_transforms
from robustmed_monai.data.split import SECTIONS
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.transforms.corruption.medmnist_c import MEDMNIST_C
from robustmed_monai.transforms.load import read_npz_arrays
from robustmed_monai.utils.errors import ConfigError, DataError

_SPLITS = dict(zip(SECTIONS, ("train", "val", "test"), strict=True))

logger = logging.getLogger(__name__)


def medmnist_dataset(
    dataset: str,
    dataset_dir: str | os.PathLike[str] | None,
    section: str,
    image_size: int = 28,
    download: bool = False,
    device: torch.device | str = "cpu",
) -> TensorDataset:
    """Read one split of a MedMNIST data set after comparing the md5 of its file with the official one.

    Args:
        dataset: "pneumoniamnist", "bloodmnist", ... any 2-D set of the ``medmnist`` package.
        dataset_dir: folder of the npz, or the npz itself.
        section: "training" (official train), "validation" (val) or "test".
        image_size: 28, or 64, 128 or 224 of the larger editions.
        download: fetch the file by the ``medmnist`` package when it is not there; else nothing is fetched.
        device: where the tensors lie.

    Returns:
        `image` (N, C, X, Y) float32 in [0, 1], transposed from the file's (N, rows, columns, C), and `label`
        (N,) int64, (N, labels) for several labels.

    Raises:
        ConfigError: for an unknown data set, section or size.
        DataError: when the file is missing, not the official one, or cannot be fetched.
    """
    info = medmnist_info(dataset)
    if section not in _SPLITS:
        raise ConfigError(f"section: found {section!r}; choose one of {list(_SPLITS)}.")
    suffix = "" if image_size == 28 else f"_{image_size}"
    if f"MD5{suffix}" not in info:
        raise ConfigError(f"image_size={image_size}: {dataset} has 28, 64, 128 and 224 pixels; choose one.")
    path = _find(dataset, dataset_dir, f"{dataset}{suffix}.npz")
    if download and not path.is_file():
        _download(info, path.parent, image_size)
    split = _SPLITS[section]
    arrays = read_official(path, info, [f"{split}_images", f"{split}_labels"])
    pixels, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"].astype(np.int64)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    logger.info(f"{section}: {len(pixels)} images in {path} ({split})")
    # Files hold (N, rows, columns, C); MONAI's axes are (C, x, y).
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 2, 1))).to(device)
    label = torch.from_numpy(labels[:, 0] if labels.shape[1] == 1 else labels).to(device)
    return TensorDataset({"image": image.float() / 255, "label": label}, [{"image": str(path)}])


def medmnist_info(dataset: str) -> dict[str, Any]:
    """What the ``medmnist`` package knows of a 2-D data set: task, classes, channels, licence, digests.

    Raises:
        ConfigError: when there is none of that name; the message names the nearest.
    """
    import medmnist

    known = {name: info for name, info in medmnist.INFO.items() if not name.endswith("3d")}
    if dataset not in known:
        near = get_close_matches(str(dataset), known, n=1)
        raise ConfigError(f"dataset '{dataset}' is none of {list(known)}{f'; {near[0]}?' if near else '.'}")
    return dict(known[dataset])


def read_official(path: Path, info: Mapping[str, Any], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Arrays of an official npz, as they lie in the file, after comparing its md5 with the official one.

    Args:
        path: the npz; its name ends in the edition's size, ``_64`` or so, unless that is 28.
        info: see ``medmnist_info``.
        names: arrays to read.

    Raises:
        DataError: when the file is missing or not the official one.
    """
    edition = re.search(r"_\d+$", path.stem)
    expected = info.get(f"MD5{edition[0] if edition else ''}")
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; put the official file there (a bundle fetches it with --download True)."
        )
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected:
        raise DataError(f"{path}: md5 {found} is not that of the official file ({expected}); fetch it again.")
    return read_npz_arrays(path, names)


def image_channels(dataset: str | None) -> int:
    """Channels of the images of a MedMNIST data set; 1 without one (slices of a datalist)."""
    return 1 if dataset is None else int(medmnist_info(dataset)["n_channels"])


def lacks_medmnist_c(dataset: str | None) -> bool:
    """Whether MedMNIST-C has no corruptions for a data set."""
    return dataset not in MEDMNIST_C


def scaling(dataset: str | None) -> str:
    """How the images of ``image_dataset`` come to [0, 1]: by "full_scale" (MedMNIST) or by "percentile"."""
    return "percentile" if dataset is None else "full_scale"


def image_dataset(
    section: str,
    dataset: str | None = None,
    dataset_dir: str | os.PathLike[str] | None = None,
    image_size: int = 28,
    transform: ReadItem | None = None,
    label_key: str = "level",
    download: bool = False,
    device: torch.device | str = "cpu",
) -> TensorDataset:
    """Images of one section in memory: a MedMNIST data set when one is named, a datalist's slices otherwise.

    Args:
        section: "training", "validation" or "test".
        dataset: MedMNIST data set, or None.
        dataset_dir: its folder; without ``dataset`` whatever ``load_datalist`` takes (None: embedded brains).
        image_size: side of the images in pixels.
        transform: item of a datalist to stacks, see SliceDataset; None takes all slices.
        label_key: whole number in the items of a datalist that is the class to tell; without it in every
            item, the class is 0 for healthy and 1 for abnormal images.
        download: fetch a MedMNIST file that is not there.
        device: where the tensors lie.

    Returns:
        `image` (N, C, X, Y) in [0, 1] and `label` (N,).

    Raises:
        ConfigError: for arguments out of range.
        DataError: when the data are missing or wrong; ImageError when a file cannot be used.
    """
    if dataset is not None:
        return medmnist_dataset(dataset, dataset_dir, section, image_size, download, device)
    items = load_datalist(dataset_dir, section)
    slices = SliceDataset(items, transform or slice_transforms(image_size), f"read {section} images")
    index = slices.tensors["index"]
    if all(isinstance(item.get(label_key), int) for item in items):
        label = torch.tensor([item[label_key] for item in items])[index]
    else:
        label = (~slices.tensors["healthy"]).long()
    return TensorDataset({"image": slices.tensors["image"].to(device), "label": label.to(device)}, items)


def _find(dataset: str, dataset_dir: str | os.PathLike[str] | None, name: str) -> Path:
    if dataset_dir is None:
        raise DataError(f"dataset {dataset}: give --dataset_dir, the folder that holds {name}.")
    path = Path(dataset_dir).expanduser().absolute()
    return path if path.suffix == ".npz" else path / name


def _download(info: dict[str, Any], folder: Path, image_size: int) -> None:
    import medmnist

    loader: Callable[..., Any] = getattr(medmnist, info["python_class"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        loader(split="test", root=str(folder), size=image_size, download=True)
    except (OSError, RuntimeError) as error:
        suffix = "" if image_size == 28 else f"_{image_size}"
        raise DataError(
            f"{folder}: {info[f'url{suffix}']} could not be fetched; "
            "without a network, bring the file here by other means."
        ) from error
