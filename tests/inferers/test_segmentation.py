"""Volumes of a segmented image, and when there are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from robustmed_monai.inferers.segmentation import volume_report, warn_of_volume

LABELS = torch.arange(4).repeat_interleave(16).view(1, 4, 4, 4)


def output(reasons: dict[int, list[str]] | None) -> dict[str, Any]:
    """Of a volume with voxels of 2 mm and 16 of each of four classes."""
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    image = MetaTensor(torch.ones(1, 4, 4, 4), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    made = {
        "image": image,
        "pred": MetaTensor(LABELS, affine=affine),
        "network_space": {"pred": torch.ones(4, 1)},
    }
    return made if reasons is None else {**made, "ood_reasons": reasons}


@pytest.mark.parametrize(
    ("reasons", "known"),
    [
        (None, True),
        ({0: [], 1: [], 2: ["brightness"], 3: ["brightness"]}, True),
        ({0: [], 1: ["contrast"], 2: ["contrast"], 3: ["contrast"]}, True),
        ({0: [], **{k: ["contrast"] for k in range(1, 5)}}, False),
        ({0: ["contrast"]}, False),
        ({}, False),
    ],
)
def test_what_is_no_head_has_no_volume_in_ml(reasons: dict[int, list[str]] | None, known: bool) -> None:
    volumes = volume_report(output(reasons))["volumes"]
    assert [volumes[name]["voxels"] for name in ("background", "CSF", "grey matter")] == [16, 16, 16]
    assert volumes["white matter"]["ml"] == (16 * 8 / 1000 if known else None)


def test_more_tissue_than_a_skull_holds_is_no_volume() -> None:
    """48 voxels of tissue: of 34 mm they are 1.9 l, of 40 mm 3.1 l."""
    for side, known in ((34.0, True), (40.0, False)):
        affine = torch.diag(torch.tensor([side, side, side, 1.0]))
        image = MetaTensor(torch.ones(1, 4, 4, 4), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
        made = {**output(None), "image": image, "pred": MetaTensor(LABELS, affine=affine)}
        found = warn_of_volume({**made, "warnings": ["another"]})
        assert (found["warnings"] == ["another"]) == known
        assert ("3072 ml, more than a skull holds" in found["warnings"][0]) != known
        assert all((each["ml"] is not None) == known for each in volume_report(made)["volumes"].values())
