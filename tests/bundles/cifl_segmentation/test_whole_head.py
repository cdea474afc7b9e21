"""The overlay for whole heads: file to files, in the frame and back; what is no head gets no volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.utils.errors import RobustMedError

COARSE: dict[str, Any] = {"image_size": 56, "spacing": 4.0}


def apply(configs: Path, source: Path, output: Path) -> None:
    files = [str(configs / name) for name in ("inference.json", "whole_head.json")]
    run = ConfigWorkflow(config_file=files, input=str(source), output_dir=str(output), device="cpu", **COARSE)
    run.initialize()
    run.run()
    run.finalize()


@pytest.mark.slow
def test_a_head_becomes_labels_a_brain_mask_and_volumes(segmentation_configs: Path, tmp_path: Path) -> None:
    subject = virtual_subject(0, 2)
    moved = np.eye(4)
    moved[:3, 3] = (12.0, -20.0, 35.0)
    nib.save(nib.Nifti1Image(subject.image[::-1], moved @ AFFINE), tmp_path / "head.nii.gz")
    apply(segmentation_configs, tmp_path / "head.nii.gz", tmp_path / "out")
    folder = tmp_path / "out" / "head"
    labels: Any = nib.load(folder / "labels.nii.gz")
    brain: Any = nib.load(folder / "brain.nii.gz")
    np.testing.assert_allclose(labels.affine, moved @ AFFINE, atol=1e-4)
    found, true = np.asarray(labels.dataobj), subject.labels[::-1]
    np.testing.assert_array_equal(np.asarray(brain.dataobj), found > 0)
    merged = np.array([0, 1, 2, 3, 1, 2, 3, 3])[found]
    for number, least in ((2, 0.6), (3, 0.65)):
        here, there = merged == number, true == number
        assert 2 * (here & there).sum() > least * (here.sum() + there.sum())
    volumes = json.loads((folder / "volumes.json").read_text())["volumes"]
    assert volumes["brainstem"]["voxels"] == (found == 7).sum()
    assert 60 < sum(volumes[f"cerebellar {tissue} matter"]["ml"] for tissue in ("grey", "white")) < 200
    assert volumes["inside of the skull"]["voxels"] == (found > 0).sum()
    assert volumes["inside of the skull"]["ml"] == pytest.approx((found > 0).sum() * 1.8**3 / 1000, rel=1e-3)


def test_what_cannot_be_aligned_gets_no_volumes(segmentation_configs: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((40, 40, 40), np.float32)
    nib.save(nib.Nifti1Image(noise, np.diag([4.0, 4.0, 4.0, 1.0])), tmp_path / "noise.nii.gz")
    with pytest.raises((RobustMedError, RuntimeError)) as caught:
        apply(segmentation_configs, tmp_path / "noise.nii.gz", tmp_path / "out")
    assert "not aligned" in str(caught.value.__cause__ or caught.value)
    assert not (tmp_path / "out" / "noise" / "volumes.json").exists()
