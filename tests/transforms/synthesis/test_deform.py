"""Smooth deformation: invertible at the defaults, equal to MONAI's layers, and its affine part."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from monai.networks.blocks import DVF2DDF
from torch.nn import functional as F

from robustmed_monai.transforms.fields import compose, folding, warp
from robustmed_monai.transforms.params import index_params
from robustmed_monai.transforms.synthesis.deform import DiffeomorphicDeform
from robustmed_monai.transforms.synthesis.noise import noise_field
from robustmed_monai.utils.errors import ConfigError

DEFAULTS = [((192, 160), 24), ((128, 128), 24), ((64, 64), 40), ((64, 64, 64), 4)]


def fields(
    deform: DiffeomorphicDeform, size: tuple[int, ...], rows: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    params = deform.sample(rows, size, torch.Generator().manual_seed(seed))
    return deform.apply(params, size), deform.apply(params, size, inverse=True)


@pytest.mark.parametrize(("size", "rows"), DEFAULTS)
def test_defaults_do_not_fold_and_the_inverse_undoes_them(size: tuple[int, ...], rows: int) -> None:
    there, back = fields(DiffeomorphicDeform(), size, rows)
    assert folding(there).mean() < 0.001
    assert folding(back).mean() < 0.001
    assert compose(there, back).norm(dim=1).mean() < 0.1
    assert compose(back, there).norm(dim=1).mean() < 0.1
    # It moves, by about a tenth of a shape.
    assert there.norm(dim=1).mean() > 0.01 * min(size)


def test_affine_and_smooth_part_are_undone_together() -> None:
    deform = DiffeomorphicDeform(rotate=20, shift=0.05, zoom=0.1, shear=0.1)
    size = (96, 96)
    there, back = fields(deform, size, 8)
    inner = (..., slice(30, -30), slice(30, -30))
    assert compose(there, back)[inner].norm(dim=1).mean() < 0.1
    assert there[inner].norm(dim=1).mean() > 2
    assert folding(there).max() < 0.001


@pytest.mark.parametrize("size", [(33, 40), (17, 20, 22)])
def test_integration_is_monais_at_half_resolution(size: tuple[int, ...]) -> None:
    deform = DiffeomorphicDeform(std=2.0, scales=(8, 16))
    params = deform.sample(2, size, torch.Generator().manual_seed(0))
    half = [math.ceil(side / 2) for side in size]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI says that it has no compiled extension
        small = DVF2DDF(5, padding_mode="border")(noise_field(params["velocity"], half))
    mode = "bilinear" if len(size) == 2 else "trilinear"
    expected = F.interpolate(small, size, mode=mode, align_corners=True)
    for axis, (full, side) in enumerate(zip(size, half, strict=True)):
        expected[:, axis] *= (full - 1) / (side - 1)
    torch.testing.assert_close(deform.apply(params, size), expected, atol=1e-4, rtol=0)


def test_batch_is_its_samples() -> None:
    deform = DiffeomorphicDeform(rotate=10)
    params = deform.sample(3, (40, 40), torch.Generator().manual_seed(0))
    field = deform.apply(params, (40, 40))
    one = deform.apply(index_params(params, torch.tensor([2])), (40, 40))
    torch.testing.assert_close(one[0], field[2], atol=1e-4, rtol=0)


def test_nothing_moves_at_zero() -> None:
    field, _ = fields(DiffeomorphicDeform(std=0), (20, 20), 2)
    assert field.abs().max() == 0


def test_quarter_turn_and_shift() -> None:
    deform = DiffeomorphicDeform(std=0, rotate=1, shift=1)
    params = deform.sample(1, (9, 9), torch.Generator())
    quarter = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])
    image = torch.rand(1, 1, 9, 9)
    turned = warp(image, deform.apply({**params, "matrix": quarter, "shift": torch.zeros(1, 2)}, (9, 9)))
    torch.testing.assert_close(turned, image.rot90(-1, (2, 3)), atol=1e-5, rtol=0)
    still = {**params, "matrix": torch.eye(2)[None], "shift": torch.tensor([[2.0, 0.0]])}
    moved = warp(image, deform.apply(still, (9, 9)))
    torch.testing.assert_close(moved[:, :, :7], image[:, :, 2:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("axes", [2, 3])
def test_ranges_of_the_affine_part(axes: int) -> None:
    size = (50, 40, 30)[:axes]
    generator = torch.Generator().manual_seed(0)
    turned = DiffeomorphicDeform(rotate=30).sample(500, size, generator)["matrix"]
    assert (turned @ turned.mT - torch.eye(axes)).abs().max() < 1e-5
    if axes == 2:
        angles = torch.rad2deg(torch.atan2(turned[:, 1, 0], turned[:, 0, 0]))
        assert 29 < angles.abs().max() <= 30.001
    zoomed = DiffeomorphicDeform(zoom=0.2).sample(500, size, generator)["matrix"].diagonal(dim1=1, dim2=2)
    assert 0.8 <= zoomed.min() < 0.81
    assert 1.19 < zoomed.max() <= 1.2
    shifts = DiffeomorphicDeform(shift=0.1).sample(500, size, generator)["shift"].abs().amax(0)
    assert (shifts <= torch.tensor(size) * 0.1).all()
    assert (shifts > torch.tensor(size) * 0.095).all()


@pytest.mark.parametrize("settings", [{"std": -1.0}, {"zoom": 1.0}, {"steps": -1}, {"rotate": float("inf")}])
def test_wrong_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="not negative"):
        DiffeomorphicDeform(**settings)  # type: ignore[arg-type]
