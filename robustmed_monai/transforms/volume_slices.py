"""Volumes to upright stacks of square slices on a 2-D network's grid, and back onto the source's grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Resize
from monai.transforms.inverse import InvertibleTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor

from robustmed_monai.transforms.image_checks import check_affine, check_finite, check_shape
from robustmed_monai.transforms.same_grid import has_voxel_size, image_name, placed_as_first, placed_like
from robustmed_monai.utils.errors import ConfigError, ImageShapeError, NonFiniteImageError

ResizeMode: TypeAlias = Literal["bilinear", "nearest"]
_MODES = ("bilinear", "nearest")
# A volume one voxel thick is a single slice, whatever its direction; these show it with the head up.
_SINGLE_SLICE_AXCODES = {"R": "PIR", "L": "PIR", "A": "RIA", "P": "RIA", "S": "RPS", "I": "RPS"}
# What is darker than this share of the brightest percentile is air, and so are this many of the outermost.
_AIR, _BRIGHTEST, _OUTLIERS = 0.1, 99.5, 0.002
# A slice with no larger share of pixels above air is empty.
_SPECKS = 0.001


@dataclass(frozen=True)
class SliceGeometry:
    """Where the pixels of a stack of slices lie in its source.

    Attributes:
        spatial_shape: spatial shape of the source, (X, Y) or (X, Y, Z).
        flips: source axes that were reversed.
        order: source axis behind each of the axes (slice x, slice y, slice number).
        size: side of the slices in pixels.
        step: distance between pixels along slice x and y, in voxels of the source.
        first: centre of the first pixel along slice x and y, in voxels of the turned source.
    """

    spatial_shape: tuple[int, ...]
    flips: tuple[int, ...]
    order: tuple[int, int, int]
    size: int
    step: tuple[float, float]
    first: tuple[float, float]

    @property
    def turned_shape(self) -> tuple[int, int, int]:
        """Shape (x, y, slices) of the source once its axes are turned."""
        shape = (*self.spatial_shape, 1)[:3]
        return cast(tuple[int, int, int], tuple(shape[axis] for axis in self.order))

    @property
    def fits_image(self) -> bool:
        """Whether the slices show the whole image, padded to a square, whatever its voxel size."""
        side = max(self.turned_shape[:2])
        return (self.step, self.first) == _fit(self.turned_shape, side, self.size)

    def matrix(self) -> Tensor:
        """(4, 4) matrix from pixels (x, y, slice) of the stack to voxels of the source, float64."""
        matrix = torch.zeros(4, 4, dtype=torch.float64)
        matrix[3, 3] = 1
        for place, axis in enumerate(self.order):
            step, first = (self.step[place], self.first[place]) if place < 2 else (1.0, 0.0)
            flipped = axis in self.flips
            matrix[axis, place] = -step if flipped else step
            matrix[axis, 3] = self.turned_shape[place] - 1 - first if flipped else first
        return matrix


class VolumeToSlices(InvertibleTransform):
    """Turn a volume upright and cut it into square slices of a network's size and pixel size.

    The axes are turned to ``axcodes`` (exactly, by flips and permutations). With ``spacing``, an image that
    knows its voxel size is resampled within the slices to that pixel size, the middle of its foreground in
    the middle of the slices: the same head gives the same slices at any in-plane voxel size and field of
    view. Without it, and for pictures, which have no voxel size, the image is padded to a centred square and
    resized. Slices are never resampled across; a 2-D image and a volume one voxel thick are one slice.

    ``inverse``, which ``monai.transforms.Invertd`` calls, brings maps of the slices back onto the grid of the
    source.

    Args:
        size: side of the slices in pixels; None: as many as the image needs.
        spacing: size of a pixel in mm, that of the network's training images; None: see above.
        axcodes: orientation as in ``monai.transforms.Orientation``; "RPS" gives axial slices, nose up.
        mode: "bilinear" for images; "nearest" for labels and masks.
        anti_aliasing: average over the area of each pixel, and where the image is fitted smooth before
            shrinking, as ``monai.transforms.Resize`` does it ("bilinear" only).

    Raises:
        ConfigError: an argument is out of range.

    Example:
        >>> cut = VolumeToSlices(16)
        >>> slices = cut(torch.ones(1, 20, 24, 5))
        >>> slices.shape, cut.inverse(slices).shape
        (torch.Size([1, 16, 16, 5]), torch.Size([1, 20, 24, 5]))
    """

    def __init__(
        self,
        size: int | None = None,
        spacing: float | None = None,
        axcodes: str = "RPS",
        mode: ResizeMode = "bilinear",
        anti_aliasing: bool = True,
    ) -> None:
        super().__init__()
        if size is not None and size < 1:
            raise ConfigError(f"size is {size}; give a side of at least 1 pixel.")
        if spacing is not None and not 0 < spacing < float("inf"):
            raise ConfigError(f"spacing is {spacing}; give the size of a pixel in mm, above 0.")
        _check_mode(mode)
        self.size = size
        self.spacing = spacing
        self.axcodes = axcodes
        self.mode: ResizeMode = mode
        self.anti_aliasing = anti_aliasing

    def __call__(
        self, image: NdarrayOrTensor, geometry: SliceGeometry | None = None, mode: ResizeMode | None = None
    ) -> MetaTensor:
        """Cut an image.

        Args:
            image: (C, X, Y, Z) or (C, X, Y); a ``MetaTensor`` brings its affine, anything else has none.
            geometry: that of another image on the same grid; None makes it from this one.
            mode: in place of that of the constructor.

        Returns:
            (C, size, size, S) float32 ``MetaTensor``; its affine says where the slices lie.

        Raises:
            ImageError: the image has the wrong shape, complex or non-finite values, or an unusable affine.
        """
        plain, affine = plain_image(image)
        where = geometry or self._geometry(plain, affine, has_voxel_size(image))
        name = mode or self.mode
        turned = (plain if plain.ndim == 4 else plain[..., None]).flip([axis + 1 for axis in where.flips])
        stack = turned.permute(where.order[2] + 1, 0, where.order[0] + 1, where.order[1] + 1)
        cut = _resample(stack, where, name, self.anti_aliasing).permute(1, 2, 3, 0).contiguous()
        result = placed_like(cut, image)
        extra = {"geometry": where, "mode": name}
        push: Any = self.push_transform
        pushed: MetaTensor = push(result, orig_size=tuple(plain.shape[1:]), extra_info=extra)
        pushed.affine = affine @ where.matrix()
        return pushed

    def geometry(self, image: NdarrayOrTensor) -> SliceGeometry:
        """Where the slices of an image lie."""
        return self._geometry(*plain_image(image), has_voxel_size(image))

    def _geometry(self, plain: Tensor, affine: Tensor, sized: bool) -> SliceGeometry:
        shape = tuple(plain.shape[1:])
        flips, order = _orientation(affine, shape, self.axcodes)
        shown = cast(tuple[int, int, int], tuple((*shape, 1)[axis] for axis in order))
        if self.spacing is None or not sized:
            side = max(shown[:2])
            size = side if self.size is None else self.size
            step, first = _fit(shown, side, size)
            return SliceGeometry(shape, flips, order, size, step, first)
        voxel = affine[:3, :3].norm(dim=0)
        step = cast(tuple[float, float], tuple(float(self.spacing / voxel[axis]) for axis in order[:2]))
        needed = max(int(np.ceil(n / s)) for n, s in zip(shown, step, strict=False))
        # An even number: the pixels lie about the middle alike, however much air there is.
        size = needed + needed % 2 if self.size is None else self.size
        box = foreground_box(upright(plain, flips, order))
        middle = [sum(ends) / 2 for ends in box]
        first = cast(
            tuple[float, float], tuple(m - (size - 1) / 2 * s for m, s in zip(middle, step, strict=True))
        )
        return SliceGeometry(shape, flips, order, size, step, first)

    def inverse(self, data: Tensor) -> MetaTensor:
        """Put maps of the slices back onto the grid of the source.

        Args:
            data: (C, size, size, S) ``MetaTensor`` with this transform as the last one applied, any number of
                channels.

        Returns:
            (C, X, Y[, Z]) float32 with the affine of the source, 0 where no slice lay. Exact when nothing was
            resampled.

        Raises:
            ImageShapeError: the maps do not fit the slices.
        """
        if not isinstance(data, MetaTensor):
            raise ImageShapeError("maps: no MetaTensor, so nothing says where their slices lie; use Invertd.")
        extra = self.pop_transform(data)["extra_info"]
        where: SliceGeometry = extra["geometry"]
        mode = mode_back(extra["mode"])
        check_maps(data, (where.size, where.size, where.turned_shape[2]))
        stack = data.detach().as_subclass(Tensor).float().permute(3, 0, 1, 2)
        turned = _resample_back(stack, where, mode).permute(1, 2, 3, 0)
        back = turned.permute(0, *(int(axis) + 1 for axis in np.argsort(where.order)))
        volume = back.flip([axis + 1 for axis in where.flips])
        volume = volume.reshape(volume.shape[0], *where.spatial_shape).contiguous()
        result = placed_like(volume, data)
        result.affine = data.affine @ torch.linalg.inv(where.matrix())
        return result


class VolumeToSlicesd(MapTransform, InvertibleTransform):
    """Dictionary version of :class:`VolumeToSlices`; all keys get the slices of the first.

    Args:
        keys: images on one grid; the first says where the slices lie.
        size: see :class:`VolumeToSlices`.
        spacing: see :class:`VolumeToSlices`.
        axcodes: see :class:`VolumeToSlices`.
        mode: one for all keys or one each.
        anti_aliasing: see :class:`VolumeToSlices`.
        allow_missing_keys: do not raise when a key is missing.

    Raises:
        ImageShapeError: when applied to images on grids of different shape.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int | None = None,
        spacing: float | None = None,
        axcodes: str = "RPS",
        mode: ResizeMode | Sequence[ResizeMode] = "bilinear",
        anti_aliasing: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mode: tuple[Any, ...] = ensure_tuple_rep(mode, len(self.keys))
        for name in self.mode:
            _check_mode(name)
        self.cut = VolumeToSlices(size, spacing, axcodes, anti_aliasing=anti_aliasing)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with slices in place of the images."""
        return placed_as_first(data, self.key_iterator(data, self.mode), self.cut.geometry, self.cut)

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the maps on the grid of the source."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.cut.inverse(result[key])
        return result


def upright(plain: Tensor, flips: Sequence[int], order: Sequence[int]) -> Tensor:
    """An image (C, X, Y[, Z]) with axes flipped and ordered as those of a ``SliceGeometry``, (C, X, Y, Z)."""
    whole = plain if plain.ndim == 4 else plain[..., None]
    return whole.flip([axis + 1 for axis in flips]).permute(0, *(axis + 1 for axis in order))


def mode_back(mode: Any) -> ResizeMode:
    """Mode of the way back; ``Invertd(nearest_interp=True)`` writes the plain name, of whatever class."""
    return "nearest" if "nearest" in str(mode) else "bilinear"


def check_maps(data: Tensor, expected: Sequence[int]) -> None:
    """Refuse maps that are not (C, *expected)."""
    if data.ndim != 4 or tuple(data.shape[1:]) != tuple(expected):
        raise ImageShapeError(
            f"maps: expected shape (C, {', '.join(map(str, expected))}), got {tuple(data.shape)}; pass "
            "the maps of all slices of this image."
        )


def filled_slices(stack: Tensor) -> Tensor:
    """Indices (N,) of the slices of a stack (C, X, Y, S) that hold more than the noise of air.

    These are slices in which at least one pixel in a thousand is brighter than a tenth of the brightest pixel
    of the stack.

    Raises:
        NonFiniteImageError: when the stack holds NaN or infinite values.

    Example:
        >>> stack = torch.zeros(1, 4, 4, 3)
        >>> stack[..., 1], stack[..., 2] = 0.8, 0.05
        >>> filled_slices(stack)
        tensor([1])
    """
    plain = torch.as_tensor(stack).as_subclass(Tensor)
    flat = (plain if plain.is_floating_point() else plain.float()).flatten(0, -2).abs()
    if flat.numel() and not bool(torch.isfinite(flat.max())):
        raise NonFiniteImageError("the stack of slices holds NaN or infinite values; mask or replace them.")
    share = (flat > _AIR * flat.max()).float().mean(0)
    return torch.nonzero(share > _SPECKS).flatten()


def resize_to_square(
    images: Tensor, size: int, mode: ResizeMode = "bilinear", *, anti_aliasing: bool = True
) -> Tensor:
    """Pad images to centred squares with 0 and resize them.

    Args:
        images: (B, C, X, Y) float32.
        size: side of the result in pixels.
        mode: "bilinear" or "nearest".
        anti_aliasing: smooth before shrinking ("bilinear" only), as ``monai.transforms.Resize`` does it.

    Returns:
        (B, C, size, size) float32.
    """
    width, height = images.shape[2:]
    side = max(width, height)
    x, y = (side - width) // 2, (side - height) // 2
    square = F.pad(images, (y, side - height - y, x, side - width - x))
    return _resize(square, size, mode, anti_aliasing=anti_aliasing)


def _fit(shape: Sequence[int], side: int, size: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Step and first pixel of an image padded to a square of ``side`` and resized."""
    step = side / size
    x, y = ((step - 1) / 2 - (side - n) // 2 for n in shape[:2])
    return (step, step), (x, y)


def _resample(stack: Tensor, where: SliceGeometry, mode: ResizeMode, anti_aliasing: bool) -> Tensor:
    """(S, C, x, y) of the turned source to (S, C, size, size)."""
    if where.fits_image:
        return resize_to_square(stack, where.size, mode, anti_aliasing=anti_aliasing)
    for axis, (step, first) in enumerate(zip(where.step, where.first, strict=True)):
        places = first + step * torch.arange(where.size, dtype=torch.float64)
        stack = _sample(stack, 2 + axis, places, mode, step if anti_aliasing else 0.0)
    return stack.contiguous()


def _resample_back(stack: Tensor, where: SliceGeometry, mode: ResizeMode) -> Tensor:
    """(S, C, size, size) to (S, C, x, y) of the turned source."""
    shape = where.turned_shape[:2]
    if where.fits_image:
        side = max(shape)
        square = _resize(stack, side, mode, anti_aliasing=where.size > side)
        x, y = ((side - n) // 2 for n in shape)
        return square[:, :, x : x + shape[0], y : y + shape[1]]
    for axis, (size, first, step) in enumerate(zip(shape, where.first, where.step, strict=True)):
        places = (torch.arange(size, dtype=torch.float64) - first) / step
        stack = _sample(stack, 2 + axis, places, mode, 1 / step)
    return stack


def _sample(images: Tensor, axis: int, places: Tensor, mode: ResizeMode, width: float) -> Tensor:
    """Values along an axis at fractional places, 0 outside of the image.

    Linear interpolation, averaged over ``width`` old pixels about each place. With the width of a new pixel
    the result is equally sharp, in mm, whatever the old pixels were; with 0 it depends on where they lie.
    """
    size = images.shape[axis]
    if mode == "nearest":
        weights = torch.zeros(len(places), size, dtype=torch.float64)
        index = (places + 0.5).floor().long()
        inside = (index >= 0) & (index < size)
        weights[torch.arange(len(places))[inside], index[inside]] = 1
    else:
        away = places[:, None] - torch.arange(size, dtype=torch.float64)
        if width:
            weights = (_tent_below(away + width / 2) - _tent_below(away - width / 2)) / width
        else:
            weights = (1 - away.abs()).clamp(min=0)
    moved = images.movedim(axis, -1)
    return (moved @ weights.to(images).T).movedim(-1, axis)


def _tent_below(x: Tensor) -> Tensor:
    """Area below ``x`` of the weights of linear interpolation, a tent over [-1, 1] of area 1."""
    low, high = (x + 1).clamp(0, 1), (1 - x).clamp(0, 1)
    return torch.where(x < 0, low**2 / 2, 1 - high**2 / 2)


def foreground_box(image: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the foreground of (C, x, y, S) begins and ends along x and y, in voxels, but for outliers.

    An image without any gives its own edges.
    """
    grey = image.abs().amax(0)
    values = grey[grey > 0]
    if not len(values):
        return (-0.5, grey.shape[0] - 0.5), (-0.5, grey.shape[1] - 0.5)
    foreground = grey > _AIR * float(np.percentile(values.cpu().numpy(), _BRIGHTEST))
    found = []
    for axis in (0, 1):
        counts = foreground.sum([a for a in range(3) if a != axis]).double()
        share = counts.cumsum(0) / counts.sum()
        # Between voxels, so that a finer grid has its ends at the same places.
        ends = np.interp([_OUTLIERS, 1 - _OUTLIERS], [0.0, *share.tolist()], np.arange(len(share) + 1) - 0.5)
        found.append((float(ends[0]), float(ends[1])))
    return found[0], found[1]


def _resize(images: Tensor, size: int, mode: ResizeMode, *, anti_aliasing: bool) -> Tensor:
    if images.shape[-1] == size:
        return images.contiguous()
    name = "nearest-exact" if mode == "nearest" else mode
    resize = Resize((size, size), mode=name, anti_aliasing=anti_aliasing and mode == "bilinear")
    # MONAI's transform takes one channel-first image: every slice and channel is a channel of it.
    flat: Tensor = resize(images.flatten(0, 1)).as_subclass(Tensor)
    result: Tensor = flat.unflatten(0, tuple(images.shape[:2])).contiguous()
    return result


def _check_mode(mode: str) -> None:
    if mode not in _MODES:
        raise ConfigError(f"mode is {mode!r}; choose one of {', '.join(_MODES)}.")


def plain_image(volume: NdarrayOrTensor) -> tuple[Tensor, Tensor]:
    """A checked image (C, X, Y[, Z]) as a plain float32 tensor, and its affine, float64 on the CPU."""
    affine: Any = volume.affine if isinstance(volume, MetaTensor) else np.eye(4)
    name = image_name(volume, "volume")
    is_complex = volume.is_complex() if isinstance(volume, Tensor) else np.iscomplexobj(volume)
    if is_complex:
        raise ImageShapeError(f"{name}: the values are complex, expected real ones; pass the magnitude.")
    if isinstance(volume, Tensor):
        image = volume.detach().as_subclass(Tensor).to(torch.float32)
    else:
        with np.errstate(over="ignore"):
            image = torch.from_numpy(np.array(volume, dtype=np.float32))
    check_shape(image.shape, name)
    check_finite(image.cpu().numpy(), name)
    return image, torch.as_tensor(check_affine(np.asarray(affine), name)).double()


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
