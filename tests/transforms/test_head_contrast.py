from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.transforms import OODSlicesd, ScaleForeground
from robustmed_monai.transforms.align_to_template import AlignToTemplate, Placement
from robustmed_monai.transforms.head_contrast import (
    TissueLevels,
    contrast_doubt,
    head_contrast,
    tissue_levels,
)
from robustmed_monai.transforms.tissue_priors import tissue_priors
from robustmed_monai.transforms.volume_slices import VolumeToSlices
from robustmed_monai.utils.errors import ConfigError

# CSF, grey and white matter.
PAINTED = {
    "T1": (0.25, 0.6, 0.9),
    "FLAIR": (0.1, 0.7, 0.62),
    "T2": (0.95, 0.6, 0.4),
    "PD": (0.8, 0.75, 0.6),
    "DIR": (0.1, 0.9, 0.3),
}
LOOKS = {"T1": "T1", "FLAIR": "FLAIR", "T2": "T2", "PD": "T2", "DIR": "FLAIR"}


def in_frame(volume: NDArray[Any]) -> MetaTensor:
    """A stack of the heights that the weights know; virtual subjects lie in the template's world already."""
    frame = AlignToTemplate(96, 2.4, [18.0, 30.0], 2.0)
    affine = torch.from_numpy(AFFINE)
    place = Placement(volume.shape, torch.linalg.inv(affine) @ frame.affine)
    return frame(MetaTensor(torch.from_numpy(volume)[None].float(), affine=affine), place)


@pytest.fixture(scope="module")
def priors() -> NDArray[np.float32]:
    stack = in_frame(np.ones((128, 128, 80), np.float32))
    return tissue_priors(tuple(stack.shape[1:]), stack.affine)


@pytest.fixture(scope="module")
def stacks() -> dict[str, MetaTensor]:
    """A virtual T1, and its tissues painted in other contrasts, as voxels of 1.8 mm show them."""
    subject = virtual_subject(7, 3)
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.standard_normal(subject.labels.shape)
    found = {"virtual": in_frame(subject.image)}
    for name, means in PAINTED.items():
        painted = np.array([0.0, *means])[subject.labels]
        found[name] = in_frame(np.clip(gaussian_filter(painted, 0.5) + noise, 0, 1).astype(np.float32))
    return found


def levels_of(stack: Any, priors: NDArray[np.float32]) -> TissueLevels:
    levels = tissue_levels(np.asarray(stack)[0], priors)
    assert levels is not None
    return levels


@pytest.mark.parametrize(("name", "looks"), [("virtual", "T1"), *LOOKS.items()])
def test_painted_contrasts_are_told_scaled_or_not(
    name: str, looks: str, stacks: dict[str, MetaTensor], priors: NDArray[np.float32]
) -> None:
    for stack in (stacks[name], ScaleForeground(90.0)(stacks[name]), 300 * stacks[name] - 40):
        assert head_contrast(levels_of(stack, priors)) == looks


@pytest.mark.parametrize("power", [0.6, 0.8, 1.3, 1.7])
def test_a_rising_curve_keeps_the_pairs_and_a_t1_a_t1(
    power: float, stacks: dict[str, MetaTensor], priors: NDArray[np.float32]
) -> None:
    for name in ("virtual", "T1"):
        before, after = (levels_of(s, priors) for s in (stacks[name], stacks[name] ** power))
        assert after.white_over_csf == pytest.approx(before.white_over_csf, abs=1e-6)
        assert head_contrast(after) == "T1"


@pytest.mark.parametrize("name", ["virtual", "T1", "FLAIR"])
def test_an_inverted_image_is_never_what_it_was(
    name: str, stacks: dict[str, MetaTensor], priors: NDArray[np.float32]
) -> None:
    before, after = (levels_of(s, priors) for s in (stacks[name], 1 - stacks[name]))
    assert after.white_over_csf == pytest.approx(1 - before.white_over_csf, abs=1e-6)
    assert head_contrast(after) == "T2"


