"""Turning square images by multiples of 90 or 45 degrees or by any angle, a batch at once on its device.

Positive is counter-clockwise as the picture is seen (x to the right, y down). Four rotations move pixels and
change no value. Eight rotations cannot do without resampling, and what resampling leaves behind would tell a
network odd from even multiples of 45 degrees. So all eight, and any other angle, go through one filter whose
kernel depends on the distance alone, and through one circular mask before and after it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import RandomizableTransform, Transform

from robustmed_monai.transforms.adapters import SeededDictTransform
from robustmed_monai.transforms.batch_affine import apply_affine, memory_format
from robustmed_monai.transforms.same_grid import placed_like
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.transforms.volume_slices import resize_to_square
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

ROTATIONS = (4, 8)
MODES = ("isotropic", "bilinear")
# Cut-off of the low pass in cycles per pixel, and the reach of its kernel in pixels: the passband ends where
# the corners of a square spectrum begin, so nothing anisotropic is left to resample.
_CUTOFF, _REACH = 0.34, 7
_RESIZE_CUTOFF = 0.44
_EDGE = 4.0  # width in pixels of the mask's soft edge


def check_rotations(num_rotations: int, mode: str = "isotropic") -> None:
    """Raise ConfigError for another number of rotations than 4 or 8, or an unknown mode."""
    if num_rotations not in ROTATIONS:
        raise ConfigError(
            f"num_rotations={num_rotations}; choose 4 (multiples of 90 degrees) or 8 (multiples of 45)."
        )
    if mode not in MODES:
        raise ConfigError(f"mode={mode!r}; choose one of {', '.join(MODES)}.")


def degrees(index: int, num_rotations: int) -> float:
    """Angle of rotation class ``index`` in degrees, counter-clockwise.

    >>> degrees(3, 8)
    135.0
    """
    return index % num_rotations * 360 / num_rotations


def rotate(
    images: torch.Tensor, index: torch.Tensor | int, num_rotations: int = 4, mode: str = "isotropic"
) -> torch.Tensor:
    """Turn each image by its own multiple of 360 / ``num_rotations`` degrees.

    Args:
        images: (B, C, S, S), for 4 rotations of any range and type, for 8 in [0, 1] (``unit_range``).
        index: rotation class of each image, (B,) or one for all; any whole number, negative ones turn back.
        num_rotations: 4 (exact) or 8.
        mode: how eight rotations resample. "isotropic": all through the same low pass and circular mask.
            "bilinear": as ``torch.nn.functional.grid_sample`` does it, the even ones unchanged; a network can
            read off odd or even from blur and corners, so this is for comparison only.

    Returns:
        (B, C, S, S), in the memory format of ``images``.

    Raises:
        ConfigError: for other numbers of rotations or modes.
        ImageShapeError: when the images are not square or the indices do not fit.
        ImageError: when eight rotations are asked for of images that are not in [0, 1].

    Example:
        >>> rotate(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 2).flatten()
        tensor([4., 3., 2., 1.])
    """
    check_rotations(num_rotations, mode)
    _check_square(images)
    turns = torch.as_tensor(index, device=images.device).expand(images.shape[0]) % num_rotations
    if num_rotations == 4:
        return _quarter_turns(images, turns).contiguous(memory_format=memory_format(images))
    images = unit_range(images, "eight rotations")
    if mode == "bilinear":
        return _bilinear(images, turns).contiguous(memory_format=memory_format(images))
    if isinstance(index, int):
        return rotate_by(images, degrees(index, 8))
    even, odd = _filtered(images)
    half = torch.where((turns % 2 == 1)[:, None, None, None], odd, even)
    return _quarter_turns(half, turns // 2).contiguous(memory_format=memory_format(images))


def rotate_by(images: torch.Tensor, angle: float, mode: str = "isotropic") -> torch.Tensor:
    """Turn images by any angle.

    Args:
        images: (B, C, S, S) in [0, 1].
        angle: degrees, counter-clockwise as the picture is seen.
        mode: "isotropic": all angles through the filter and the circular mask of eight rotations, so that
            nothing gives the angle away. "bilinear": plain resampling with black corners, multiples of 90
            degrees unchanged.

    Returns:
        (B, C, S, S), in the memory format of ``images``; at multiples of 45 degrees what ``rotate`` gives.

    Raises:
        ConfigError: for an unknown mode.
        ImageShapeError: when the images are not square.
        ImageError: when they are not in [0, 1].

    Example:
        >>> images = torch.rand(1, 1, 8, 8)
        >>> torch.equal(rotate_by(images, -90), rotate(images, 6, 8))
        True
    """
    check_rotations(8, mode)
    _check_square(images)
    images = unit_range(images, "rotation by any angle")
    # The remainder of a tiny negative angle is 360.
    angle = angle % 360 % 360
    eighths = torch.full((len(images),), angle / 45, device=images.device, dtype=torch.float64)
    if mode == "bilinear":
        return _bilinear(images, eighths).contiguous(memory_format=memory_format(images))
    turned = _quarter_turns(_filtered(images, [angle % 90])[0], eighths // 2)
    return turned.contiguous(memory_format=memory_format(images))


def all_rotations(images: torch.Tensor, num_rotations: int = 4, mode: str = "isotropic") -> torch.Tensor:
    """All rotations of all images: rotation k of image b is row ``b * num_rotations + k``.

    Args:
        images: see ``rotate``.
        num_rotations: 4 (exact) or 8.
        mode: see ``rotate``.

    Returns:
        (B * num_rotations, C, S, S), in the memory format of ``images``.

    Raises:
        ConfigError: for other numbers of rotations or modes.
        ImageShapeError: when the images are not square.
        ImageError: as ``rotate``.
    """
    check_rotations(num_rotations, mode)
    _check_square(images)
    images = images if num_rotations == 4 else unit_range(images, "eight rotations")
    if num_rotations == 8 and mode == "bilinear":
        rows = images.repeat_interleave(8, 0)
        return rotate(rows, rotation_labels(len(images), 8, images.device), 8, mode)
    starts = [images] if num_rotations == 4 else _filtered(images)
    turned = [torch.rot90(start, quarter, (-1, -2)) for quarter in range(4) for start in starts]
    return torch.stack(turned, 1).flatten(0, 1).contiguous(memory_format=memory_format(images))


def rotation_labels(count: int, num_rotations: int = 4, device: torch.device | str = "cpu") -> torch.Tensor:
    """Rotation classes of the rows of ``all_rotations`` of ``count`` images.

    >>> rotation_labels(2, 4)
    tensor([0, 1, 2, 3, 0, 1, 2, 3])
    """
    return torch.arange(num_rotations, device=device).repeat(count)


@lru_cache(maxsize=16)
def circular_mask(size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """The disk that eight rotations keep, (size, size): 1 inside, falling smoothly to 0 at the border."""
    places = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    radius = torch.hypot(places[:, None], places[None])
    depth = ((size / 2 - radius) / _EDGE).clamp(0, 1)
    return (0.5 - 0.5 * torch.cos(math.pi * depth)).float().to(device)


def resample(images: torch.Tensor, size: int) -> torch.Tensor:
    """Bring square images to another size by a filter that blurs alike everywhere and in all directions.

    Linear interpolation from 28 to 32 pixels leaves a beat, sharp where the grids meet and soft between, that
    would turn with the image and give the angle away.

    Args:
        images: (B, C, S, S) in [0, 1].
        size: side of the result in pixels.

    Returns:
        (B, C, size, size) in [0, 1].

    Raises:
        ImageShapeError: when the images are not square.
        ImageError: when they are not in [0, 1].
    """
    _check_square(images)
    images = unit_range(images, "resample")
    if images.shape[-1] == size:
        return images
    return _apply(images, size, _RESIZE_CUTOFF, 0.0, border=True).clamp(0, 1)


def to_square(images: torch.Tensor, size: int) -> torch.Tensor:
    """Bring square images (B, C, S, S) in [0, 1] to ``size``, alike in all directions; see ``resample``."""
    # Far larger ones are first brought near by MONAI's anti-aliased resizing, whose grid is gone afterwards.
    near = resize_to_square(images, 2 * size) if images.shape[-1] > 2 * size else images
    return resample(near, size)


class RotateK(Transform):
    """Turn one image by a fixed multiple of 360 / ``num_rotations`` degrees; see ``rotate``.

    The affine of a MetaTensor stays as it is: the transform stands for an image that is stored the wrong way
    round, which no header tells.

    Args:
        index: rotation class.
        num_rotations: 4, for any values, or 8.
        mode: see ``rotate``; eight rotations take [0, 1] alone, see ``unit_range``.
    """

    def __init__(self, index: int, num_rotations: int = 4, mode: str = "isotropic") -> None:
        check_rotations(num_rotations, mode)
        self.index = index
        self.num_rotations = num_rotations
        self.mode = mode

    def __call__(self, img: NdarrayOrTensor, index: int | None = None) -> torch.Tensor:
        """Turn ``img`` (C, S, S) by ``index``, or by the one of the constructor."""
        image = torch.as_tensor(img)
        plain = image.as_subclass(torch.Tensor)
        plain = plain.float() if self.num_rotations == 4 else unit_range(plain, "RotateK").float()
        turned = rotate(plain[None], self.index if index is None else index, self.num_rotations, self.mode)[0]
        return placed_like(turned, image) if isinstance(image, MetaTensor) else turned


class RandRotateK(RandomizableTransform):
    """Turn one image by a random multiple of 360 / ``num_rotations`` degrees, 0 included.

    Args:
        num_rotations: 4 or 8.
        prob: probability of turning at all.
        mode: see ``rotate``.

    Attributes:
        index: the rotation class last drawn.
    """

    def __init__(self, num_rotations: int = 4, prob: float = 1.0, mode: str = "isotropic") -> None:
        RandomizableTransform.__init__(self, prob)
        self.rotate = RotateK(0, num_rotations, mode)
        self.index = 0

    def randomize(self, data: Any = None) -> None:
        """Draw the rotation class."""
        super().randomize(None)
        drawn = int(self.R.randint(self.rotate.num_rotations))
        self.index = drawn if self._do_transform else 0

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> torch.Tensor:
        """Turn ``img`` (C, S, S)."""
        if randomize:
            self.randomize()
        return self.rotate(img, self.index)


class RandRotateKd(SeededDictTransform):
    """Dictionary version of RandRotateK: one draw for all keys; its class is stored under ``index_key``.

    Args:
        keys: keys of images.
        num_rotations: 4 or 8.
        prob: probability of turning at all.
        mode: see ``rotate``.
        index_key: key of the rotation class.
        allow_missing_keys: do not raise when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        num_rotations: int = 4,
        prob: float = 1.0,
        mode: str = "isotropic",
        index_key: str = "rotation",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandRotateK(num_rotations, prob, mode), allow_missing_keys)
        self.index_key = index_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the images turned and the rotation class."""
        return {**super().__call__(data), self.index_key: self.transform.index}


def _quarter_turns(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    quarter = turns[:, None, None, None]
    turned = torch.where(quarter % 2 == 1, images.transpose(-1, -2), images)
    turned = torch.where((quarter == 1) | (quarter == 2), turned.flip(-1), turned)
    return torch.where(quarter >= 2, turned.flip(-2), turned)


def _filtered(images: torch.Tensor, angles: Sequence[float] = (0.0, 45.0)) -> list[torch.Tensor]:
    """The images low-passed as they lie after a turn by each of some angles in degrees."""
    size = images.shape[-1]
    mask = circular_mask(size, images.device).to(images.dtype)
    turned = [_apply(images * mask, size, _CUTOFF, angle) * mask for angle in angles]
    # Far below one grey level the two still differ, and in a band without signal even that could be read.
    return [(values.clamp(0, 1) * 255).round() / 255 for values in turned]


@lru_cache(maxsize=32)
def _operator(
    size: int, out_size: int, cutoff: float, degrees: float, border: bool, device: torch.device
) -> torch.Tensor:
    """Matrix (out_size^2, size^2): the image under the radial kernel, read on another or turned grid.

    With ``border`` what lies outside of the image does not count; else it is black.
    """
    shrink = max(1.0, size / out_size)
    reach = math.ceil(_REACH * shrink)
    places = (torch.arange(out_size, dtype=torch.float64) - (out_size - 1) / 2) * (size / out_size)
    x, y = (grid.flatten()[:, None] for grid in torch.meshgrid(places, places, indexing="ij"))
    angle = math.radians(degrees)
    # Where the value at (x, y) came from: turned back by the angle.
    source_x = x * math.cos(angle) - y * math.sin(angle) + (size - 1) / 2
    source_y = x * math.sin(angle) + y * math.cos(angle) + (size - 1) / 2
    steps = torch.arange(1 - reach, reach + 1)
    step_x, step_y = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    near_x, near_y = source_x.floor().long() + step_x, source_y.floor().long() + step_y
    weights = _kernel(torch.hypot(near_x - source_x, near_y - source_y) / shrink, cutoff)
    inside = (weights != 0) & (near_x >= 0) & (near_x < size) & (near_y >= 0) & (near_y < size)
    weights = weights / (weights * inside if border else weights).sum(1, keepdim=True)
    rows = torch.arange(out_size**2)[:, None].expand_as(inside)[inside]
    matrix = torch.sparse_coo_tensor(
        torch.stack([rows, (near_x * size + near_y)[inside]]),
        weights[inside].float(),
        (out_size**2, size**2),
        check_invariants=True,
    )
    # Up to 64 pixels the dense matrix is several times as fast; above, it would not fit into memory.
    return (matrix.to_dense() if max(size, out_size) <= 64 else matrix.coalesce()).to(device)


def _apply(
    images: torch.Tensor, out_size: int, cutoff: float, angle: float, border: bool = False
) -> torch.Tensor:
    size = images.shape[-1]
    columns = images.reshape(-1, size * size).T.float()
    values = torch.mm(_operator(size, out_size, cutoff, angle, border, images.device), columns)
    return values.T.reshape(*images.shape[:2], out_size, out_size).to(images.dtype)


def _kernel(radius: torch.Tensor, cutoff: float) -> torch.Tensor:
    """A circular low pass (jinc) under a Hann window: the same in all directions."""
    argument = 2 * math.pi * cutoff * radius
    jinc = torch.where(argument > 1e-6, torch.special.bessel_j1(argument) / argument.clamp(min=1e-6), 0.5)
    window = torch.cos(math.pi / 2 * (radius / _REACH).clamp(max=1)) ** 2
    return jinc * window


def _bilinear(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    angle = turns.to(torch.float64) * (math.pi / 4)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid's first coordinate runs along the last axis, which is y.
    matrices = torch.stack([torch.stack([cos, sin, zero], 1), torch.stack([-sin, cos, zero], 1)], 1)
    turned = apply_affine(images, matrices)
    even = _quarter_turns(images, turns // 2)
    return torch.where((turns % 2 != 0)[:, None, None, None], turned, even)


def _check_square(images: torch.Tensor) -> None:
    if images.ndim != 4 or images.shape[-1] != images.shape[-2]:
        raise ImageShapeError(
            f"images of shape {tuple(images.shape)} cannot be turned; give square ones, (B, C, S, S)."
        )
