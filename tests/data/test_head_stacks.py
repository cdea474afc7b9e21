"""Stacks to paint from: virtual ones without a file, real ones from made-up copies of their layouts."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from robustmed_monai.data.head_stacks import SIZE, SLAB, WHOLE, head_stacks
from robustmed_monai.utils.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three subjects of a slab, the last for validation, with a mark at the nose, and one whole brain."""
    label = np.zeros((48, 128, 128), np.uint8)
    label[:, 40:90, 30:100] = 2
    label[:, 60:70, 95:100] = 3
    subject = np.repeat(np.arange(3), 16)
    level = np.tile(np.arange(16), 3)
    shuffled = np.random.default_rng(0).permutation(48)
    image = (60 * label + level[:, None, None]).astype(np.uint8)
    arrays = {"image": image, "label": label, "subject": subject, "slice": level, "validation": subject == 2}
    np.savez(tmp_path / SLAB, **{k: v[shuffled] for k, v in arrays.items()})
    brain = np.zeros((80, 100, 90), np.uint8)
    brain[20:60, 20:80, 20:70] = 1
    brain[24:56, 24:76, 24:66] = 3
    brain[38:42, 40:60, 40:50] = 4
    (tmp_path / WHOLE).mkdir()
    affine = np.eye(4)
    for name, values in (("seg4", brain), ("norm", 0.2 * brain.astype(np.float32))):
        nib.save(nib.Nifti1Image(values, affine), tmp_path / WHOLE / f"aligned_{name}.nii.gz")
    return tmp_path


def test_virtual_subjects_need_no_file() -> None:
    data = head_stacks("validation", virtual=1).tensors
    assert data["image"].shape[1:] == (1, *SIZE)
    assert 0 <= float(data["image"].min()) < float(data["image"].max()) <= 1
    assert data["label"].unique().tolist() == [0, 1, 2, 3]
    # White matter is the brightest of the brain on T1, in every stack.
    for image, label in zip(data["image"], data["label"], strict=True):
        assert image[label == 3].mean() > image[label == 2].mean() > image[label == 1].mean()


def test_labels_of_virtual_subjects_lie_on_their_image() -> None:
    data = head_stacks("validation", virtual=1).tensors
    image, label = data["image"][:, 0], data["label"][:, 0]

    def likeness(shift: int, axis: int) -> float:
        moved = label.roll(shift, axis)
        return float(torch.corrcoef(torch.stack([image.flatten(), (moved == 3).float().flatten()]))[0, 1])

    for axis in (1, 2):
        before, here, after = (likeness(shift, axis) for shift in (-1, 0, 1))
        # The top of the parabola through the three: where the labels would fit best.
        best = (before - after) / (2 * (before - 2 * here + after))
        assert abs(best) < 0.15, f"labels lie {best:.2f} voxels off along axis {axis}"


def test_the_slab_becomes_stacks_nose_up(folder: Path) -> None:
    data = head_stacks("training", folder, virtual=0, repeat=0).tensors
    assert len(data["image"]) == 2
    assert len(head_stacks("validation", folder, virtual=0).tensors["image"]) == 1
    assert len(head_stacks("training", folder, virtual=0, repeat=0, subjects=1).tensors["image"]) == 1
    x, y = torch.nonzero(data["label"][0, 0, ..., 0] == 3).double().mean(0)
    middle_x, middle_y = torch.nonzero(data["label"][0, 0, ..., 0]).double().mean(0)
    assert y < middle_y - 20, "the nose lies at the front, where the second axis begins"
    assert abs(x - middle_x) < 2
    # Slices in order, whatever their order in the file.
    steps = 255 * data["image"][:, 0].mean((1, 2)).diff(dim=-1)
    torch.testing.assert_close(steps, torch.ones_like(steps), atol=1e-3, rtol=0)


def test_one_whole_brain_gets_fluid_and_a_skull(folder: Path) -> None:
    data = head_stacks("training", folder, virtual=0, repeat=3, subjects=1).tensors
    stacks = (len(data["image"]) - 1) // 3
    assert len(data["image"]) == 1 + 3 * stacks
    image, label = data["image"][1 + stacks // 2, 0], data["label"][1 + stacks // 2, 0]
    assert label.unique().tolist() == [0, 1, 2, 3]
    assert float(image[label == 0].max()) == pytest.approx(0.9), "scalp"
    assert float(image[label == 3].median()) == pytest.approx(0.6, abs=0.01)


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="section='test'"):
        head_stacks("test")
    with pytest.raises(DataError, match="no stacks; give dataset_dir"):
        head_stacks("training", virtual=0)
    with np.load(folder / SLAB) as file:
        arrays = {k: v[:-1] for k, v in file.items()}
    np.savez(folder / SLAB, **arrays)
    with pytest.raises(DataError, match="16 slices of every subject"):
        head_stacks("validation", folder, virtual=0), head_stacks("training", folder, virtual=0)
    np.savez(folder / SLAB, **{**arrays, "subject": arrays["subject"][1:]})
    with pytest.raises(DataError, match="one row a slice"):
        head_stacks("validation", folder, virtual=0)