def test_slices_of_another_contrast_are_not_assessed(stacks: dict[str, MetaTensor]) -> None:
    known = OODSlicesd("image", None, contrast="T1")
    found = known({"image": stacks["FLAIR"]})
    assert found["assessed_slices"] == []
    assert not found["in_distribution"].any()
    assert len(found["warnings"]) == 1
    assert found["warnings"][0].startswith("looks like FLAIR")
    assert "so nothing is assessed" in found["warnings"][0]
    assert known({"image": stacks["T1"]})["assessed_slices"] == list(range(7))
    for other in (
        OODSlicesd("image", None),
        OODSlicesd("image", None, contrast="FLAIR"),
        OODSlicesd("image", None, contrast="T1", refuse=False),
    ):
        assert other({"image": stacks["FLAIR"]})["assessed_slices"] == list(range(7))
    assert OODSlicesd("image", None, contrast="FLAIR")({"image": stacks["T1"]})["assessed_slices"] == []
    with pytest.raises(ConfigError, match="choose one of T1, FLAIR, T2"):
        OODSlicesd("image", None, contrast="t1w")


def test_between_t1_and_flair_it_warns_and_assesses(
    stacks: dict[str, MetaTensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "robustmed_monai.transforms.head_contrast.tissue_levels", lambda *_: TissueLevels(0.9, 0.49)
    )
    found = OODSlicesd("image", None, contrast="T1")({"image": stacks["T1"]})
    assert found["assessed_slices"] == list(range(7))
    assert "49% of the grey matter is as bright as white matter" in found["warnings"][0]


def test_nothing_is_said_of_what_lies_in_no_frame_or_is_empty(
    stacks: dict[str, MetaTensor], priors: NDArray[np.float32]
) -> None:
    assert contrast_doubt(stacks["FLAIR"].as_tensor(), "T1") is None
    assert tissue_levels(np.zeros(priors.shape[1:], np.float32), priors) is None
    assert tissue_levels(np.ones((96, 96, 7), np.float32), 0 * priors) is None


def turned(volume: NDArray[Any], name: str) -> MetaTensor:
    """The same head on another grid."""
    affine = AFFINE.copy()
    if name == "sagittal":
        volume, affine = volume.transpose(1, 2, 0)[::-1, :, ::-1], affine[:, [1, 2, 0, 3]]
        affine[:, 3] += affine[:, 0] * (volume.shape[0] - 1) + affine[:, 2] * (volume.shape[2] - 1)
        affine[:, [0, 2]] *= -1
    if name == "thick":
        volume = volume[:, :, : 2 * (volume.shape[2] // 2)]
        volume = (volume[:, :, ::2] + volume[:, :, 1::2]) / 2
        affine[:, 3] += affine[:, 2] / 2
        affine[:, 2] *= 2
    return MetaTensor(torch.from_numpy(volume.copy())[None].float(), affine=torch.from_numpy(affine))


@pytest.mark.slow
@pytest.mark.parametrize("grid", ["as it is", "sagittal", "thick"])
def test_volumes_have_the_same_verdict_on_every_grid_and_without_a_frame(grid: str) -> None:
    subject = virtual_subject(7, 3)
    flair = gaussian_filter(np.array([0.0, *PAINTED["FLAIR"]])[subject.labels], 0.5)
    # As bright outside of the brain as the subject, so that there is a head to align.
    flair = np.where(subject.labels > 0, flair, 0.8 * subject.image).astype(np.float32)
    check = OODSlicesd("image", None, contrast="T1")
    for image, assessed in ((subject.image, True), (flair, False)):
        cut = VolumeToSlices(128, 1.8)(turned(image, grid))
        found = check({"image": cut})
        assert bool(found["assessed_slices"]) == assessed, found["warnings"]


def test_a_single_slice_and_a_picture_are_not_looked_at() -> None:
    image = np.where(virtual_subject(7, 3).labels == 3, 0.3, 0.9).astype(np.float32)
    check = OODSlicesd("image", None, contrast="T1")
    for stack in (torch.from_numpy(image)[None, ..., 40:42], turned(image[..., 40:41], "as it is")):
        assert check({"image": stack})["assessed_slices"]
