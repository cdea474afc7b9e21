"""Volumes to stacks of square axial slices for 2-D networks, and maps of slices back to the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import Resize
from torch import Tensor

from robustmed_monai.transforms.image_checks import Array, check_affine, check_finite, check_shape
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

ResizeMode: TypeAlias = Literal["bilinear", "nearest-exact"]
_MODES = ("bilinear", "nearest-exact")
# A volume one voxel thick is a single slice, whatever its direction; these show it with the head up.
_SINGLE_SLICE_AXCODES = {"R": "PIR", "L": "PIR", "A": "RIA", "P": "RIA", "S": "RPS", "I": "RPS"}


@dataclass(frozen=True)
class SliceGeometry:
    """How a stack of slices was cut from its source: all that is needed to put maps back.

    Attributes:
        spatial_shape: spatial shape of the source, (X, Y) or (X, Y, Z).
        affine: 4x4 voxel-to-world matrix of the source, float64, mm.
        flips: source axes that were reversed.
        order: source axis behind each of the axes (slice x, slice y, slice number).
        size: side of the slices in pixels.
        low: source intensity that became 0.
        high: source intensity that became 1.
    """

    spatial_shape: tuple[int, ...]
    affine: Tensor
    flips: tuple[int, ...]
    order: tuple[int, int, int]
    size: int
    low: float
    high: float

    @property
    def stack_shape(self) -> tuple[int, int, int]:
        """Shape (x, y, slices) of the oriented source, before padding and resizing."""
        shape = (*self.spatial_shape, 1)[:3]
        return cast(tuple[int, int, int], tuple(shape[axis] for axis in self.order))


def volume_to_slices(
    volume: NdarrayOrTensor,
    size: int | None = None,
    *,
    axcodes: str = "RPS",
    mode: ResizeMode = "bilinear",
    low: float = 0.0,
    high: float | None = None,
    upper_percentile: float = 99.5,
    anti_aliasing: bool = True,
) -> tuple[Tensor, SliceGeometry]:
    """Cut a volume into square slices in [0, 1] along the last axis of the chosen orientation.

    The volume is turned to ``axcodes`` (exactly, by flips and permutations), its intensities are scaled once
    for the whole volume and clipped, then each slice is padded to a square with 0 (centred) and resized. A
    2-D image is one slice and keeps its axes. A volume one voxel thick is one slice across that axis.

    Args:
        volume: (C, X, Y, Z) or (C, X, Y); a ``MetaTensor`` brings its affine, anything else has the identity
            (RAS).
        size: side of the slices in pixels; None: the longer side of the slice, so that nothing is resampled.
        axcodes: orientation as in ``monai.transforms.Orientation``; "RPS" gives axial slices, nose up.
        mode: ``"bilinear"`` for images; ``"nearest-exact"`` for labels and masks, whose values are then kept
            as they are (``low``, ``high`` and ``anti_aliasing`` do not apply).
        low: intensity that becomes 0; what is below becomes 0 too.
        high: intensity that becomes 1; None: ``upper_percentile`` of the foreground of the whole volume.
        upper_percentile: in (0, 100]; the foreground are the voxels above ``low``.
        anti_aliasing: smooth before shrinking, as ``monai.transforms.Resize`` does it.

    Returns:
        Slices (S, C, size, size) float32, and the geometry for :func:`slices_to_volume`. An image without
        foreground gives zeros, a constant one gives ones.

    Raises:
        ConfigError: an argument is out of range.
        ImageError: the volume has the wrong shape, complex or non-finite values, or an unusable affine.

    Example:
        >>> slices, geometry = volume_to_slices(torch.ones(1, 20, 24, 5), 16)
        >>> slices.shape, slices_to_volume(slices, geometry).shape
        (torch.Size([5, 1, 16, 16]), torch.Size([1, 20, 24, 5]))
    """
    _check_arguments(size, mode, low, high, upper_percentile)
    image, affine = _as_image(volume)
    spatial_shape = tuple(image.shape[1:])
    flips, order = _orientation(affine, spatial_shape, axcodes)
    if mode == "bilinear":
        top = _foreground_percentile(image, low, upper_percentile) if high is None else high
        image = ((image - low) / (top - low)).clamp(0, 1)
    else:
        low, top = 0.0, 1.0
    if image.ndim == 3:
        image = image.unsqueeze(-1)
    oriented = image.flip([axis + 1 for axis in flips]).permute(0, *(axis + 1 for axis in order))
    stack = oriented.permute(3, 0, 1, 2)
    side = max(stack.shape[2:]) if size is None else size
    geometry = SliceGeometry(spatial_shape, affine, flips, order, side, low, top)
    return resize_to_square(stack, side, mode, anti_aliasing=anti_aliasing), geometry


def filled_slices(stack: torch.Tensor) -> torch.Tensor:
    """Indices (N,) of the slices of a stack (S, C, X, Y) that hold anything but 0."""
    return torch.nonzero(stack.flatten(1).any(1)).flatten()


def slices_to_volume(
    slices: Tensor, geometry: SliceGeometry, *, mode: ResizeMode = "bilinear", rescale: bool = False
) -> MetaTensor:
    """Put maps of slices back onto the grid of the volume that the slices were cut from.

    Args:
        slices: (S, C, size, size), any number of channels, as many slices as were cut.
        geometry: from :func:`volume_to_slices`.
        mode: ``"bilinear"`` for maps and images, ``"nearest-exact"`` for masks and labels.
        rescale: turn [0, 1] back to the intensities of the source (for pseudo-healthy images, not for maps).

    Returns:
        (C, X, Y, Z) or (C, X, Y) float32 with the affine of the source. Exact when nothing was resized.

    Raises:
        ConfigError: unknown mode.
        ImageShapeError: the slices do not fit the geometry.
    """
    if mode not in _MODES:
        raise ConfigError(f"mode is {mode!r}; choose one of {', '.join(_MODES)}.")
    width, height, count = geometry.stack_shape
    expected = (count, geometry.size, geometry.size)
    if slices.ndim != 4 or (slices.shape[0], *slices.shape[2:]) != expected:
        raise ImageShapeError(
            f"slices: expected shape ({count}, C, {geometry.size}, {geometry.size}), got "
            f"{tuple(slices.shape)}; pass the "
            "maps of all slices of this geometry."
        )
    plain = torch.as_tensor(slices).detach().as_subclass(Tensor).to(torch.float32)
    side = max(width, height)
    square = _resize(plain, side, mode, anti_aliasing=geometry.size > side)
    x, y = (side - width) // 2, (side - height) // 2
    oriented = square[:, :, x : x + width, y : y + height].permute(1, 2, 3, 0)
    inverse = np.argsort(geometry.order).tolist()
    volume = oriented.permute(0, *(axis + 1 for axis in inverse)).flip([axis + 1 for axis in geometry.flips])
    if rescale:
        volume = volume * (geometry.high - geometry.low) + geometry.low
    volume = volume.reshape(volume.shape[0], *geometry.spatial_shape).contiguous()
    return MetaTensor(volume, affine=geometry.affine)


def resize_to_square(
    images: Tensor, size: int, mode: ResizeMode = "bilinear", *, anti_aliasing: bool = True
) -> Tensor:
    """Pad images to centred squares with 0 and resize them: the one path of training and inference.

    Args:
        images: (B, C, X, Y) float32.
        size: side of the result in pixels.
        mode: ``"bilinear"`` or ``"nearest-exact"``.
        anti_aliasing: smooth before shrinking (bilinear only), as ``monai.transforms.Resize`` does it.

    Returns:
        (B, C, size, size) float32.
    """
    width, height = images.shape[2:]
    side = max(width, height)
    x, y = (side - width) // 2, (side - height) // 2
    square = F.pad(images, (y, side - height - y, x, side - width - x))
    return _resize(square, size, mode, anti_aliasing=anti_aliasing)


def _resize(images: Tensor, size: int, mode: ResizeMode, *, anti_aliasing: bool) -> Tensor:
    if images.shape[-1] == size:
        return images.contiguous()
    resize = Resize((size, size), mode=mode, anti_aliasing=anti_aliasing and mode == "bilinear")
    # MONAI's transform takes one channel-first image: every slice and channel is a channel of it.
    flat: Tensor = resize(images.flatten(0, 1)).as_subclass(Tensor)
    result: Tensor = flat.unflatten(0, tuple(images.shape[:2])).contiguous()
    return result


def _check_arguments(size: int | None, mode: str, low: float, high: float | None, percentile: float) -> None:
    if size is not None and size < 1:
        raise ConfigError(f"size is {size}; give a side of at least 1 pixel.")
    if mode not in _MODES:
        raise ConfigError(f"mode is {mode!r}; choose one of {', '.join(_MODES)}.")
    if high is not None and not high > low:
        raise ConfigError(f"high is {high} and low {low}; high must be larger.")
    if not 0 < percentile <= 100:
        raise ConfigError(f"upper_percentile is {percentile}; choose it in (0, 100].")


def _as_image(volume: NdarrayOrTensor) -> tuple[Tensor, Tensor]:
    affine: Any = volume.affine if isinstance(volume, MetaTensor) else np.eye(4)
    is_complex = volume.is_complex() if isinstance(volume, Tensor) else np.iscomplexobj(volume)
    if is_complex:
        raise ImageShapeError("volume: the values are complex, expected real ones; pass the magnitude.")
    if isinstance(volume, Tensor):
        image = volume.detach().as_subclass(Tensor).to(torch.float32)
    else:
        with np.errstate(over="ignore"):
            image = torch.from_numpy(np.array(volume, dtype=np.float32))
    check_shape(image.shape, "volume")
    check_finite(image.cpu().numpy(), "volume")
    return image, torch.as_tensor(check_affine(np.asarray(affine), "volume"))


def _foreground_percentile(image: Tensor, low: float, percentile: float) -> float:
    values: Array = image[image > low].cpu().numpy()
    top = float(np.percentile(values, percentile)) if values.size else low
    return top if top > low else low + 1.0


def _orientation(
    affine: Tensor, shape: tuple[int, ...], axcodes: str
) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    if len(shape) == 2:
        return (), (0, 1, 2)
    if len(axcodes) != 3 or any(
        sum(axcodes.count(letter) for letter in pair) != 1 for pair in ("RL", "AP", "SI")
    ):
        raise ConfigError(f"axcodes is {axcodes!r}; use one letter each of RL, AP and SI, as 'RPS'.")
    wanted = nib.orientations.axcodes2ornt(tuple(axcodes))
    turn = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine.numpy()), wanted)
    order = [int(axis) for axis in np.argsort(turn[:, 0])]
    flips = tuple(axis for axis in range(3) if turn[axis, 1] == -1)
    thin = [place for place, axis in enumerate(order) if shape[axis] == 1]
    if len(thin) == 1 and thin != [2]:
        return _orientation(affine, shape, _SINGLE_SLICE_AXCODES[axcodes[thin[0]]])
    return flips, (order[0], order[1], order[2])
