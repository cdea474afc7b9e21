"""MedMNIST-C's corruptions of the twelve MedMNIST data sets, severities 1 to 5, for images of any size.

The published figures mean images of 224 pixels; :func:`medmnist_c` says what they mean at another size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from robustmed_monai.transforms.blur import kernel_of_size, reflected
from robustmed_monai.transforms.corruption.core import (
    Corruption,
    check_name,
    check_severity,
    identity,
    sample_nothing,
)
from robustmed_monai.transforms.corruption.digital import jpeg_compression, pixelate
from robustmed_monai.transforms.corruption.drawn import SIDE, black_corner, bubble, characters, stain_deposit
from robustmed_monai.transforms.corruption.filters import along_axes
from robustmed_monai.transforms.corruption.medmnist_c_tables import COLOUR, GREY, TABLES, Level
from robustmed_monai.transforms.corruption.noise import (
    gaussian_noise,
    impulse_noise,
    shot_noise,
    speckle_noise,
)
from robustmed_monai.transforms.corruption.optics import (
    defocus_blur,
    motion_blur,
    shrinkage,
    zoom_blur,
)
from robustmed_monai.transforms.corruption.tone import brightness, contrast, gamma, grey, saturate
from robustmed_monai.transforms.params import Params, Shape

MEDMNIST_C: dict[str, tuple[str, ...]] = {
    f"{dataset}mnist": tuple(
        name for name, rows in TABLES.items() if any(dataset in row.split() for row in rows)
    )
    for dataset in (*COLOUR, *GREY)
}


def medmnist_c(dataset: str, name: str, severity: int, scale: bool = True) -> Corruption:
    """A corruption of MedMNIST-C.

    The figures of the registry are for images whose shorter side has 224 pixels. At another size:

    - Blurs with a kernel (``defocus_blur``, ``motion_blur``, ``gaussian_blur``) shrink on smaller images: the
      weights move to side / 224 of their place, each shared by the pixels around it. For a blur without
      preferred direction that is what one gets by repeating pixels up to 224, blurring, and shrinking by
      area, and at 28 pixels it is gentle. On larger images the kernel keeps its pixels.
    - Marks (``bubble``, ``stain_deposit``, ``characters``, ``black_corner``) grow and shrink with the image.
    - Shares, factors and noise of single pixels need no rule, and JPEG's blocks keep their 8 pixels.

    One seed distorts more with each severity, except where the registry does not (see the tables), and for
    ``pixelate`` at 28 pixels, where halving an image harms it less than going to 0.6 of its size and back.

    Grey data sets are corrupted as RGB and turned to grey, as published: noise in an image of one channel is
    the weighted mean of three channels' noise, so Gaussian noise has 0.67 of the stated strength.

    Args:
        dataset: key of ``MEDMNIST_C``, such as "pneumoniamnist".
        name: one of ``MEDMNIST_C[dataset]``.
        severity: 1 to 5, or 0 for the identity.
        scale: False gives kernels the published number of pixels at every size, as MedMNIST-C's code does:
            far stronger at 28 pixels.

    Raises:
        ConfigError: for an unknown data set, name or severity.

    Example:
        >>> medmnist_c("pneumoniamnist", "gaussian_blur", 3).name
        'gaussian_blur'
    """
    check_name(dataset, MEDMNIST_C, "MedMNIST-C's data sets")
    check_name(name, MEDMNIST_C[dataset], f"MedMNIST-C's corruptions of {dataset}")
    check_severity(severity, name)
    if severity == 0:
        return identity(name)
    level = _level(dataset, name, severity)
    if name in _KERNELS:
        made = _KERNELS[name](*level, reference=SIDE if scale else None)
    else:
        made = _OTHERS[name](*level)
    if name in _NOISES and dataset.removesuffix("mnist") in GREY:
        made = made._replace(sample=partial(_sample_rgb, made), apply=partial(_apply_rgb, made))
    return made._replace(name=name)


def _level(dataset: str, name: str, severity: int) -> tuple[float, ...]:
    short = dataset.removesuffix("mnist")
    levels = next(levels for row, levels in TABLES[name].items() if short in row.split())
    level: Level = levels[severity - 1]
    return level if isinstance(level, tuple) else (level,)


def _zoom_blur(stop: float, step: float) -> Corruption:
    return zoom_blur(np.arange(1, stop, step).tolist())


def _gaussian_blur(size: int, reference: int | None) -> Corruption:
    return Corruption("gaussian_blur", sample_nothing, partial(_blur, size, reference))


def _blur(size: int, reference: int | None, images: Tensor, params: Params) -> Tensor:
    scale = shrinkage(images.shape, reference)
    first, second = (_blur_matrix(size, scale, side).to(images)[None] for side in images.shape[2:])
    return along_axes(images, first, second)


@lru_cache(maxsize=64)
def _blur_matrix(size: int, scale: float, side: int) -> Tensor:
    offsets = np.arange(size) - size // 2
    reach = math.ceil(size // 2 * scale)
    pixels = np.arange(-reach, reach + 1)
    # As the kernels of optics: each weight is shared linearly by the pixels around its place.
    shared = np.clip(1 - np.abs(pixels[:, None] - offsets * scale), 0, None) @ kernel_of_size(size)
    return reflected(side, shared)


def _sample_rgb(noise: Corruption, shape: Shape, generator: torch.Generator) -> Params:
    return noise.sample((shape[0], 3, *shape[2:]) if shape[1] == 1 else shape, generator)


def _apply_rgb(noise: Corruption, images: Tensor, params: Params) -> Tensor:
    if images.shape[1] != 1:
        return noise.apply(images, params)
    return grey(noise.apply(images.expand(-1, 3, *images.shape[2:]), params).clamp(0, 1))


_NOISES: dict[str, Callable[..., Corruption]] = {
    "gaussian_noise": gaussian_noise,
    "speckle_noise": speckle_noise,
    "impulse_noise": impulse_noise,
    "shot_noise": shot_noise,
}
_KERNELS: dict[str, Callable[..., Corruption]] = {
    "defocus_blur": defocus_blur,
    "motion_blur": motion_blur,
    "gaussian_blur": _gaussian_blur,
}
_OTHERS: dict[str, Callable[..., Corruption]] = {
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    **_NOISES,
    "zoom_blur": _zoom_blur,
    "brightness_up": brightness,
    "brightness_down": brightness,
    "contrast_up": contrast,
    "contrast_down": contrast,
    "gamma_corr_up": gamma,
    "gamma_corr_down": gamma,
    "saturate": saturate,
    "stain_deposit": stain_deposit,
    "bubble": bubble,
    "black_corner": black_corner,
    "characters": characters,
}
