"""Slices of volumes with labels, masks and positions, and the healthy ones with objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from robustmed_monai.data.brain_slices import SelectBrainSlicesd, brain_dataset, with_objects
from robustmed_monai.transforms.foreign_objects import RandForeignObject
from robustmed_monai.transforms.scale_foreground import IntensityWarning
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

DEPTH = 11
Read = Callable[..., dict[str, torch.Tensor]]


def write(path: Path, volume: np.ndarray) -> str:
    # x to the left in RAS+ files: stored so that the volume is "RPS" as it stands.
    nib.save(nib.Nifti1Image(volume, np.diag([1.0, -1.0, 1.0, 1.0])), path)
    return str(path)


def read_nifti(path: str) -> np.ndarray:
    image: Any = nib.load(path)
    return np.asarray(image.dataobj)


@pytest.fixture
def read(brain_transforms: Callable[..., Any]) -> Read:
    """Slices of one item, with settings of the transforms by keyword."""

    def read(item: dict[str, Any], **settings: Any) -> dict[str, torch.Tensor]:
        return brain_dataset([item], brain_transforms(**settings), None).tensors

    return read


@pytest.fixture
def item(tmp_path: Path, rng: np.random.Generator) -> dict[str, Any]:
    """A brain in slices 1 to 9, a lesion of 16, 10 and 25 pixels in slices 3, 4 and 5."""
    volume = np.zeros((32, 32, DEPTH), np.float32)
    volume[6:26, 4:28, 1:10] = rng.uniform(50, 100, (20, 24, 9))
    mask = np.zeros(volume.shape, np.uint8)
    mask[10:14, 10:14, 3], mask[10:12, 10:15, 4], mask[10:15, 10:15, 5] = 1, 1, 1
    image = write(tmp_path / "image.nii.gz", volume)
    return {"image": image, "mask": write(tmp_path / "mask.nii.gz", mask), "healthy": False, "subject": "a"}


def test_volume(item: dict[str, Any], read: Read) -> None:
    found = read(item, image_size=32, slice_range=[0, 1])
    # Slice 4 has 10 pixels, no more: neither healthy nor abnormal.
    levels = [1, 2, 3, 5, 6, 7, 8, 9]
    torch.testing.assert_close(found["position"], torch.tensor(levels) / (DEPTH - 1))
    assert found["healthy"].tolist() == [level not in (3, 5) for level in levels]
    assert found["mask"].flatten(1).sum(1).tolist() == [0, 0, 16, 25, 0, 0, 0, 0]
    assert found["brain"].flatten(1).sum(1).tolist() == [480] * 8
    assert found["image"].min() == -1.5
    assert found["image"].max() == 1.5
    strict = read(item, image_size=32, slice_range=[0, 1], min_pixels=9)
    assert len(strict["image"]) == 9
    assert not strict["healthy"][3]


def test_edges_are_dropped_and_sizes_are_changed(item: dict[str, Any], read: Read) -> None:
    found = read(item, image_size=16, slice_range=[0.25, 0.75])
    assert (found["position"] * 10).round().tolist() == [3, 5, 6, 7]
    assert found["image"].shape == (4, 1, 16, 16)
    assert found["mask"].shape == (4, 1, 16, 16)


def test_named_slices_keep_the_scale_of_the_volume(item: dict[str, Any], read: Read) -> None:
    whole = read(item, image_size=32, slice_range=[0, 1])
    some = read({**item, "slices": [1, 9]}, image_size=32)
    torch.testing.assert_close(some["image"], whole["image"][[0, -1]])
    with pytest.raises(DataError, match=r"slices \[11\] of 11"):
        read({**item, "slices": [11]}, image_size=32)


def test_healthy_items_and_single_slices(item: dict[str, Any], read: Read, tmp_path: Path) -> None:
    healthy = read({"image": item["image"], "healthy": True}, image_size=32)
    assert healthy["healthy"].all()
    assert not healthy["mask"].any()
    ill = read({"image": item["image"], "healthy": False}, image_size=32)
    assert not ill["healthy"].any(), "without a mask all of it is abnormal"
    flat = read_nifti(item["image"])[:, :, 5]
    single = {"image": write(tmp_path / "slice.nii.gz", flat)}
    assert read(single)["position"].tolist() == [0.5]
    assert read({**single, "position": 0.25})["position"].tolist() == [0.25]
    assert read(single)["image"].shape == (1, 1, 64, 64)


def test_dataset_and_objects(item: dict[str, Any], brain_transforms: Callable[..., Any]) -> None:
    data = brain_dataset([item, {"image": item["image"]}], brain_transforms(image_size=32), None)
    assert data.tensors["index"].tolist() == [0] * 6 + [1] * 7
    healthy = int(data.tensors["healthy"].sum())
    renderer = RandForeignObject(objects=["disc"], size=(0.3, 0.4), prob=0.5)
    rendered = with_objects(data, renderer, seed=3)
    assert len(rendered) == healthy
    ill = ~rendered.tensors["healthy"]
    assert 0 < ill.sum() < healthy
    assert torch.equal(ill, rendered.tensors["mask"].flatten(1).any(1))
    before = data.tensors["image"][data.tensors["healthy"]]
    assert torch.equal(rendered.tensors["image"][~ill], before[~ill])
    assert not torch.equal(rendered.tensors["image"], before)
    again = with_objects(data, RandForeignObject(objects=["disc"], size=(0.3, 0.4), prob=0.5), seed=3)
    assert torch.equal(again.tensors["image"], rendered.tensors["image"])
    assert data.tensors["healthy"].sum() == healthy, "the data itself is left as it was"
    with pytest.raises(DataError, match="no healthy slice"):
        with_objects(brain_dataset([{"image": item["image"], "healthy": False}], brain_transforms(), None))


def test_errors(item: dict[str, Any], read: Read, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"slice_range=\[0.9, 0.1\]"):
        SelectBrainSlicesd(slice_range=(0.9, 0.1))
    with pytest.raises(DataError, match="no images to read"):
        brain_dataset([], dict)
    empty = write(tmp_path / "empty.nii.gz", np.zeros((8, 8, 3), np.float32))
    with (
        pytest.warns(IntensityWarning, match="the image is empty"),
        pytest.raises(ImageShapeError, match=r"empty.nii.gz: no brain"),
    ):
        read({"image": empty})
    with pytest.raises(ImageShapeError, match=r"mask of \(8, 8, 3\) voxels for an image of \(32, 32, 11\)"):
        read({**item, "mask": empty})
