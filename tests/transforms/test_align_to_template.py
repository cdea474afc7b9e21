"""Heads in the frame of the template: laws of the alignment, the way back, and what is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.transforms import AlignmentWarning, AlignToTemplate, AlignToTemplated
from robustmed_monai.transforms.align_to_template import HEAD_BOX, Placement
from robustmed_monai.transforms.head_alignment import HeadAlignment, align_head
from robustmed_monai.transforms.template_head import CENTRE, template_head
from robustmed_monai.transforms.volume_slices import foreground_box
from robustmed_monai.utils.errors import ConfigError, ImageError, ImageShapeError


@cache
def head() -> MetaTensor:
    """A virtual subject, (1, X, Y, Z)."""
    return MetaTensor(torch.from_numpy(virtual_subject(0, 1).image)[None], affine=torch.from_numpy(AFFINE))


@cache
def aligned() -> HeadAlignment:
    return align_head(head()[0].numpy(), AFFINE)


def off_by(matrix: np.ndarray, other: np.ndarray) -> float:
    """Largest distance in mm that two matrices carry a point of the brain apart."""
    distance = template_head().distance
    voxels = np.argwhere(distance[::8, ::8, ::8] < 0) * 8
    points = np.c_[voxels, np.ones(len(voxels))] @ template_head().affine.T
    return float(np.linalg.norm(points @ (matrix - other).T, axis=1).max())


@pytest.mark.parametrize("stripped", [False, True])
def test_the_template_lies_where_it_is(stripped: bool) -> None:
    template = template_head()
    image = np.where(template.distance < 1, template.image, 0) if stripped else template.image
    found = align_head(image, template.affine)
    assert found.doubt is None
    assert off_by(found.matrix, np.eye(4)) < 1.5


@pytest.mark.parametrize("axcodes", ["LAS", "PIR"])
def test_any_orientation_gives_the_same_alignment(axcodes: str) -> None:
    image = nib.Nifti1Image(head()[0].numpy(), AFFINE)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(AFFINE), nib.orientations.axcodes2ornt(tuple(axcodes))
    )
    turned = image.as_reoriented(turn)
    found = align_head(np.asarray(turned.dataobj), turned.affine)
    assert found.doubt is None
    assert off_by(found.matrix, aligned().matrix) < 1.5


@pytest.mark.parametrize("degrees", [180, *(pytest.param(turn, marks=pytest.mark.slow) for turn in (90, 45))])
def test_a_head_that_its_file_turns_is_found_and_said(degrees: int) -> None:
    turn = np.eye(4)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn[:2, :2] = [[cosine, -sine], [sine, cosine]]
    image = MetaTensor(head().as_tensor(), affine=torch.from_numpy(turn @ AFFINE))
    with pytest.warns(AlignmentWarning, match="the head is turned by") as said:
        found = AlignToTemplate(heights=(0, 60)).place(image)
    assert float(str(said[0].message).split("turned by ")[1].split()[0]) == pytest.approx(degrees, abs=8)
    assert isinstance(found, Placement)
    assert found.matrix is not None
    there = AlignToTemplate(heights=(0, 60)).place(head())
    assert isinstance(there, Placement)
    assert there.matrix is not None
    # In voxels of the image: the same head lies in the frame as before.
    assert float((found.matrix - there.matrix)[:3, :3].abs().max()) < 0.06


def test_another_position_contrast_and_thick_slices_give_the_same_place() -> None:
    moved = np.eye(4)
    angle = 0.2
    moved[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    moved[:3, :3] *= 1.06
    moved[:3, 3] = (11.0, -23.0, 40.0)
    image = head()[0].numpy()
    other = np.where(image > 0.08, 1.1 - image, image)[:, :, ::3]
    affine = moved @ AFFINE @ np.diag([1.0, 1.0, 3.0, 1.0])
    found = align_head(other, affine)
    assert found.doubt is None
    assert off_by(np.linalg.inv(moved) @ found.matrix, aligned().matrix) < 6


def test_a_volume_comes_into_the_frame_and_its_maps_come_back() -> None:
    align = AlignToTemplated(["image", "mask"], heights=(-20, 60), mode=["bilinear", "nearest"])
    data: dict[Any, Any] = {"image": head(), "mask": (head() > 0.5).float()}
    framed = align(data)
    assert framed["image"].shape == framed["mask"].shape == (1, 128, 128, 44)
    assert set(framed["mask"].unique().tolist()) == {0, 1}
    middle = framed["image"].affine.numpy() @ [63.5, 63.5, 0, 1]
    np.testing.assert_allclose(middle[:3], [*CENTRE[:2], -20])
    back = Invertd(["image", "mask"], align, ["image", "mask"], nearest_interp=[False, True])(framed)
    assert back["mask"].shape == head().shape
    np.testing.assert_allclose(back["mask"].affine, AFFINE)
    assert back["image"].applied_operations == []
    inside = align.inverse(align({"image": data["image"], "mask": torch.ones_like(data["mask"])}))
    known = inside["mask"][0] > 0
    assert 0.3 < known.float().mean() < 0.9
    agree = (back["mask"][0][known] == data["mask"][0][known]).float().mean()
    assert agree > 0.95
    difference = (back["image"] - head())[0][known].abs().mean()
    assert difference < 0.06


def test_the_same_image_gives_the_same_bits() -> None:
    assert np.array_equal(align_head(head()[0].numpy(), AFFINE).matrix, aligned().matrix)


@pytest.mark.parametrize("kind", ["empty", "noise", pytest.param("ball", marks=pytest.mark.slow)])
def test_what_is_no_head_is_refused(kind: str) -> None:
    points = np.stack(np.meshgrid(*[np.arange(-80.0, 80, 4)] * 3, indexing="ij"))
    noise = np.random.default_rng(0).random(points.shape[1:])
    bodies = {
        "empty": np.zeros(points.shape[1:]),
        "noise": noise,
        "ball": (np.linalg.norm(points, axis=0) < 70) * (0.8 + 0.1 * noise),
    }
    image = MetaTensor(bodies[kind][None], affine=torch.diag(torch.tensor([4.0, 4, 4, 1])))
    with pytest.raises(ImageError, match="not aligned to the MNI152 template: "):
        AlignToTemplate()(image)
    align = AlignToTemplate(on_failure="warn")
    with pytest.warns(AlignmentWarning, match="not aligned .* nothing of it is assessed"):
        framed = align(image)
    assert framed.shape[1:] == align.shape
    assert not framed.any()
    assert align.inverse(framed).shape == image.shape


def slice_of_head(width: int, length: int) -> torch.Tensor:
    """An ellipse in air, as a picture (1, width, length)."""
    x, y = torch.linspace(-1, 1, width)[:, None], torch.linspace(-1, 1, length)
    noise = torch.rand(1, width, length, generator=torch.Generator().manual_seed(0))
    return (torch.hypot(x, y) < 0.8)[None] * (noise + 1)


@pytest.mark.parametrize("kind", ["empty", "noise", "square", "disc", "on its side"])
def test_a_picture_that_is_no_upright_slice_of_a_head_is_refused(kind: str) -> None:
    upright = slice_of_head(64, 80)
    pictures = {
        "empty": torch.zeros(1, 64, 64),
        "noise": torch.rand(1, 64, 80, generator=torch.Generator().manual_seed(0)),
        "square": torch.nn.functional.pad(torch.ones(1, 40, 52), (8, 8, 8, 8)),
        "disc": slice_of_head(64, 64),
        "on its side": upright.transpose(1, 2),
    }
    assert AlignToTemplate()(upright).any()
    with pytest.raises(ImageError, match=r"not aligned to the MNI152 template: (it is empty|what it shows)"):
        AlignToTemplate()(pictures[kind])
    align = AlignToTemplate(on_failure="warn")
    with pytest.warns(AlignmentWarning, match="nothing of it is assessed"):
        framed = align(pictures[kind])
    assert not framed.any()
    assert align.inverse(framed).shape == pictures[kind].shape


def test_a_picture_gets_the_box_of_a_head() -> None:
    picture = slice_of_head(60, 76)
    align = Compose([AlignToTemplated("image", size=96, spacing=2.4)])
    framed = align({"image": picture})
    assert framed["image"].shape == (1, 96, 96, 1)
    for found, wanted in zip(foreground_box(framed["image"].as_tensor()), HEAD_BOX, strict=True):
        np.testing.assert_allclose((np.array(found) - 47.5) * 2.4, wanted, atol=3)
    back = align.inverse(framed)["image"]
    assert back.shape == picture.shape
    assert (back - picture).abs().mean() < 0.1
    # Air that is not black, as in pictures of scanners without a mask, does not move the head.
    noise = torch.rand(picture.shape, generator=torch.Generator().manual_seed(1))
    noisy = align({"image": torch.where(picture > 0, picture, 0.1 + 0.1 * noise)})["image"]
    assert (noisy - framed["image"])[framed["image"] > 1].abs().mean() < 0.1


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ImageShapeError, match="mask of"):
        AlignToTemplated(["image", "mask"])({"image": slice_of_head(64, 80), "mask": torch.ones(1, 8, 9)})
    with pytest.raises(ConfigError, match="heights"):
        AlignToTemplate(heights=(10, 0))
    with pytest.raises(ConfigError, match="on_failure"):
        AlignToTemplate(on_failure="ignore")  # type: ignore[arg-type]
