"""Noise: Gaussian, shot, impulse, speckle, one factor for the whole image, and lost pixels."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from robustmed_monai.transforms.corruption.core import (
    Corruption,
    bernoulli,
    constant,
    gaussian,
    sample_uniform,
    uniform,
)
from robustmed_monai.transforms.params import Params, Shape, per_image
from robustmed_monai.utils.errors import ConfigError

_DIMS = (2, 3)
_MOST_PHOTONS = 700  # exp(-745) is 0 in float64


def gaussian_noise(std: float, max_std: float | None = None, name: str = "gaussian_noise") -> Corruption:
    """Add white noise, independent for each channel.

    Args:
        std: standard deviation, in units of the range [0, 1].
        max_std: when given, each image's variance is uniform between ``std`` squared and its square.
        name: what to call it.

    Raises:
        ConfigError: when the bounds are not 0 <= std <= max_std.
    """
    high = std if max_std is None else max_std
    if not 0 <= std <= high:
        raise ConfigError(f"{name}: std={std}, max_std={max_std}; give 0 <= std <= max_std.")
    return Corruption(name, partial(_sample_gaussian, std**2, high**2), _add, _DIMS)


def _sample_gaussian(low: float, high: float, shape: Shape, generator: torch.Generator) -> Params:
    std = uniform(shape[0], low, high, generator).sqrt()
    noise = gaussian(shape, generator)
    return {"noise": noise.mul_(per_image(std, noise))}


def _add(images: Tensor, params: Params) -> Tensor:
    noise: Tensor = params["noise"]
    return images + noise


def speckle_noise(std: float) -> Corruption:
    """Add noise in proportion to the image: x + x n, with n of standard deviation ``std``."""
    return Corruption("speckle_noise", partial(_sample_gaussian, std**2, std**2), _speckle, _DIMS)


def _speckle(images: Tensor, params: Params) -> Tensor:
    return images.addcmul(images, params["noise"].to(images.dtype))


def shot_noise(rate: float) -> Corruption:
    """Count photons: Poisson(``rate`` x) / ``rate``.

    Args:
        rate: photons of a white pixel, above 0 and up to 700; the fewer, the noisier.

    Raises:
        ConfigError: for another rate.
    """
    if not 0 < rate <= _MOST_PHOTONS:
        raise ConfigError(
            f"shot_noise: rate={rate}; give the photons of a white pixel, above 0 and up to {_MOST_PHOTONS}."
        )
    return Corruption("shot_noise", partial(_sample_shot, rate), _shot, _DIMS)


def _sample_shot(rate: float, shape: Shape, generator: torch.Generator) -> Params:
    return {"rate": constant(shape[0], rate), "u": torch.rand(*shape, generator=generator)}


def _shot(images: Tensor, params: Params) -> Tensor:
    rate = per_image(params["rate"], images)
    return poisson_quantile(params["u"], images * rate).to(images.dtype) / rate


def poisson_quantile(u: Tensor, mean: Tensor) -> Tensor:
    """Smallest k with P(Poisson(mean) <= k) >= u: Poisson numbers from uniform ones, the same on any device.

    Args:
        u: uniform numbers in [0, 1).
        mean: means >= 0, same shape; up to 700, where exp(-mean) still is a float64.

    Returns:
        Counts, float64, same shape.

    Example:
        >>> poisson_quantile(torch.tensor([0.0, 0.5, 0.99]), torch.tensor([3.0, 3.0, 3.0])).tolist()
        [0.0, 3.0, 8.0]
    """
    left, mean = u.to(torch.float64).flatten(), mean.to(torch.float64).flatten()
    counts = torch.zeros_like(left)
    place = torch.arange(left.numel(), device=left.device)
    chance = torch.exp(-mean)
    left, k = left - chance, 0
    # float32 knows no number between 1 - 2^-24 and 1, so no count lies beyond this one.
    last = float(mean.max() + 8 * mean.max().sqrt() + 20) if mean.numel() else 0.0
    while k < last and place.numel():
        k += 1
        open_ = left > 0
        if k % 8 == 1:
            place, left, mean, chance = (t[open_] for t in (place, left, mean, chance))
            counts[place] = float(k)
        else:
            counts[place] += open_
        chance = chance * mean / k
        left = left - chance
    return counts.view(u.shape)


def impulse_noise(amount: float) -> Corruption:
    """Set a share of all values to black or white, half each, every channel by itself.

    Args:
        amount: share of the values, in [0, 1].
    """
    return Corruption("impulse_noise", partial(_sample_impulse, amount), _impulse, _DIMS)


def _sample_impulse(amount: float, shape: Shape, generator: torch.Generator) -> Params:
    return {"amount": constant(shape[0], amount), "u": torch.rand(*shape, generator=generator)}


def _impulse(images: Tensor, params: Params) -> Tensor:
    half, u = per_image(params["amount"] / 2, images), params["u"]
    return images.masked_fill(u < half, 0.0).masked_fill_(u >= 1 - half, 1.0)


def pixel_dropout(prob: float = 0.01) -> Corruption:
    """Set each pixel, all its channels together, to 0 with probability ``prob`` (PixelDropout).

    Raises:
        ConfigError: for no probability in [0, 1].
    """
    if not 0 <= prob <= 1:
        raise ConfigError(f"pixel_dropout: prob={prob}; give a probability, 0 to 1.")
    return Corruption("pixel_dropout", partial(_sample_dropout, prob), _drop, _DIMS)


def _sample_dropout(prob: float, shape: Shape, generator: torch.Generator) -> Params:
    return {"dropped": bernoulli((shape[0], 1, *shape[2:]), prob, generator)}


def _drop(images: Tensor, params: Params) -> Tensor:
    return images.masked_fill(params["dropped"], 0.0)


def multiplicative_noise(low: float = 0.9, high: float = 1.1) -> Corruption:
    """Multiply the whole image by one factor in [low, high) (MultiplicativeNoise)."""
    return Corruption(
        "multiplicative_noise", partial(sample_uniform, {"factor": (low, high)}), _multiply, _DIMS
    )


def _multiply(images: Tensor, params: Params) -> Tensor:
    return images * per_image(params["factor"], images)
