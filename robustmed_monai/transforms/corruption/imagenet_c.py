"""ImageNet-C's corruptions at their five severities: the fourteen of the robustness curves of unORANIC.

Left out of ImageNet-C's fifteen: ``glass_blur``, as in those curves. ``frost`` is a drawn stand-in, because
its photographs are under third-party terms. All others follow imagecorruptions 1.1.2.

The constants were chosen for images of 224 pixels. ``imagenet_c`` scales lengths in pixels (blur radii,
displacements, traces of snow) by ``shorter side / 224`` on smaller images, so that a severity means the same
in any size of one picture; on larger ones it keeps them. What is no length stays: amounts of noise, tone,
shares of the side (zoom, pixelate, cloud, ice) and JPEG's blocks of 8 pixels.
``imagenet_c_published`` is the published protocol for images of 28 pixels, which scales nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustmed_monai.transforms.corruption.core import Corruption, check_name, check_severity, identity
from robustmed_monai.transforms.corruption.digital import elastic_transform, jpeg_compression, pixelate
from robustmed_monai.transforms.corruption.filters import area_down, area_up
from robustmed_monai.transforms.corruption.noise import gaussian_noise, impulse_noise, shot_noise
from robustmed_monai.transforms.corruption.optics import apply_rows, defocus_blur, motion_blur, zoom_blur
from robustmed_monai.transforms.corruption.tone import brightness_hsv, contrast_about_mean
from robustmed_monai.transforms.corruption.weather import fog, frost, snow
from robustmed_monai.transforms.params import Params, Shape

_REFERENCE = 224
_SMALLEST = 32  # pixels: imagecorruptions refuses smaller images

# Name to the function, and its arguments at severity 1, 2, 3, 4, 5
_TABLE: dict[str, tuple[Callable[..., Corruption], tuple[tuple[Any, ...], ...]]] = {
    "gaussian_noise": (gaussian_noise, ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,))),
    "shot_noise": (shot_noise, ((60,), (25,), (12,), (5,), (3,))),
    "impulse_noise": (impulse_noise, ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))),
    "defocus_blur": (defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "motion_blur": (motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    # arange on purpose: whether it reaches its end is a matter of rounding, and part of the definition
    "zoom_blur": (
        zoom_blur,
        tuple(
            (tuple(np.arange(1, end, step).tolist()),)
            for end, step in ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
        ),
    ),
    "snow": (
        snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": (frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "fog": (fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": (brightness_hsv, ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))),
    "contrast": (contrast_about_mean, ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))),
    "elastic_transform": (elastic_transform, ((12.5,), (16.25,), (21.25,), (25,), (30,))),
    "pixelate": (pixelate, ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))),
    "jpeg_compression": (jpeg_compression, ((25,), (18,), (15,), (10,), (7,))),
}
IMAGENET_C = tuple(_TABLE)
_WITH_LENGTHS = ("defocus_blur", "motion_blur", "snow", "elastic_transform")


def imagenet_c(name: str, severity: int) -> Corruption:
    """One of ImageNet-C's corruptions, lengths in pixels scaled to the image.

    Args:
        name: one of ``IMAGENET_C``.
        severity: 1 to 5; 0 is the identity.

    Raises:
        ConfigError: when the name or the severity is unknown.

    Example:
        >>> imagenet_c("motion_blur", 3).name
        'motion_blur'
    """
    return _build(name, severity, _REFERENCE)


def imagenet_c_published(name: str, severity: int) -> Corruption:
    """ImageNet-C as unORANIC's robustness curves (figure 5) apply it to images of 28 pixels.

    Sides below 32 pixels are enlarged to 32 by area, a grey image becomes three channels (with noise of their
    own), the constants meant for 224 pixels apply unscaled, the result is cut to 8 bits, reduced to the old
    size by area, and a grey image is the mean of the three channels again.

    Args:
        name: one of ``IMAGENET_C``.
        severity: 1 to 5; 0 is the identity.

    Raises:
        ConfigError: when the name or the severity is unknown.
    """
    inner = _build(name, severity, None)
    if severity == 0:
        return inner
    return Corruption(name, partial(_sample_published, inner), partial(_apply_published, inner))


def _build(name: str, severity: int, reference: int | None) -> Corruption:
    check_name(name, IMAGENET_C, "ImageNet-C's corruptions")
    check_severity(severity, name)
    if severity == 0:
        return identity(name)
    function, severities = _TABLE[name]
    lengths = {"reference": reference} if name in _WITH_LENGTHS else {}
    return function(*severities[severity - 1], **lengths)._replace(name=name)


def _inner_shape(shape: Shape) -> Shape:
    rows, channels, *sides = shape
    return rows, 3 if channels == 1 else channels, *(max(side, _SMALLEST) for side in sides)


def _sample_published(inner: Corruption, shape: Shape, generator: torch.Generator) -> Params:
    return inner.sample(_inner_shape(shape), generator)


def _apply_published(inner: Corruption, images: Tensor, params: Params) -> Tensor:
    sides, shape = images.shape[2:], _inner_shape(images.shape)
    large = (_resize(images, shape[2:], area_up) * 255).round() / 255
    large = inner.apply(large.expand(-1, shape[1], -1, -1), params).clamp(0, 1)
    # numpy's cast to uint8 cuts the decimals off; the little more keeps a level that float32 just misses.
    large = (large * 255 + 1e-3).floor() / 255
    small = (_resize(large, sides, area_down) * 255).round() / 255
    return small.mean(1, keepdim=True) if images.shape[1] == 1 else small


def _resize(images: Tensor, sides: Sequence[int], method: Callable[[int, int], np.ndarray]) -> Tensor:
    for axis, side in enumerate(sides, start=2):
        if images.shape[axis] != side:
            images = apply_rows(images, axis, method(images.shape[axis], side))
    return images
