"""Tone and colour: brightness, contrast, gamma, saturation, hue, solarisation, inversion."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from robustmed_monai.transforms.corruption.core import (
    Corruption,
    sample_constants,
    sample_nothing,
    sample_uniform,
    scatter_images,
    uniform,
)
from robustmed_monai.transforms.params import Params, Shape, per_image

_DIMS = (2, 3)
_LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in a grey value (ITU-R 601)


def brightness(factor: float) -> Corruption:
    """Multiply by ``factor`` (PIL's and torchvision's brightness)."""
    return Corruption("brightness", partial(sample_constants, {"factor": factor}), _scale, _DIMS)


def contrast(factor: float) -> Corruption:
    """Stretch about the mean grey value, rounded to 8 bits as PIL's enhancer does."""
    return Corruption("contrast", partial(sample_constants, {"factor": factor}), _contrast_pil, _DIMS)


def contrast_about_mean(factor: float) -> Corruption:
    """Stretch each channel about its own mean (ImageNet-C; MONAI's ScaleIntensityFixedMean)."""
    return Corruption("contrast", partial(sample_constants, {"factor": factor}), _contrast_channels, _DIMS)


def gamma(low: float, high: float | None = None, name: str = "gamma") -> Corruption:
    """Raise to a power, drawn from [low, high) when ``high`` is given; above 1 the image darkens."""
    powers = (low, low if high is None else high)
    return Corruption(name, partial(sample_uniform, {"power": powers}), _gamma, _DIMS)


def brightness_hsv(shift: float) -> Corruption:
    """Add to the value channel of HSV (ImageNet-C's brightness)."""
    return Corruption("brightness", partial(sample_constants, {"shift": shift}), _shift_value, _DIMS)


def saturate(shift: float) -> Corruption:
    """Add to the saturation channel of HSV; an image of one channel has none and stays."""
    return Corruption("saturate", partial(sample_constants, {"shift": shift}), _shift_saturation, _DIMS)


def solarize(threshold: float = 128 / 255) -> Corruption:
    """Invert the values from ``threshold`` on."""
    return Corruption("solarize", partial(sample_constants, {"threshold": threshold}), _solarize, _DIMS)


def invert() -> Corruption:
    """The negative, 1 - x."""
    return Corruption("invert", sample_nothing, _invert, _DIMS)


def brightness_contrast(brightness: float = 0.2, contrast: float = 0.2) -> Corruption:
    """Apply a x + b, with a in 1 +- ``contrast``, b in +- ``brightness`` (RandomBrightnessContrast)."""
    ranges = {"gain": (1 - contrast, 1 + contrast), "offset": (-brightness, brightness)}
    sample = partial(sample_uniform, ranges)
    return Corruption("brightness_contrast", sample, _linear, _DIMS)


def colour_jitter(
    brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2, hue: float = 0.2
) -> Corruption:
    """Change brightness, contrast, saturation and hue in random order (ColorJitter).

    Args:
        brightness: factor in 1 +- this.
        contrast: factor in 1 +- this, about the mean grey value.
        saturation: factor in 1 +- this; images of one channel have none.
        hue: shift in +- this, in turns of the colour circle; images of one channel have none.
    """
    sample = partial(_sample_jitter, (brightness, contrast, saturation, hue))
    return Corruption("colour_jitter", sample, _jitter, _DIMS)


def grey(images: Tensor) -> Tensor:
    """Grey value (B, 1, ...) of images with three channels, or the mean of any other number."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2])[:, None]


def rotate_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of (B, 3, ...) images by (B,) ``turns`` of the colour circle, value and saturation kept.

    Source: A. R. Smith, "Color gamut transform pairs", SIGGRAPH 1978 (HSV), without leaving RGB.
    """
    value, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - low
    sextant = _hue(images, value, chroma) + 6 * per_image(turns, images)
    offsets = torch.tensor([5.0, 3.0, 1.0], dtype=images.dtype, device=images.device)
    k = (sextant + offsets.view(1, 3, *[1] * (images.ndim - 2))) % 6
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


