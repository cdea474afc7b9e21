"""Blurs of a lens and of a shaking or moving camera: ImageNet-C's defocus, motion and zoom blur.

Lengths are in pixels. ``reference`` names the side of the images that they were chosen for (224 for
ImageNet-C): on an image whose shorter side is smaller, the kernel shrinks with it, each of its weights shared
linearly by the pixels around its place; on a larger one it stays. Without ``reference`` it always stays.
Sums are made of shifted images in a fixed order, so an image's bits do not depend on its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from robustmed_monai.transforms.corruption.core import Corruption, sample_nothing, uniform
from robustmed_monai.transforms.params import Params, Shape, per_image
from robustmed_monai.utils.errors import ConfigError

_CHUNK = 2**19  # values that are worked on at a time: what the caches of a processor hold


def defocus_blur(radius: float, alias: float, reference: int | None = None) -> Corruption:
    """Blur with a disc, border mirrored without repeating the edge.

    Args:
        radius: radius of the disc in pixels, above 0; whole when above 8.
        alias: standard deviation of the Gaussian (3 pixels wide, 5 for a radius above 8) that softens the
            disc's edge, in pixels, above 0. As in the original, it is mirrored at the edge of a kernel that
            the disc fills, which lets a disc of radius 8 or 10 brighten the image by 1 %.
        reference: side of the images that the lengths are meant for, see the module.

    Raises:
        ConfigError: when a length is not positive.

    Source: D. Hendrycks and T. Dietterich, "Benchmarking neural network robustness to common corruptions and
    perturbations", ICLR 2019 (ImageNet-C).
    """
    _check_lengths("defocus_blur", radius=radius, alias=alias, reference=reference)
    return Corruption("defocus_blur", sample_nothing, partial(_defocus, radius, alias, reference))


def motion_blur(
    radius: int, sigma: float, reference: int | None = None, angles: tuple[float, float] = (-45.0, 45.0)
) -> Corruption:
    """Smear to one side along a line at a random angle, with half a Gaussian of weights; border repeated.

    This is ImageMagick's motion blur. imagecorruptions 1.1.2 leaves out what would come from outside the
    image instead of repeating the border, which darkens images smaller than ``2 radius + 1``.

    Args:
        radius: the line has ``2 radius + 1`` pixels.
        sigma: standard deviation of the Gaussian, in pixels, above 0.
        reference: side of the images that the lengths are meant for, see the module.
        angles: range of the angle, in degrees from the X towards the Y axis.

    Raises:
        ConfigError: when a length is not positive.
    """
    _check_lengths("motion_blur", radius=radius, sigma=sigma, reference=reference)
    return Corruption("motion_blur", partial(_sample_motion, radius, sigma, reference, angles), _smear_image)


def zoom_blur(factors: Sequence[float]) -> Corruption:
    """Average the image and its enlargements about the centre.

    Args:
        factors: enlargements, each at least 1; the image itself counts once more.

    Raises:
        ConfigError: when there is none or one is below 1.
    """
    if not factors or min(factors) < 1:
        raise ConfigError(f"zoom_blur: factors={list(factors)}; give at least one, all 1 or more.")
    return Corruption("zoom_blur", sample_nothing, partial(_zoom_blur, tuple(map(float, factors))))


def shrinkage(shape: Shape, reference: int | None) -> float:
    """Factor, at most 1, for lengths that are meant for images with sides of ``reference`` pixels."""
    return 1.0 if reference is None else min(1.0, min(shape[2:]) / reference)


def chunks(images: Tensor) -> tuple[Tensor, ...]:
    """Cut a batch into runs of images that fit the caches."""
    parts: tuple[Tensor, ...] = images.split(chunk_rows(images.shape))
    return parts


def chunk_rows(shape: Shape) -> int:
    """Images of a batch of this shape that :func:`chunks` takes at a time."""
    return max(1, _CHUNK // max(1, math.prod(shape[1:])))


def apply_rows(images: Tensor, axis: int, matrix: NDArray[np.float64]) -> Tensor:
    """Multiply one axis by a matrix with few entries in a row, term by term.

    A library's matrix product may add up in another order for another batch; this one never does.

    Args:
        images: (B, C, X, Y).
        axis: 2 for X, 3 for Y.
        matrix: (new side, old side).
    """
    terms = int((matrix != 0).sum(1).max())
    columns = np.sort(np.argsort(matrix == 0, axis=1, kind="stable")[:, :terms], axis=1)
    weights = torch.from_numpy(np.take_along_axis(matrix, columns, 1)).to(images)
    places = torch.from_numpy(columns).to(images.device)
    parts = [_add_rows(part.mT if axis == 3 else part, places, weights) for part in chunks(images)]
    return torch.cat([part.mT for part in parts] if axis == 3 else parts)


def _add_rows(images: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    images = images.contiguous()  # rows in one piece are copied many times faster
    total = images.index_select(2, places[:, 0]) * weights[:, :1]
    for place, weight in zip(places.unbind(1)[1:], weights.unbind(1)[1:], strict=True):
        total.addcmul_(images.index_select(2, place), weight[:, None])
    return total


def line_offsets(angles: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Pixels of lines that start at the origin.

    Args:
        angles: (B,), in degrees from the X towards the Y axis.
        length: number of pixels of a line.

    Returns:
        Offsets along X and along Y, each (B, length).

    Example:
        >>> [axis.tolist() for axis in line_offsets(torch.tensor([45.0]), 4)]
        [[[0, 1, 1, 2]], [[0, 1, 1, 2]]]
    """
    steps = torch.arange(length, dtype=torch.float64)
    radians = angles.to(torch.float64).deg2rad()[:, None]
    x, y = ((steps * along - 0.5).ceil().long() for along in (radians.cos(), radians.sin()))
    return x, y


