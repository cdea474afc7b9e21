"""Slices of brain volumes with what a study of anomalies asks of each: label, mask, brain and position."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform

from robustmed_monai.data.datalist import subject_numbers
from robustmed_monai.data.slice_dataset import ReadItem, first_axis, read_items
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.transforms.foreign_objects import RandForeignObject
from robustmed_monai.transforms.slice_selection import SelectSlicesd, take_slices
from robustmed_monai.utils.errors import DataError

PER_SLICE = ("image", "brain", "mask", "healthy", "position", "index")


class SelectBrainSlicesd(MapTransform):
    """Keep the slices of a brain that a study of anomalies can use, and say of each what it is.

    An item may name `slices`, the numbers of those to take (from the lowest). One of a single slice may bring
    its `position` (0 lowest, 1 highest); it is 0.5 otherwise.

    Args:
        slice_range: part of the slices that hold brain to take, from 0 (lowest) to 1 (highest); the default
            drops the edges. A single slice is always taken.
        min_pixels: a slice with more mask pixels is abnormal, one with none healthy; in between it is
            dropped.
        mask_key: mask (1, x, y, S) whose pixels are counted, of any size; without one the item's `healthy`
            holds for all slices.

    To stacks `image`, `brain` and, where there is one, `mask` (1, X, Y, S) it adds `healthy` (S,) and
    `position` (S,) in [0, 1].

    Raises:
        ConfigError: for a range that is not rising inside [0, 1].
        DataError: when applied to an item whose `slices` numbers some that the volume has not.
    """

    def __init__(
        self,
        slice_range: Sequence[float] = (0.1, 0.9),
        min_pixels: int = 10,
        mask_key: str = "mask",
    ) -> None:
        super().__init__(("image", "brain", "mask"), allow_missing_keys=True)
        self.select = SelectSlicesd("brain", slice_range)
        self.min_pixels = min_pixels
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with fewer slices."""
        result = dict(data)
        count = result["brain"].shape[-1]
        chosen = self._chosen(result)
        healthy = torch.full((count,), bool(result.get("healthy", True)))
        if self.mask_key in result:
            pixels = (first_axis(result[self.mask_key]) > 0).flatten(1).sum(1)
            healthy = pixels == 0
            chosen = chosen[healthy[chosen] | (pixels[chosen] > self.min_pixels)]
        position = torch.arange(count) / max(count - 1, 1)
        if count == 1:
            position = torch.tensor([float(result.get("position", 0.5))])
        for key in self.key_iterator(result):
            result[key] = take_slices(result[key], chosen)
        return {**result, "healthy": healthy[chosen], "position": position[chosen]}

    def _chosen(self, data: Mapping[Hashable, Any]) -> torch.Tensor:
        brain = data["brain"]
        if "slices" not in data:
            return self.select.chosen(brain)
        wanted = torch.as_tensor(data["slices"], dtype=torch.long)
        count = brain.shape[-1]
        if not len(wanted) or wanted.min() < 0 or wanted.max() >= count:
            name = getattr(brain, "meta", {}).get("filename_or_obj", "image")
            raise DataError(f"{name}: slices {data['slices']} of {count}; name some of it.")
        return wanted


def brain_dataset(
    data: Sequence[Mapping[str, Any]], transform: ReadItem, progress: str | None = "read images"
) -> TensorDataset:
    """All slices of a datalist in memory.

    Args:
        data: datalist items, see ``load_datalist``.
        transform: item to stacks, as `preprocessing` of the config of pchVAE makes them.
        progress: title of the progress bar; None shows none.

    Returns:
        `image` (N, 1, X, Y) in [-clip, clip], `brain` and `mask` (N, 1, X, Y) in {0, 1}, `healthy` and
        `position` (N,), `index` and `subject` (numbers) of its item.

    Raises:
        DataError: when there are no items.
    """
    found: dict[str, list[torch.Tensor]] = {key: [] for key in PER_SLICE}
    for number, (_, made) in enumerate(read_items(data, transform, progress)):
        image = first_axis(made["image"])
        mask = (first_axis(made["mask"]) > 0).float() if "mask" in made else torch.zeros_like(image)
        slices = {"image": image, "brain": first_axis(made["brain"]), "mask": mask}
        slices |= {"healthy": made["healthy"], "position": made["position"]}
        slices["index"] = torch.full((len(image),), number)
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
