"""Stacks of 16 axial slices of 2 mm with tissue labels, to paint images of any contrast from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, Orientation, ResizeWithPadOrCrop
from torch import Tensor
from torch.nn import functional as F

from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.data.virtual_subjects import SPACING, virtual_subject
from robustmed_monai.transforms.load import LoadCheckedImage, read_npz_arrays
from robustmed_monai.utils.errors import ConfigError, DataError

SIZE = (80, 96, 16)
_VOXEL = 2.0  # mm
_SEEDS = {"training": 1, "validation": 2}
SLAB, WHOLE = "oasis_slab_128.npz", "neurite_oasis"
# Steps between the stacks of a whole head, in slices.
_STEP = 12
# Skull and scalp that are put around a brain without: distance from it in mm, brightness.
_LAYERS = ((2.5, 0.15), (8.0, 0.12), (14.0, 0.9), (float("inf"), 0.0))
_SULCI = 5  # half the width in voxels of the gaps between gyri that become fluid


def head_stacks(
    section: str,
    dataset_dir: str | os.PathLike[str] | None = None,
    virtual: int = 24,
    repeat: int = 20,
    subjects: int | None = None,
) -> TensorDataset:
    """Stacks of one section: virtual subjects, and real ones where a folder is given.

    Args:
        section: "training" or "validation"; their subjects differ.
        dataset_dir: folder with ``oasis_slab_128.npz`` (N slices of 128 x 128, nose to the right: `image`,
            `label` 0 to 3, `subject`, `slice`, `validation`), and, for training, ``neurite_oasis``
            (`aligned_norm.nii.gz`, `aligned_seg4.nii.gz`: one whole brain of 1 mm). Voxels are those of the
            files: their heads are some per cent smaller than MNI152.
        virtual: number of virtual subjects in training; a sixth of it in validation, at least one.
        repeat: how often the stacks of the one whole brain are in the training set.
        subjects: the first subjects of the slab alone; None takes all.

    Returns:
        `image` (N, 1, 80, 96, 16) float32 in [0, 1], T1-weighted, axes right, posterior, superior, and
        `label` (N, 1, 80, 96, 16) uint8: 0 background, 1 CSF, 2 grey matter, 3 white matter.

    Raises:
        ConfigError: for another section.
        CorruptImageError: when a file is missing or damaged.
        DataError: when the slab has not 16 slices of every subject, or there is nothing to make stacks of.
    """
    if section not in _SEEDS:
        raise ConfigError(f"section={section!r}; choose 'training' or 'validation'.")
    parts = [] if virtual < 1 else [_virtual(section, virtual)]
    items: list[dict[str, str]] = []
    if dataset_dir is not None:
        slab = Path(dataset_dir) / SLAB
        parts.append(_slab(slab, section, subjects))
        items.append({"image": str(slab)})
        if section == "training" and repeat > 0:
            image, label = _whole(Path(dataset_dir) / WHOLE)
            parts.append((image.repeat(repeat, 1, 1, 1, 1), label.repeat(repeat, 1, 1, 1, 1)))
            items.append({"image": str(Path(dataset_dir) / WHOLE / "aligned_norm.nii.gz")})
    if not parts:
        raise DataError("head_stacks: no stacks; give dataset_dir, or at least one virtual subject.")
    images, labels = zip(*parts, strict=True)
    return TensorDataset({"image": torch.cat(images), "label": torch.cat(labels)}, items)


def _virtual(section: str, count: int) -> tuple[Tensor, Tensor]:
    count = count if section == "training" else max(1, count // 6)
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for index in range(count):
        subject = virtual_subject(_SEEDS[section], index)
        both = [torch.from_numpy(part)[None, None].float() for part in (subject.image, subject.labels)]
        for found, values, mode in zip((images, labels), both, ("trilinear", "nearest-exact"), strict=True):
            found.append(_cut(F.interpolate(values, scale_factor=SPACING / _VOXEL, mode=mode)[0]))
    return torch.cat(images), torch.cat(labels).to(torch.uint8)


def read_slab(path: str | os.PathLike[str], label: bool = True) -> dict[str, Any]:
    """Arrays of an npz with one row a slice.

    Args:
        path: the file.
        label: whether tissue labels are wanted.

    Returns:
        `image` and `label` (N, rows, columns), `subject`, `slice` and `validation` (N,), the last bool.

    Raises:
        CorruptImageError: when the file is missing, damaged or lacks an array.
        DataError: when the arrays do not fit each other.
    """
    names = ("image", *(["label"] if label else []), "subject", "slice", "validation")
    data = read_npz_arrays(path, names)
    if data["image"].ndim != 3 or any(len(array) != len(data["image"]) for array in data.values()):
        raise DataError(f"{path}: image {data['image'].shape} must be (N, rows, columns), one row a slice.")
    return {**data, "validation": data["validation"].astype(bool)}


def _slab(path: Path, section: str, subjects: int | None) -> tuple[Tensor, Tensor]:
    data = read_slab(path)
    chosen = data["validation"] == (section == "validation")
    order = np.lexsort((data["slice"], data["subject"]))
    order = order[chosen[order]]
    if set(np.unique(data["subject"][order], return_counts=True)[1].tolist()) != {SIZE[2]}:
        raise DataError(f"{path}: give {SIZE[2]} slices of every subject.")
    order = order[: None if subjects is None else subjects * SIZE[2]]
    found = []
    for name in ("image", "label"):
        # (N, right, nose to the right) to (n, 1, right, posterior, S)
        stacks = torch.from_numpy(data[name][order][..., ::-1].copy()).unflatten(0, (-1, SIZE[2]))
        found.append(torch.stack([_fit(stack.movedim(0, -1)[None]) for stack in stacks]))
    return found[0].float() / 255, found[1]


def _whole(folder: Path) -> tuple[Tensor, Tensor]:
    """Stacks of a brain without skull, whose labels are 1, 2 grey matter, 3 white matter, 4 ventricles."""
    from scipy.ndimage import binary_closing, distance_transform_edt

    read = Compose([LoadCheckedImage(channels=1), Orientation(axcodes="RPS", labels=None)])
    image, label = (torch.as_tensor(read(folder / f"aligned_{name}.nii.gz")) for name in ("norm", "seg4"))
    kinds = torch.stack([(label == 4), (label == 1) | (label == 2), label == 3], 1)
    shares = F.avg_pool3d(kinds.float(), 2)[0]
    image = F.avg_pool3d(image.float(), 2)
    brain = np.pad(shares.sum(0).numpy() > 0.5, _SULCI + 1)
    margin = slice(_SULCI + 1, -_SULCI - 1)
    closed = torch.from_numpy(binary_closing(brain, iterations=_SULCI)[margin, margin, margin])
    tissue = shares.sum(0)
    outside = (1 - tissue).clamp(0, 1) * ~closed
    shares[0] += (1 - tissue).clamp(0, 1) * closed
    labels = torch.cat([outside[None], shares]).argmax(0)
    distance = _VOXEL * distance_transform_edt(~closed.numpy())
    image = 0.6 * image / image[0][labels == 3].median()
    skull = np.select([distance <= end for end, _ in _LAYERS], [level for _, level in _LAYERS])
    image = torch.where(labels > 0, image[0], torch.from_numpy(skull).float()).clamp(0, 1)
    return _cut(image[None]), _cut(labels[None]).to(torch.uint8)


def _fit(volume: Tensor) -> Tensor:
    """A volume (1, X, Y, S) in the size of the stacks, around its middle."""
    fitted: Tensor = ResizeWithPadOrCrop((*SIZE[:2], volume.shape[-1]))(volume)
    return torch.as_tensor(fitted).as_subclass(Tensor)


def _cut(volume: Tensor) -> Tensor:
    """Stacks (N, 1, 80, 96, 16) of a volume (1, X, Y, S), some of them overlapping."""
    volume = _fit(volume)
    starts = range(0, volume.shape[-1] - SIZE[2] + 1, _STEP)
    return torch.stack([volume[..., start : start + SIZE[2]] for start in starts])