def line_weights(radius: int, sigma: float, scale: float) -> Tensor:
    """Weights of a motion blur, (length,): half a Gaussian of sum 1, shrunk by ``scale``."""
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    shrunk = _shrink_axis(0, 2 * radius, scale) @ (weights / weights.sum())
    return torch.from_numpy(shrunk.astype(np.float32))


def smear(images: Tensor, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of shifted copies of each image, its border repeated.

    Args:
        images: (B, C, X, Y).
        x: (B, T) offsets along X from where the pixels are taken, below T in magnitude.
        y: (B, T) offsets along Y.
        weights: (B, T).

    Returns:
        Images (B, C, X, Y).
    """
    rows = chunk_rows(images.shape)
    parts = (tensor.split(rows) for tensor in (images, x, y, weights.to(images.dtype)))
    return torch.cat([_smear(*part) for part in zip(*parts, strict=True)])


def _smear(images: Tensor, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    rows, channels, width, height = images.shape
    margin = x.shape[1] - 1
    padded = F.pad(images, [margin] * 4, mode="replicate")
    stride = height + 2 * margin
    # Every run of `height` values along Y, wherever it starts: whole lines of the image are copied at once.
    lines = padded.as_strided((max(padded.numel() - height + 1, 0), height), (1, 1))
    planes = torch.arange(rows * channels, device=images.device).view(rows, channels, 1)
    columns = torch.arange(width, device=images.device)
    first = (planes * (width + 2 * margin) + columns + margin) * stride + margin
    jumps = x * stride + y
    total = torch.zeros_like(images)
    for tap in range(x.shape[1]):
        places = first + jumps[:, tap].view(rows, 1, 1)
        shifted = lines.index_select(0, places.flatten()).view(images.shape)
        total.addcmul_(shifted, per_image(weights[:, tap], images))
    return total


def zoomed(images: Tensor, factor: float) -> Tensor:
    """Enlarge the centre of images linearly; the result is a little larger than the image, never smaller.

    Args:
        images: (B, C, X, Y).
        factor: 1 or more.
    """
    sizes = []
    for axis, side in enumerate(images.shape[2:], start=2):
        part = math.ceil(side / factor)
        images = images.narrow(axis, (side - part) // 2, part)
        sizes.append(round(part * factor))
    return F.interpolate(images, size=sizes, mode="bilinear", align_corners=True)


def _zoom_blur(factors: Sequence[float], images: Tensor, params: Params) -> Tensor:
    return torch.cat([_mean_zoom(part, factors) for part in chunks(images)])


def _mean_zoom(images: Tensor, factors: Sequence[float]) -> Tensor:
    width, height = images.shape[2:]
    total = images.clone()
    for factor in factors:
        total += zoomed(images, factor)[..., :width, :height]
    return total / (len(factors) + 1)


def _sample_motion(
    radius: int,
    sigma: float,
    reference: int | None,
    angles: tuple[float, float],
    shape: Shape,
    generator: torch.Generator,
) -> Params:
    weights = line_weights(radius, sigma, shrinkage(shape, reference))
    x, y = line_offsets(uniform(shape[0], *angles, generator), len(weights))
    return {"x": x, "y": y, "weights": weights.expand(shape[0], -1)}


def _smear_image(images: Tensor, params: Params) -> Tensor:
    return smear(images, params["x"], params["y"], params["weights"])


def _defocus(radius: float, alias: float, reference: int | None, images: Tensor, params: Params) -> Tensor:
    kernel = _disc(radius, alias, shrinkage(images.shape, reference))
    return torch.cat([_correlate(part, kernel) for part in chunks(images)])


def _correlate(images: Tensor, kernel: NDArray[np.float64]) -> Tensor:
    """Correlate with a kernel that is even along both axes, border mirrored without the edge."""
    reach = len(kernel) // 2
    for axis, side in ((2, images.shape[2]), (3, images.shape[3])):
        source = torch.from_numpy(np.pad(np.arange(side), reach, mode="reflect"))
        images = images.index_select(axis, source.to(images.device))
    width, height = (side - 2 * reach for side in images.shape[2:])
    # A mirrored pair of shifts shares its weight, so the two are added first.
    pairs = [images[..., reach : reach + height]]
    pairs += [
        images[..., reach + k : reach + k + height] + images[..., reach - k : reach - k + height]
        for k in range(1, reach + 1)
    ]
    total = torch.zeros_like(pairs[0][:, :, :width])
    for j in range(reach + 1):
        weights = kernel[reach + j, reach:]
        line = torch.zeros_like(pairs[0])
        for weight, pair in zip(weights, pairs, strict=True):
            if weight:
                line.add_(pair, alpha=float(weight))
        total += line[:, :, reach + j : reach + j + width]
        if j:
            total += line[:, :, reach - j : reach - j + width]
    return total


@lru_cache(maxsize=64)
def _disc(radius: float, alias: float, scale: float) -> NDArray[np.float64]:
    reach = 8 if radius <= 8 else int(radius)
    offsets = np.arange(-reach, reach + 1)
    inside = offsets[:, None] ** 2 + offsets**2 <= radius**2
    disc = inside / inside.sum()
    half = 1 if radius <= 8 else 2
    soft = np.exp(-0.5 * (np.arange(-half, half + 1) / alias) ** 2)
    soft /= soft.sum()
    for _ in range(2):
        padded = np.pad(disc, ((half, half), (0, 0)), mode="reflect")
        disc = np.tensordot(soft, np.stack([padded[k : k + len(disc)] for k in range(len(soft))]), 1).T
    shrink = _shrink_axis(-reach, reach, scale)
    kernel: NDArray[np.float64] = shrink @ disc @ shrink.T
    used = np.flatnonzero(kernel.max(0) > 1e-9)
    return kernel[used[0] : used[-1] + 1, used[0] : used[-1] + 1]


def _shrink_axis(first: int, last: int, scale: float) -> NDArray[np.float64]:
    """Matrix that moves weights at ``first`` to ``last`` to ``scale`` times their place, shared linearly."""
    places = np.arange(first, last + 1) * scale
    pixels = np.arange(math.floor(places[0]), math.ceil(places[-1]) + 1)
    shares: NDArray[np.float64] = np.clip(1 - np.abs(pixels[:, None] - places), 0, None)
    return shares


def _check_lengths(name: str, **lengths: float | None) -> None:
    wrong = [f"{key}={value}" for key, value in lengths.items() if value is not None and not value > 0]
    if wrong:
        raise ConfigError(f"{name}: {', '.join(wrong)}; give a length in pixels above 0.")
