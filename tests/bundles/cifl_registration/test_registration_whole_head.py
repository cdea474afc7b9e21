"""Whole heads registered file to file: the frame, SimpleITK reads the fields, what is no head is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from monai.bundle import ConfigWorkflow

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.utils.errors import RobustMedError

CONFIGS = Path(__file__).resolve().parents[3] / "bundles" / "cifl_registration" / "configs"
COARSE: dict[str, Any] = {"image_size": 56, "spacing": 4.0}


def register(moving: Path, fixed: Path, output: Path) -> None:
    files = [str(CONFIGS / name) for name in ("inference.json", "whole_head.json")]
    given = {"moving": str(moving), "fixed": str(fixed), "output_dir": str(output), "device": "cpu"}
    run = ConfigWorkflow(config_file=files, **given, **COARSE)
    run.initialize()
    run.run()
    run.finalize()


@pytest.mark.slow
def test_heads_of_two_worlds_meet_and_simpleitk_agrees(tmp_path: Path) -> None:
    moving, fixed = virtual_subject(0, 1), virtual_subject(0, 2)
    shifted = np.eye(4)
    shifted[:3, 3] = (12.0, -20.0, 35.0)
    inverted = np.where(fixed.image > 0.08, 1.1 - fixed.image, fixed.image).clip(0, 1)
    nib.save(nib.Nifti1Image(moving.image[::-1], shifted @ AFFINE), tmp_path / "moving.nii.gz")
    nib.save(nib.Nifti1Image(inverted[:, :, :-4].astype(np.float32), AFFINE), tmp_path / "fixed.nii.gz")
    register(tmp_path / "moving.nii.gz", tmp_path / "fixed.nii.gz", tmp_path / "out")
    folder = tmp_path / "out" / "moving"
    source, target = (SimpleITK.ReadImage(str(tmp_path / f"{k}.nii.gz")) for k in ("moving", "fixed"))
    field = SimpleITK.ReadImage(str(folder / "field.nii.gz"), SimpleITK.sitkVectorFloat64)
    transform = SimpleITK.DisplacementFieldTransform(field)
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.Resample(source, target, transform)).T
    ours: Any = nib.load(folder / "moved.nii.gz")
    # ITK ends an image half a voxel beyond its last one, and we at it.
    differs = np.abs(ours.get_fdata() - theirs) > 0.02
    assert differs.mean() < 0.01
    labels = moving.labels[::-1].astype(np.float32)
    nib.save(nib.Nifti1Image(labels, shifted @ AFFINE), tmp_path / "labels.nii.gz")
    carried = SimpleITK.Resample(
        SimpleITK.ReadImage(str(tmp_path / "labels.nii.gz")), target, transform, SimpleITK.sitkNearestNeighbor
    )
    found, true = SimpleITK.GetArrayFromImage(carried).T, fixed.labels[:, :, :-4]
    for number, least in ((2, 0.66), (3, 0.66)):
        here, there = found == number, true == number
        assert 2 * (here & there).sum() > least * (here.sum() + there.sum())
    velocity: Any = nib.load(folder / "velocity.nii.gz")
    assert velocity.shape == (*ours.shape, 1, 3)
    report = json.loads((folder / "registration.json").read_text())
    assert report["similarity"]["after"] > report["similarity"]["before"]
    assert report["folds"] < 0.001
    assert report["alignment"] is not None


@pytest.mark.parametrize("what", ["noise", "empty", "picture stack"])
def test_what_is_no_head_is_refused_by_name(tmp_path: Path, what: str) -> None:
    values = np.random.default_rng(0).random((40, 40, 40), np.float32)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "fixed.nii.gz")
    if what == "picture stack":
        values = values[:, :, :1]
    nib.save(nib.Nifti1Image(values * (what != "empty"), affine), tmp_path / "odd.nii.gz")
    with pytest.raises((RobustMedError, RuntimeError)) as caught:
        register(tmp_path / "odd.nii.gz", tmp_path / "fixed.nii.gz", tmp_path / "out")
    words = {"noise": "not aligned", "empty": "is empty", "picture stack": "one voxel thick"}
    said = str(caught.value.__cause__ or caught.value)
    assert words[what] in said
    assert "odd.nii.gz" in said
    assert not (tmp_path / "out" / "odd" / "field.nii.gz").exists()