def _hue(images: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    red, green, blue = images.split(1, 1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    from_red, from_green, from_blue = (green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe
    return torch.where(value == red, from_red, torch.where(value == green, from_green, from_blue))


def _sample_jitter(ranges: tuple[float, ...], shape: Shape, generator: torch.Generator) -> Params:
    rows = shape[0]
    order = torch.rand(rows, 4, generator=generator).argsort(1)
    factors = [uniform(rows, 1 - r, 1 + r, generator) for r in ranges[:3]]
    hue = uniform(rows, -ranges[3], ranges[3], generator)
    return {"order": order, "amounts": torch.stack([*factors, hue], 1)}


def _scale(images: Tensor, params: Params) -> Tensor:
    return images * per_image(params["factor"], images)


def _contrast_pil(images: Tensor, params: Params) -> Tensor:
    mean = (_mean(grey(images)) * 255 + 0.5).floor() / 255
    return _stretch(images, mean, params["factor"])


def _contrast_channels(images: Tensor, params: Params) -> Tensor:
    return _stretch(images, _mean(images), params["factor"])


def _mean(images: Tensor) -> Tensor:
    return images.mean(tuple(range(2, images.ndim)), keepdim=True)


def _stretch(images: Tensor, centre: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(centre, images, per_image(factor, images))


def _gamma(images: Tensor, params: Params) -> Tensor:
    return images ** per_image(params["power"], images)


def _shift_value(images: Tensor, params: Params) -> Tensor:
    shift = per_image(params["shift"], images)
    if images.shape[1] != 3:
        return images + shift
    value = images.amax(1, keepdim=True)
    shifted = (value + shift).clamp(0, 1)
    return torch.where(value > 0, images * (shifted / torch.where(value > 0, value, 1.0)), shifted)


def _shift_saturation(images: Tensor, params: Params) -> Tensor:
    if images.shape[1] != 3:
        return images.clone()
    value, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma, safe = value - low, torch.where(value > 0, value, 1.0)
    saturation = (chroma / safe + per_image(params["shift"], images)).clamp(0, 1)
    # A colour is how far each channel lies below the value, in chromas; grey counts as red.
    below = (value - images) / torch.where(chroma > 0, chroma, 1.0)
    below[:, 1:] = torch.where(chroma > 0, below[:, 1:], 1.0)
    return value - value * saturation * below


def _solarize(images: Tensor, params: Params) -> Tensor:
    # |x - 1| is 1 - x: twice as fast as choosing between two images.
    return (images - (images >= per_image(params["threshold"], images)).to(images.dtype)).abs_()


def _invert(images: Tensor, params: Params) -> Tensor:
    return 1 - images


def _linear(images: Tensor, params: Params) -> Tensor:
    return images * per_image(params["gain"], images) + per_image(params["offset"], images)


def _jitter(images: Tensor, params: Params) -> Tensor:
    if images.shape[1] != 3:
        return _jitter_grey(images, params)
    for turn in range(4):
        kind = params["order"][:, turn]
        amount = params["amounts"].gather(1, kind[:, None])[:, 0]
        # Three of the changes stretch: about black, the mean grey or a pixel's grey. A turned hue does not.
        pixel = grey(images)
        centre = pixel * per_image(kind == 2, images) + _mean(pixel) * per_image(kind == 1, images)
        stretched = _stretch(images, centre, torch.where(kind == 3, 1.0, amount)).clamp_(0, 1)
        rows = (kind == 3).nonzero()[:, 0]
        scatter_images(stretched, rows, rotate_hue(images.index_select(0, rows), amount[rows]).clamp_(0, 1))
        images = stretched
    return images


def _jitter_grey(images: Tensor, params: Params) -> Tensor:
    # Two of the four changes mean something, so both orders are dealt with at once.
    light, stretch = params["amounts"][:, 0], params["amounts"][:, 1]
    place = params["order"].argsort(1)
    first = per_image(place[:, 0] < place[:, 1], images) > 0
    start = torch.where(first, _brighten(images, light).clamp_(0, 1), images)
    middle = _stretch_grey(start, stretch).clamp_(0, 1)
    return torch.where(first, middle, _brighten(middle, light))


def _brighten(images: Tensor, factor: Tensor) -> Tensor:
    return images * per_image(factor, images)


def _stretch_grey(images: Tensor, factor: Tensor) -> Tensor:
    return _stretch(images, _mean(grey(images)), factor)
