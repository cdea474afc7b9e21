"""Displacement fields: equality with MONAI, inverse and composition laws, folds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.blocks import DVF2DDF, Warp

from robustmed_monai.transforms.fields import compose, folding, integrate, jacobian_determinant, warp
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

SIZES = [(13, 10), (9, 8, 7)]


def smooth_field(size: tuple[int, ...], amplitude: float, seed: int = 0, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, len(size), *[3] * len(size), generator=generator) * amplitude
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return torch.nn.functional.interpolate(coarse, size, mode=mode, align_corners=True)


def monai(module: Callable[..., torch.nn.Module], *args: Any, **options: Any) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI says that it has no compiled extension
        return module(*args, **options)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_warp_is_monais(size: tuple[int, ...], padding: str, mode: str) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    field = smooth_field(size, 3.0)
    expected = monai(Warp, mode, padding)(image, field)
    torch.testing.assert_close(warp(image, field, mode, padding), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_integration_is_monais(size: tuple[int, ...], padding: str) -> None:
    velocity = smooth_field(size, 2.0)
    expected = monai(DVF2DDF, 5, padding_mode=padding)(velocity)
    torch.testing.assert_close(integrate(velocity, 5, padding), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_labels_move_as_they_are(size: tuple[int, ...]) -> None:
    labels = torch.randint(0, 255, (2, 1, *size), dtype=torch.uint8)
    field = smooth_field(size, 2.0)
    moved = warp(labels, field, "nearest")
    assert moved.dtype == torch.uint8
    torch.testing.assert_close(moved.float(), warp(labels.float(), field, "nearest"))
    torch.testing.assert_close(warp(labels, torch.zeros_like(field), "nearest"), labels, atol=0, rtol=0)


def test_pull_convention_and_axes() -> None:
    image = torch.rand(1, 1, 6, 5, 4)
    field = torch.zeros(1, 3, 6, 5, 4)
    field[:, 1] = 2
    expected = torch.zeros_like(image)
    expected[:, :, :, :3] = image[:, :, :, 2:]
    torch.testing.assert_close(warp(image, field), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(warp(image, field, "nearest"), expected, atol=0, rtol=0)


@pytest.mark.parametrize("size", [(48, 40), (24, 20, 22)])
def test_inverse_composes_to_the_identity(size: tuple[int, ...]) -> None:
    velocity = smooth_field(size, 1.5)
    there, back = integrate(velocity, 7), integrate(-velocity, 7)
    for error in (compose(there, back), compose(back, there)):
        assert error.norm(dim=1).mean() < 0.05
    assert there.norm(dim=1).mean() > 0.5


def test_composition_is_one_warp_after_the_other() -> None:
    axis = torch.linspace(0, 1, 40)
    image = (axis[:, None] * 3 + axis[None] ** 2)[None, None]
    first, then = smooth_field((40, 40), 1.0, 0, 1), smooth_field((40, 40), 1.0, 1, 1)
    at_once, in_turn = warp(image, compose(first, then)), warp(warp(image, first), then)
    torch.testing.assert_close(at_once[..., 5:-5, 5:-5], in_turn[..., 5:-5, 5:-5], atol=2e-3, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_jacobian_against_numpy(size: tuple[int, ...]) -> None:
    field = smooth_field(size, 2.0)
    axes = len(size)
    for sample, found in zip(field.double().numpy(), jacobian_determinant(field), strict=True):
        jacobian = np.stack([np.stack(np.gradient(component), -1) for component in sample], -2) + np.eye(axes)
        np.testing.assert_allclose(found.numpy(), np.linalg.det(jacobian), atol=1e-4)


def test_folding_counts_the_folds_of_each_sample() -> None:
    ramp = torch.arange(10.0).view(1, 10, 1).expand(1, 10, 8)
    field = torch.zeros(2, 2, 10, 8)
    field[1, 0] = -2 * ramp  # x -> -x: folded everywhere
    assert folding(field).tolist() == [0.0, 1.0]


def test_gradients_reach_image_and_field() -> None:
    image, field = torch.rand(1, 1, 8, 8), torch.full((1, 2, 8, 8), 0.3)
    image.requires_grad_()
    field.requires_grad_()
    warp(image, integrate(field), padding_mode="border").square().sum().backward()
    for tensor in (image, field):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ImageShapeError, match="agree in batch"):
        warp(torch.zeros(1, 1, 8, 8), torch.zeros(2, 2, 8, 8))
    with pytest.raises(ImageShapeError, match="shape"):
        jacobian_determinant(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="nearest"):
        warp(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1, 2, 8, 8))
    with pytest.raises(ConfigError, match="cubic"):
        warp(torch.zeros(1, 1, 8, 8), torch.zeros(1, 2, 8, 8), mode="cubic")
    with pytest.raises(ConfigError, match="negative"):
        integrate(torch.zeros(1, 2, 8, 8), steps=-1)
