"""Tone and colour against PIL, colorsys and short NumPy transcriptions."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.tone import (
    brightness,
    brightness_contrast,
    brightness_hsv,
    colour_jitter,
    contrast,
    contrast_about_mean,
    gamma,
    invert,
    rotate_hue,
    saturate,
    solarize,
)

COLOUR = torch.rand(5, 3, 12, 14, generator=torch.Generator().manual_seed(1))
COLOUR[0, :, :3] = COLOUR[0, :1, :3]  # some grey pixels
COLOUR[0, :, 3] = 0  # and black ones
GREY = COLOUR[:, :1].contiguous()


def _run(
    corruption: Corruption, images: torch.Tensor, seed: int = 3
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    params = corruption.sample(images.shape, torch.Generator().manual_seed(seed))
    return corrupt(images, corruption, params).numpy(), {k: v.numpy() for k, v in params.items()}


def _by_pixel(
    images: torch.Tensor, change: Callable[[float, float, float], tuple[float, float, float]]
) -> np.ndarray:
    """Change each pixel's hue, saturation and value."""
    pixels = images.movedim(1, -1).reshape(-1, 3).tolist()
    changed = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in pixels]
    shape = (images.shape[0], *images.shape[2:], 3)
    return np.moveaxis(np.array(changed).reshape(shape), -1, 1)


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("factor", [0.3, 0.9, 1.4])
@pytest.mark.parametrize(("make", "enhancer"), [(brightness, "Brightness"), (contrast, "Contrast")])
def test_enhancers_are_pils(
    make: Callable[[float], Corruption], enhancer: str, factor: float, images: torch.Tensor
) -> None:
    eight_bit = (images * 255).round().to(torch.uint8)
    result, _ = _run(make(factor), eight_bit)
    for ours, image in zip(result, eight_bit, strict=True):
        picture = Image.fromarray(image.movedim(0, -1).squeeze(-1).numpy())
        reference = np.asarray(getattr(ImageEnhance, enhancer)(picture).enhance(factor), float) / 255
        reference = reference[None] if reference.ndim == 2 else np.moveaxis(reference, -1, 0)
        assert np.abs(ours - reference).max() <= 1.01 / 255


def test_contrast_about_mean_stretches_each_channel() -> None:
    result, _ = _run(contrast_about_mean(0.4), COLOUR)
    x = COLOUR.numpy()
    mean = x.mean((2, 3), keepdims=True)
    np.testing.assert_allclose(result, ((x - mean) * 0.4 + mean).clip(0, 1), atol=1e-6)


def test_value_shift_is_that_of_hsv() -> None:
    result, _ = _run(brightness_hsv(0.3), COLOUR)
    np.testing.assert_allclose(result, _by_pixel(COLOUR, lambda h, s, v: (h, s, min(v + 0.3, 1))), atol=1e-6)
    grey, _ = _run(brightness_hsv(0.3), GREY)
    np.testing.assert_allclose(grey, (GREY.numpy() + 0.3).clip(0, 1), atol=1e-7)


def test_saturation_shift_is_that_of_hsv() -> None:
    result, _ = _run(saturate(0.15), COLOUR)
    np.testing.assert_allclose(result, _by_pixel(COLOUR, lambda h, s, v: (h, min(s + 0.15, 1), v)), atol=1e-6)
    grey, _ = _run(saturate(0.15), GREY)
    np.testing.assert_array_equal(grey, GREY.numpy())


@pytest.mark.parametrize("turns", [-0.2, 0.05, 0.5])
def test_hue_turns_as_in_hsv(turns: float) -> None:
    ours = rotate_hue(COLOUR, torch.full((5,), turns))
    reference = _by_pixel(COLOUR, lambda h, s, v: ((h + turns) % 1, s, v))
    np.testing.assert_allclose(ours.numpy(), reference, atol=1e-5)


def test_gamma_solarize_invert() -> None:
    x = COLOUR.numpy()
    result, params = _run(gamma(0.8, 1.2), COLOUR)
    np.testing.assert_allclose(result, x ** params["power"][:, None, None, None], atol=1e-6)
    np.testing.assert_allclose(_run(gamma(1.6), COLOUR)[0], x**1.6, atol=1e-6)
    np.testing.assert_array_equal(_run(invert(), COLOUR)[0], 1 - x)
    eight_bit = (COLOUR * 255).round().to(torch.uint8)
    levels = eight_bit.numpy()
    reference = np.where(levels >= 128, 255 - levels, levels) / np.float32(255)
    np.testing.assert_allclose(_run(solarize(), eight_bit)[0], reference, atol=1e-6)


def test_brightness_contrast_is_linear() -> None:
    result, params = _run(brightness_contrast(), COLOUR)
    gain, offset = (params[k][:, None, None, None] for k in ("gain", "offset"))
    np.testing.assert_allclose(result, (COLOUR.numpy() * gain + offset).clip(0, 1), atol=1e-6)
    assert np.all(np.abs(params["gain"] - 1) <= 0.2)
    assert np.all(np.abs(params["offset"]) <= 0.2)


def _jitter(image: np.ndarray, order: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """ColorJitter of one image (C, X, Y), step by step."""
    luma = np.array([0.299, 0.587, 0.114])[:, None, None]
    for kind in order:
        grey = (image * luma).sum(0, keepdims=True) if len(image) == 3 else image
        if kind == 0:
            image = image * amounts[0]
        elif kind == 1:
            image = image * amounts[1] + grey.mean() * (1 - amounts[1])
        elif len(image) == 3 and kind == 2:
            image = image * amounts[2] + grey * (1 - amounts[2])
        elif len(image) == 3:
            image = _by_pixel(torch.from_numpy(image)[None], lambda h, s, v: ((h + amounts[3]) % 1, s, v))[0]
        image = image.clip(0, 1)
    return image


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_colour_jitter_takes_its_steps_in_their_order(images: torch.Tensor) -> None:
    images = images.repeat(4, 1, 1, 1)
    result, params = _run(colour_jitter(), images)
    assert len({tuple(order) for order in params["order"]}) > 8
    for ours, image, order, amounts in zip(result, images, params["order"], params["amounts"], strict=True):
        np.testing.assert_allclose(ours, _jitter(image.numpy().astype(float), order, amounts), atol=2e-5)
