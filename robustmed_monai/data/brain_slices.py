"""Slices of brain volumes with what a study of anomalies asks of each: label, mask, brain and position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from robustmed_monai.data.datalist import subject_numbers
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.transforms.brain_zscore import brain_zscore
from robustmed_monai.transforms.foreign_objects import RandForeignObject
from robustmed_monai.transforms.load import LoadCheckedImaged
from robustmed_monai.transforms.slices import filled_slices, volume_to_slices
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

PER_SLICE = ("image", "brain", "mask", "healthy", "position", "index")


class BrainSlices:
    """Turns one datalist item into its slices, z-scored inside the brain of the whole volume.

    An item of a volume may name `slices`, the numbers of those to take (from the lowest, in the volume's
    "RPS" orientation); intensities are still those of the whole volume. An item of a single slice may bring
    its `position` (0 lowest, 1 highest); it is 0.5 otherwise.

    Args:
        image_size: side of the slices in pixels.
        slice_range: part of the volume's axial slices that hold brain to take, from 0 (lowest) to 1
            (highest); the default drops the edges. A single slice is always taken.
        clip: bound of the z-scores.
        min_pixels: a slice with more mask pixels (on the file's grid) is abnormal, one with none healthy; in
            between it is dropped.
        on_nonfinite: policy for NaN and infinite values, see LoadCheckedImage.

    Raises:
        ConfigError: for a range that is not rising inside [0, 1].
    """

    def __init__(
        self,
        image_size: int = 64,
        slice_range: Sequence[float] = (0.1, 0.9),
        clip: float = 1.5,
        min_pixels: int = 10,
        on_nonfinite: str = "raise",
    ) -> None:
        if not 0 <= slice_range[0] < slice_range[1] <= 1:
            raise ConfigError(f"slice_range={list(slice_range)} must rise inside [0, 1], such as [0.1, 0.9].")
        self.image_size = image_size
        self.slice_range = tuple(slice_range)
        self.clip = clip
        self.min_pixels = min_pixels
        self.load = LoadCheckedImaged("image", on_nonfinite=on_nonfinite, channels=1)  # type: ignore[arg-type]
        self.load_mask = LoadCheckedImaged("mask", channels=1, allow_missing_keys=True)

    def __call__(self, item: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Load the item's `image` and, if present, `mask`.

        Args:
            item: datalist item.

        Returns:
            `image` (S, 1, X, Y) in [-clip, clip], `brain` and `mask` (S, 1, X, Y) in {0, 1}, `healthy` (S,)
            and `position` (S,) in [0, 1].

        Raises:
            ImageError: when a file cannot be used, or mask and image have different grids; it names the file.
            DataError: when the image has no brain, or `slices` numbers some that it has not.
        """
        paths: dict[Any, Any] = dict(item)
        data: dict[Any, Any] = self.load_mask(self.load(paths))
        stack, geometry = volume_to_slices(data["image"], self.image_size)
        try:
            scaled = brain_zscore(stack, self.clip)
        except DataError as error:
            raise DataError(f"{item['image']}: {error}") from error
        mask, pixels = self._mask(data, item, stack, geometry.spatial_shape)
        healthy = (pixels == 0) if "mask" in data else torch.full((len(stack),), item.get("healthy", True))
        chosen = self._chosen(item, scaled.brain)
        chosen = chosen[healthy[chosen] | (pixels[chosen] > self.min_pixels) | ("mask" not in data)]
        position = torch.arange(len(stack)) / max(len(stack) - 1, 1)
        if len(stack) == 1:
            position = torch.tensor([float(item.get("position", 0.5))])
        found = {"image": scaled.slices, "brain": scaled.brain, "mask": mask, "healthy": healthy}
        return {k: v[chosen] for k, v in {**found, "position": position}.items()}

    def _mask(
        self, data: Mapping[Any, Any], item: Mapping[str, Any], stack: torch.Tensor, shape: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask slices at the network's size, and their pixels on the file's grid."""
        if "mask" not in data:
            return torch.zeros_like(stack), torch.zeros(len(stack))
        if tuple(data["mask"].shape[1:]) != shape:
            raise ImageShapeError(
                f"{item['mask']}: mask of {tuple(data['mask'].shape[1:])} voxels for an image of {shape} "
                f"({item['image']}); give a mask on the image's grid."
            )
        plain = (data["mask"] > 0).float()
        full, _ = volume_to_slices(plain, mode="nearest-exact")
        small, _ = volume_to_slices(plain, self.image_size, mode="nearest-exact")
        return small, full.flatten(1).sum(1)

    def _chosen(self, item: Mapping[str, Any], brain: torch.Tensor) -> torch.Tensor:
        if "slices" in item:
            wanted = torch.as_tensor(item["slices"], dtype=torch.long)
            if not len(wanted) or wanted.min() < 0 or wanted.max() >= len(brain):
                raise DataError(f"{item['image']}: slices {item['slices']} of {len(brain)}; name some of it.")
            return wanted
        filled = filled_slices(brain)
        if len(brain) == 1:
            return filled
        low, high = (round(share * (len(filled) - 1)) for share in self.slice_range)
        return filled[low : high + 1]


def brain_dataset(
    data: Sequence[Mapping[str, Any]], transform: BrainSlices, progress: str | None = "read images"
) -> TensorDataset:
    """All slices of a datalist in memory.

    Args:
        data: datalist items, see ``load_datalist``.
        transform: item to slices.
        progress: title of the progress bar; None shows none.

    Returns:
        Data with what BrainSlices gives of each slice and `index` and `subject` (numbers) of its item.

    Raises:
        DataError: when there are no items.
    """
    if not data:
        raise DataError("no images to read; check --dataset_dir.")
    found: dict[str, list[torch.Tensor]] = {key: [] for key in PER_SLICE}
    for number, item in enumerate(tqdm(data, desc=progress, leave=False, disable=progress is None or None)):
        slices = transform(item)
        slices["index"] = torch.full((len(slices["image"]),), number)
        for key, value in slices.items():
            found[key].append(value)
    tensors = {key: torch.cat(values) for key, values in found.items()}
    tensors["subject"] = torch.tensor(subject_numbers(data))[tensors["index"]]
    return TensorDataset(tensors, data)


def with_objects(
    data: TensorDataset, renderer: RandForeignObject | None = None, seed: int = 0
) -> TensorDataset:
    """The healthy slices of a data set, foreign objects pasted into some of them.

    Args:
        data: from ``brain_dataset``.
        renderer: draws the objects, into a share ``prob`` of the slices; None takes the defaults.
        seed: the object of a slice depends on the seed and on the slice's place alone.

    Returns:
        The healthy slices; those with an object are not healthy any more and their `mask` shows it.

    Raises:
        DataError: when no slice is healthy.
    """
    renderer = RandForeignObject() if renderer is None else renderer
    healthy = data.tensors["healthy"]
    if not healthy.any():
        raise DataError("no healthy slice to paste objects into; give a test section that has some.")
    tensors = {key: value[healthy].clone() for key, value in data.tensors.items()}
    seeds = np.random.default_rng(seed).integers(2**32, size=len(tensors["image"]))
    for place, drawn in enumerate(seeds.tolist()):
        renderer.set_random_state(seed=drawn)
        image, mask = renderer(tensors["image"][place], tensors["brain"][place])
        tensors["image"][place], tensors["mask"][place] = torch.as_tensor(image), torch.as_tensor(mask)
    tensors["healthy"] = ~tensors["mask"].flatten(1).any(1)
    return TensorDataset(tensors, data.data)
