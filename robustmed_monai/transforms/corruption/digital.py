"""What storing and resampling do to an image: pixelation, JPEG compression, elastic warping."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from robustmed_monai.transforms.blur import gaussian_blur
from robustmed_monai.transforms.corruption.core import Corruption, sample_nothing
from robustmed_monai.transforms.corruption.optics import apply_rows, chunks, shrinkage
from robustmed_monai.transforms.params import Params, Shape
from robustmed_monai.utils.errors import ConfigError


def pixelate(factor: float) -> Corruption:
    """Shrink with PIL's BOX filter to ``int(factor * side)`` pixels and enlarge again by repeating pixels.

    PIL's BOX and NEAREST enlarge alike, so this is both ImageNet-C's pixelate (NEAREST) and MedMNIST-C's
    (BOX). Where the sides divide evenly, BOX is the "area" mode of torch and MONAI.

    Args:
        factor: share of the side that is left, in (0, 1].

    Raises:
        ConfigError: when the factor is outside.
    """
    if not 0 < factor <= 1:
        raise ConfigError(f"pixelate: factor={factor}; give a share of the side, above 0 and up to 1.")
    return Corruption("pixelate", sample_nothing, partial(_pixelate, factor))


def jpeg_compression(quality: int) -> Corruption:
    """Encode as JPEG and decode, to the bit as Pillow (libjpeg) does, but for the whole batch at once.

    The image is rounded to 8 bits first. Three channels are RGB and lose half of their colour resolution
    (4:2:0); any other number of channels are grey images of their own.

    Args:
        quality: Pillow's quality, 1 (worst) to 100.

    Raises:
        ConfigError: when the quality is outside.

    References: ITU-T T.81 (tables of annex K); C. Loeffler, A. Ligtenberg and G. S. Moschytz, "Practical fast
    1-D DCT algorithms with 11 multiplications", ICASSP 1989.
    """
    if not 1 <= quality <= 100:
        raise ConfigError(f"jpeg_compression: quality={quality}; give 1 to 100.")
    return Corruption("jpeg_compression", sample_nothing, partial(_jpeg, int(quality)))


def elastic_transform(alpha: float, reference: int | None = None) -> Corruption:
    """Warp by smoothed noise, border mirrored: ImageNet-C as imagecorruptions has it, without an affine part.

    The displacement is uniform noise within 0.5 % of the image's Y side, smoothed by a Gaussian of 1 % of
    each side, times ``alpha``: about ``0.08 alpha`` pixels, whatever the size of the image.

    Args:
        alpha: strength, 0 or more.
        reference: side of the images that ``alpha`` is meant for: on smaller images it shrinks with the
            shorter side. Without it, it stays.

    Raises:
        ConfigError: when the strength is negative.
    """
    if alpha < 0:
        raise ConfigError(f"elastic_transform: alpha={alpha}; give 0 or more.")
    return Corruption("elastic_transform", _sample_elastic, partial(_elastic, alpha, reference))


def _pixelate(factor: float, images: Tensor, params: Params) -> Tensor:
    for axis, side in ((2, images.shape[2]), (3, images.shape[3])):
        small = max(1, int(side * factor))
        images = apply_rows(images, axis, _box_matrix(side, small))
        # Centre of a pixel in pixels of the small image, in whole numbers: a tie goes to the upper one.
        source = (2 * torch.arange(side, device=images.device) + 1) * small // (2 * side)
        images = images.index_select(axis, source)
    return images


@lru_cache(maxsize=64)
def _box_matrix(source: int, target: int) -> NDArray[np.float64]:
    """Matrix (target, source) of PIL's BOX: the mean of the pixels whose centres a target pixel covers."""
    scale = source / target
    centres = (np.arange(target)[:, None] + 0.5) * scale
    away = (np.arange(source) + 0.5 - centres) / scale
    covered = (away > -0.5) & (away <= 0.5)
    shares: NDArray[np.float64] = covered / covered.sum(1, keepdims=True)
    return shares


