"""Rotation against MONAI's, quarter turns against NumPy's, and the negative by degrees."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from monai.transforms import Rotate
from torch import Tensor

from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.geometry import GEOMETRY, geometry, move, rotation
from robustmed_monai.utils.errors import ConfigError, ImageShapeError


def _images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def _corrupted(corruption: Corruption, images: Tensor, seed: int = 0) -> Tensor:
    return corrupt(images, corruption, corruption.sample(images.shape, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 31, 20), (2, 24, 18, 6)], ids=str)
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_rotation_is_monais(shape: tuple[int, ...], severity: int) -> None:
    images, corruption = _images(4, *shape), geometry("rotation", severity)
    params = corruption.sample(images.shape, torch.Generator().manual_seed(0))
    assert set(params["degrees"].tolist()) == {a * (5, 10, 20, 30, 45)[severity - 1] for a in (-1.0, 1.0)}
    found = corrupt(images, corruption, params)
    for image, degrees, result in zip(images, params["degrees"], found, strict=True):
        # MONAI's angle tells how the grid turns, against the content; a volume has one for each axis.
        angle = -math.radians(float(degrees))
        angles = angle if image.ndim == 3 else (0.0, 0.0, angle)
        rotate = Rotate(angles, keep_size=True, mode="bilinear", padding_mode="border", dtype=torch.float64)
        torch.testing.assert_close(
            result, torch.as_tensor(np.asarray(rotate(image))).float(), atol=2e-4, rtol=0
        )


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (180, 2), (270, 3)])
@pytest.mark.parametrize("volume", [False, True])
def test_quarter_turns_move_pixels_only(degrees: int, turns: int, volume: bool) -> None:
    images = _images(*((6, 1, 9, 9, 4) if volume else (6, 3, 9, 9)))
    corruption = rotation(degrees)
    params = corruption.sample(images.shape, torch.Generator().manual_seed(0))
    assert {math.copysign(1, d) for d in params["degrees"].tolist()} == {-1.0, 1.0}
    for image, d, result in zip(images, params["degrees"], corrupt(images, corruption, params), strict=True):
        signed = int(math.copysign(turns, float(d)))
        np.testing.assert_array_equal(result, np.rot90(image.numpy(), signed, (1, 2)))


def test_a_resampled_quarter_turn_is_the_exact_one() -> None:
    images = _images(1, 1, 12, 12)
    moved = move(images, torch.tensor([90.0]), torch.zeros(1, 2), "border")
    torch.testing.assert_close(moved, images.rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_a_shift_by_whole_pixels_is_a_roll() -> None:
    images = _images(1, 1, 10, 20)
    images[:, :, -2:] = 0
    images[:, :, :, :5] = 0
    moved = move(images, torch.zeros(1), torch.tensor([[0.2, -0.25]]), "zeros")
    torch.testing.assert_close(moved, images.roll((2, -5), (2, 3)), atol=1e-5, rtol=0)


def test_half_turns_fit_any_shape_and_quarter_turns_do_not() -> None:
    images = _images(2, 1, 8, 10)
    assert torch.equal(_corrupted(rotation(180), images), images.flip((2, 3)))
    with pytest.raises(ImageShapeError, match="X = Y"):
        _corrupted(rotation(90), images)


def test_contrast_inversion_ends_at_the_negative_and_grows_on_the_way() -> None:
    images = _images(3, 1, 28, 28)
    torch.testing.assert_close(_corrupted(geometry("contrast_inversion", 5), images), 1 - images)
    torch.testing.assert_close(
        _corrupted(geometry("contrast_inversion", 2), images), 0.6 * images + 0.4 * (1 - images)
    )
    errors = [
        (_corrupted(geometry("contrast_inversion", severity), images) - images).square().mean((1, 2, 3))
        for severity in range(6)
    ]
    assert (torch.stack(errors).diff(dim=0) > 0).all()


@pytest.mark.parametrize("side", [28, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_rotation_distorts_a_smooth_image_more_and_more(side: int, channels: int) -> None:
    x, y = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    images = (0.2 + 0.6 * x * (1 - 0.5 * y)).expand(2, channels, side, side)
    errors = [
        float((_corrupted(geometry("rotation", severity), images) - images).square().mean())
        for severity in range(6)
    ]
    assert errors[0] == 0
    assert all(a < b for a, b in pairwise(errors))


@pytest.mark.parametrize("name", GEOMETRY)
def test_no_image_is_a_batch_too(name: str) -> None:
    assert _corrupted(geometry(name, 3), torch.zeros(0, 1, 28, 28)).shape == (0, 1, 28, 28)


def test_unknown_names_and_severities_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'rotations' is not one of .* Did you mean 'rotation'"):
        geometry("rotations", 1)
    with pytest.raises(ConfigError, match="severity 6"):
        geometry("rotation", 6)
