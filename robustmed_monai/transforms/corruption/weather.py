"""ImageNet-C's weather: fog and snow by its recipes, and a drawn stand-in for its photographs of frost."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from robustmed_monai.transforms.corruption.core import Corruption, gaussian, uniform
from robustmed_monai.transforms.corruption.optics import (
    line_offsets,
    line_weights,
    shrinkage,
    smear,
    zoomed,
)
from robustmed_monai.transforms.corruption.tone import grey
from robustmed_monai.transforms.params import Params, Shape

_SNOW_ANGLES = (-135.0, -45.0)
_COARSEST, _OCTAVES = 4, 6  # lattice points along a side of the coarsest frost, and halvings from there


def fog(strength: float, decay: float) -> Corruption:
    """Add a cloud and scale back to the image's own maximum (ImageNet-C).

    Args:
        strength: brightness of the thickest fog, against an image in [0, 1].
        decay: how much smoother the cloud is at half the length; its square divides the amplitude.
    """
    return Corruption("fog", _sample_fog, partial(_fog, strength, decay))


def snow(
    mean: float,
    std: float,
    size: float,
    threshold: float,
    radius: int,
    sigma: float,
    mix: float,
    reference: int | None = None,
) -> Corruption:
    """Whiten and add flakes that fall: enlarged noise above a threshold, smeared downwards (ImageNet-C).

    Args:
        mean: mean of the noise.
        std: its standard deviation.
        size: size of a flake in pixels, 1 or more.
        threshold: noise below it is no snow.
        radius: half the length of the trace of a flake, in pixels, see ``motion_blur``.
        sigma: standard deviation of the trace, in pixels.
        mix: share of the image that is not whitened.
        reference: side of the images that the lengths are meant for: on smaller ones they shrink with the
            shorter side, flakes not below a pixel.
    """
    return Corruption(
        "snow",
        partial(_sample_snow, radius, sigma, reference),
        partial(_snow, (mean, std, size, threshold, mix), reference),
    )


def frost(image: float, ice: float) -> Corruption:
    """Mix the image with drawn ice: a STAND-IN for ImageNet-C's frost, which uses photographs.

    The five photographs are under third-party terms and do not come with this package. In their place is a
    fractal of crossing ridges, as branching as ice on a window, of mean 0.5 and standard deviation 0.2. The
    weights are ImageNet-C's; figures are not to be compared with figures of the photographs.

    Args:
        image: weight of the image.
        ice: weight of the ice.
    """
    return Corruption("frost", _sample_frost, partial(_frost, image, ice))


def _sample_fog(shape: Shape, generator: torch.Generator) -> Params:
    side = 2 ** (max(shape[2:]) - 1).bit_length()
    return {"noise": torch.rand(shape[0], side, side, generator=generator) * 2 - 1}


def _fog(strength: float, decay: float, images: Tensor, params: Params) -> Tensor:
    width, height = images.shape[2:]
    cloud = plasma(params["noise"].to(images.dtype), decay)[:, None, :width, :height]
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + strength * cloud) * (brightest / (brightest + strength))


def plasma(noise: Tensor, decay: float) -> Tensor:
    """Fractal clouds from noise by the diamond-square algorithm on a torus.

    Args:
        noise: (B, S, S), uniform in [-1, 1), S a power of two.
        decay: its square divides the amplitude each time the distance of the points is halved.

    Returns:
        (B, S, S), from 0 to 1 in each image.

    Reference: A. Fournier, D. Fussell and L. Carpenter, "Computer rendering of stochastic models", CACM 1982.
    """
    heights = torch.zeros_like(noise)
    step, amplitude = noise.shape[-1], 1.0
    while step >= 2:
        known, middle = slice(None, None, step), slice(step // 2, None, step)
        corners = heights[:, known, known]
        across = corners + corners.roll(-1, 2)
        centres = (across + across.roll(-1, 1)) / 4 + amplitude * noise[:, middle, middle]
        heights[:, middle, middle] = centres
        sides = (across + centres + centres.roll(1, 1)) / 4
        heights[:, known, middle] = sides + amplitude * noise[:, known, middle]
        sides = (corners + corners.roll(-1, 1) + centres + centres.roll(1, 2)) / 4
        heights[:, middle, known] = sides + amplitude * noise[:, middle, known]
        step //= 2
        amplitude /= decay**2
    low, high = heights.amin((1, 2), keepdim=True), heights.amax((1, 2), keepdim=True)
    return (heights - low) / (high - low).clamp_min(torch.finfo(noise.dtype).tiny)


def _sample_snow(
    radius: int, sigma: float, reference: int | None, shape: Shape, generator: torch.Generator
) -> Params:
    weights = line_weights(radius, sigma, shrinkage(shape, reference))
    x, y = line_offsets(uniform(shape[0], *_SNOW_ANGLES, generator), len(weights))
    noise = gaussian((shape[0], 1, *shape[2:]), generator)
    return {"noise": noise, "x": x, "y": y, "weights": weights.expand(shape[0], -1)}


def _snow(
    settings: tuple[float, float, float, float, float], reference: int | None, images: Tensor, params: Params
) -> Tensor:
    mean, std, size, threshold, mix = settings
    width, height = images.shape[2:]
    size = max(1.0, size * shrinkage(images.shape, reference))
    flakes = zoomed(mean + std * params["noise"].to(images.dtype), size)
    flakes = flakes.masked_fill(flakes < threshold, 0).clamp_(0, 1)
    flakes = smear(flakes, params["x"], params["y"], params["weights"])[..., :width, :height]
    flakes = (flakes * 255).round() / 255
    white = torch.maximum(images, grey(images) * 1.5 + 0.5)
    return mix * images + (1 - mix) * white + flakes + flakes.flip(2, 3)


def _lattices(shape: Shape) -> list[int]:
    """Lattice points along a side, octave by octave, none finer than the pixels."""
    return [_COARSEST * 2**k for k in range(_OCTAVES) if k == 0 or _COARSEST * 2**k <= min(shape[2:])]


def _sample_frost(shape: Shape, generator: torch.Generator) -> Params:
    points = sum(side**2 for side in _lattices(shape))
    return {"noise": gaussian((shape[0], points), generator)}


def _frost(image: float, ice: float, images: Tensor, params: Params) -> Tensor:
    return image * images + ice * _ice(images, params["noise"].to(images.dtype))


def _ice(images: Tensor, noise: Tensor) -> Tensor:
    """Texture (B, 1, X, Y) in [0, 1]: ridges where smooth noise is near 0, finer ones along coarser ones."""
    octaves = _lattices(images.shape)
    texture, along = torch.zeros_like(images[:, :1]), torch.ones_like(images[:, :1])
    for part, side in zip(noise.split([side**2 for side in octaves], 1), octaves, strict=True):
        lattice = part.view(-1, 1, side, side)
        field = F.interpolate(lattice, size=images.shape[2:], mode="bicubic", align_corners=True)
        ridge = 1 / (1 + 4 * field.abs())
        texture = texture + along * ridge
        along = 0.8 * along * (0.3 + ridge)
    centred = texture - texture.mean((1, 2, 3), keepdim=True)
    spread = centred.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    return (0.5 + 0.2 * centred / spread).clamp(0, 1)