# T.81, tables K.1 and K.2: steps of the frequencies, rows downwards in the image, at quality 50
_LUMINANCE = """
    16 11 10 16 24 40 51 61     12 12 14 19 26 58 60 55     14 13 16 24 40 57 69 56
    14 17 22 29 51 87 80 62     18 22 37 56 68 109 103 77   24 35 55 64 81 104 113 92
    49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMINANCE = """
    17 18 24 47 99 99 99 99     18 21 26 66 99 99 99 99     24 26 56 99 99 99 99 99
    47 66 99 99 99 99 99 99     99 99 99 99 99 99 99 99     99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99     99 99 99 99 99 99 99 99"""
# Cosines of the transform times 2^13, rounded where libjpeg rounds: even rows act on sums, odd on differences
_EVEN = ((8192, 8192, 8192, 8192), (10703, 4433, -4433, -10703), (8192, -8192, -8192, 8192))
_EVEN_LAST = (4433, -10704, 10704, -4433)
_ODD = (
    (11363, 9633, 6437, 2260),
    (9633, -2259, -11362, -6436),
    (6437, -11362, 2261, 9633),
    (2260, -6436, 9633, -11363),
)


@lru_cache(maxsize=1)
def _cosines() -> Tensor:
    """Matrix (8 frequencies, 8 pixels) of whole numbers, in float64, which multiplies them exactly."""
    matrix = np.zeros((8, 8))
    matrix[::2, :4] = (*_EVEN, _EVEN_LAST)
    matrix[1::2, :4] = _ODD
    matrix[::2, 4:] = matrix[::2, 3::-1]
    matrix[1::2, 4:] = -matrix[1::2, 3::-1]
    return torch.from_numpy(matrix)


def _steps(table: str, quality: int) -> Tensor:
    """Quantisation steps (8 along Y, 8 along X)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    base: NDArray[np.float64] = np.array(table.split(), np.float64).reshape(8, 8)
    return torch.from_numpy(np.clip((base * scale + 50) // 100, 1, 255))


def _jpeg(quality: int, images: Tensor, params: Params) -> Tensor:
    luminance, chrominance = (
        _steps(table, quality).to(images.device) for table in (_LUMINANCE, _CHROMINANCE)
    )
    parts = []
    for part in chunks(images):
        levels = (part.clamp(0, 1) * 255).round().to(torch.float64)
        if levels.shape[1] == 3:
            coded = _code_colours(levels, luminance, chrominance)
        else:
            coded = _code(levels, luminance)
        parts.append((coded / 255).to(images.dtype))
    return torch.cat(parts)


def _code_colours(levels: Tensor, luminance: Tensor, chrominance: Tensor) -> Tensor:
    """Encode and decode (B, 3, X, Y) whole numbers 0 to 255 as YCbCr, in libjpeg's 16-bit fixed point."""
    red, green, blue = levels.unbind(1)
    light = _fixed(19595 * red + 38470 * green + 7471 * blue)
    # One below a half: libjpeg lets the halves of the colours fall.
    colours = torch.stack(
        [
            _fixed(-11059 * red - 21709 * green + 32768 * blue - 1) + 128,
            _fixed(32768 * red - 27439 * green - 5329 * blue - 1) + 128,
        ],
        1,
    )
    light = _code(light, luminance)
    cb, cr = (_double(_code(_halve(colours), chrominance), light.shape) - 128).unbind(1)
    rgb = [
        light + _fixed(91881 * cr),
        light + _fixed(-22554 * cb - 46802 * cr),
        light + _fixed(116130 * cb),
    ]
    return torch.stack(rgb, 1).clamp_(0, 255)


def _fixed(values: Tensor) -> Tensor:
    return _shift(values, 16)


def _shift(values: Tensor, bits: int) -> Tensor:
    """Divide whole numbers by a power of two and round, halves up."""
    return (values * 2.0**-bits + 0.5).floor_()


def _halve(planes: Tensor) -> Tensor:
    """Mean of 2 x 2 pixels; a quarter rounds down in even columns, up to a half in odd ones."""
    planes = _extend(planes, 16, 2)  # libjpeg fills up blocks along X before it halves, along Y after
    sums = planes[..., ::2, :] + planes[..., 1::2, :]
    sums = sums[..., ::2] + sums[..., 1::2]
    bias = 1 + torch.arange(sums.shape[-2], device=sums.device) % 2
    return ((sums + bias[:, None]) / 4).floor_()


def _double(planes: Tensor, shape: torch.Size) -> Tensor:
    """Enlarge twice, weights 3/4 and 1/4, and cut to ``shape``: libjpeg's "fancy upsampling"."""
    for axis, side in ((-1, shape[-1]), (-2, shape[-2])):
        planes = planes.narrow(axis, 0, (side + 1) // 2)
        last = planes.shape[axis] - 1
        before = torch.cat([planes.narrow(axis, 0, 1), planes.narrow(axis, 0, last)], axis)
        after = torch.cat([planes.narrow(axis, 1, last), planes.narrow(axis, last, 1)], axis)
        both = torch.stack([3 * planes + before, 3 * planes + after], axis if axis == -1 else -2)
        planes = both.flatten(-2) if axis == -1 else both.flatten(-3, -2)
    bias = 8 - torch.arange(planes.shape[-2], device=planes.device) % 2
    return ((planes + bias[:, None]) / 16).floor_()[..., : shape[-2], : shape[-1]]


def _extend(planes: Tensor, x: int, y: int) -> Tensor:
    """Repeat the last pixels until the sides are multiples of x and y."""
    for axis, step in ((-2, x), (-1, y)):
        missing = -planes.shape[axis] % step
        edge = planes.narrow(axis, planes.shape[axis] - 1, 1)
        planes = torch.cat([planes, *[edge] * missing], axis)
    return planes


def _code(planes: Tensor, steps: Tensor) -> Tensor:
    """Encode and decode planes (..., X, Y) of whole numbers 0 to 255."""
    width, height = planes.shape[-2:]
    planes = _extend(planes, 8, 8)
    shape = planes.shape
    # (..., X blocks, 8 along X, Y blocks, 8 along Y) to (N, 8 along Y, 8 along X)
    blocks = planes.reshape(-1, shape[-2] // 8, 8, shape[-1] // 8, 8).permute(0, 1, 3, 4, 2)
    cosines = _cosines().to(planes.device)
    # X first on the way there, Y first on the way back, each rounded as libjpeg does between the two
    there = _shift((blocks - 128) @ cosines.T, 11).transpose(-1, -2)
    there = _shift(there @ cosines.T, 15).transpose(-1, -2)
    kept = ((there.abs() + 4 * steps) / (8 * steps)).floor_() * there.sign() * steps
    back = _shift(kept.transpose(-1, -2) @ cosines, 11).transpose(-1, -2)
    back = (_shift(back @ cosines, 18) + 128).clamp_(0, 255)
    return back.permute(0, 1, 4, 2, 3).reshape(shape)[..., :width, :height]


def _sample_elastic(shape: Shape, generator: torch.Generator) -> Params:
    return {"noise": torch.rand(shape[0], 2, *shape[2:], generator=generator) * 2 - 1}


def _elastic(alpha: float, reference: int | None, images: Tensor, params: Params) -> Tensor:
    width, height = images.shape[2:]
    moves = params["noise"].to(images.dtype) * (0.005 * height * alpha * shrinkage(images.shape, reference))
    moves = gaussian_blur(moves, (0.01 * width, 0.01 * height), truncate=3.0)
    places = []
    for axis, side in enumerate((width, height)):
        pixels = torch.arange(side, device=images.device, dtype=images.dtype)
        pixels = pixels.view(-1, 1) if axis == 0 else pixels
        places.append((2 * (pixels + moves[:, axis]) + 1) / side - 1)
    # grid_sample names the last axis of the image first.
    grid = torch.stack(places[::-1], -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
