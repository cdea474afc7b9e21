"""Contrast limited adaptive histogram equalisation (CLAHE) of a whole batch on its device.

RA's anomaly map rests on the equalised images, so every rounding of ``skimage.exposure.equalize_adapthist``
is reproduced and the results are the same numbers; only the loops over images, tiles and bins are gone.

References:
    K. Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV, 1994, pp. 474-485.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor

from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

__all__ = ["EqualizeAdaptHist", "EqualizeAdaptHistD", "EqualizeAdaptHistd", "equalize_adapthist"]

_LEVELS = 2**14  # grey levels of the algorithm; a constant of scikit-image, not of the paper
# table entries handled at once: on a CPU few enough that the allocator keeps its pages (twice as fast)
_CPU_WORK = 2**18
_DEVICE_WORK = 2**26


@torch.no_grad()
def equalize_adapthist(
    images: Tensor, kernel_size: int | Sequence[int] | None = None, clip_limit: float = 0.01, nbins: int = 256
) -> Tensor:
    """Equalise every channel by itself, as ``skimage.exposure.equalize_adapthist`` does a 2-D image.

    An image is first stretched to its own minimum and maximum, so the result hardly depends on gain and
    offset. A constant image becomes what scikit-image makes of it: 1, or 0 if its tiles map it to 0.

    Args:
        images: (B, C, X, Y) in [0, 1], see ``unit_range``. Half types are computed in float32.
        kernel_size: tile shape in pixels, one number or one per axis; default an eighth of each side.
        clip_limit: largest share of a tile's pixels in one bin, range [0, 1]; 0 or 1 switches the limit off.
        nbins: grey bins of a tile's histogram, range [2, 1024].

    Returns:
        Equalised images in [0, 1], same shape and device, float32 (float64 for float64 input); no gradient.

    Raises:
        ImageShapeError: if `images` is not (B, C, X, Y) or is empty.
        ImageError: if the images are of a type without a white, leave [0, 1] or are not finite.
        ConfigError: if a setting is out of its range.

    Source:
        Facts of the algorithm: scikit-image 0.26, ``skimage.exposure.equalize_adapthist``.

    Example:
        >>> ramp = torch.linspace(0.2, 0.6, 64).expand(1, 1, 64, 64)
        >>> out = equalize_adapthist(ramp)
        >>> out.shape, out.min().item(), out.max().item()
        (torch.Size([1, 1, 64, 64]), 0.0, 1.0)
    """
    kernel, limit = _check_settings(images, kernel_size, clip_limit, nbins)
    images = unit_range(images, "equalize_adapthist")
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    size = (images.shape[2], images.shape[3])
    flat = images.reshape(-1, *size).to(dtype).contiguous()
    plan = _plan(size, kernel, nbins, images.device)

    work = max(size[0] * size[1], plan.tiles[0] * plan.tiles[1] * nbins)  # largest table that an image needs
    at_once = max(1, (_CPU_WORK if images.device.type == "cpu" else _DEVICE_WORK) // work)
    return torch.cat([_equalize(part, plan, limit, nbins) for part in flat.split(at_once)]).view(images.shape)


def _equalize(flat: Tensor, plan: _Plan, limit: int, nbins: int) -> Tensor:
    """Equalise images (N, X, Y); the steps of the algorithm in order."""
    bins = _grey_bins(flat, nbins)
    maps = _tile_maps(bins, plan, limit, nbins)
    mapped = _interpolate(maps, bins, plan).to(flat.dtype)
    return _stretch(mapped)


class _Plan(NamedTuple):
    """What depends on shapes only: the tiles of pixels and the weights of the four tiles around each."""

    tiles: tuple[int, int]
    pixels: int  # pixels of a tile
    exact: bool  # whether tile maps times weights are whole numbers
    reflect: tuple[Tensor, Tensor] | None  # row and column indices that fill the last tiles
    tile_offset: Tensor  # int32 (X', Y'): first bin of the tile that counts the pixel
    # for the tiles before and after along x: first bin of the pair along y, int32 (X, Y), and its two weights
    pairs: tuple[tuple[Tensor, Tensor, Tensor], ...]


@lru_cache(maxsize=8)
def _plan(size: tuple[int, int], kernel: tuple[int, int], nbins: int, device: torch.device) -> _Plan:
    filled = [-(-s // k) * k for s, k in zip(size, kernel, strict=True)]
    tiles = (filled[0] // kernel[0], filled[1] // kernel[1])
    tile_x, tile_y = (np.arange(f) // k for f, k in zip(filled, kernel, strict=True))
    # weights are multiples of 1 / pixels; with 2^m pixels, m <= 10, their products with 14-bit levels and the
    # sums of these fit float32, so that scikit-image never rounds and whole numbers do the same, faster
    pixels = kernel[0] * kernel[1]
    exact = pixels <= 1024 and pixels & (pixels - 1) == 0

    def put(array: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(array, dtype=dtype, device=device)

    # centres of tiles lie half a tile in, hence between pixel and tile the shift k // 2
    (x, weight_x), (y, weight_y) = (
        ((np.arange(s) + k // 2) // k, (np.arange(k) / k)[(np.arange(s) + k // 2) % k])
        for s, k in zip(size, kernel, strict=True)
    )
    pairs = []
    for tile, row_weight in ((x - 1, 1 - weight_x), (x, weight_x)):
        first_bin = (tile.clip(0, tiles[0] - 1)[:, None] * (tiles[1] + 1) + y) * nbins
        weights = (row_weight[:, None] * column_weight for column_weight in (1 - weight_y, weight_y))
        left, right = (put(w * pixels, torch.int32) if exact else put(w, torch.float64) for w in weights)
        pairs.append((put(first_bin, torch.int32), left, right))

    reflect = None
    if filled != list(size):
        fill = [np.pad(np.arange(s), (0, f - s), mode="reflect") for s, f in zip(size, filled, strict=True)]
        reflect = (put(fill[0], torch.int32), put(fill[1], torch.int32))
    tile_offset = put((tile_x[:, None] * tiles[1] + tile_y) * nbins, torch.int32)
    return _Plan(tiles, pixels, exact, reflect, tile_offset, tuple(pairs))


def _grey_bins(flat: Tensor, nbins: int) -> Tensor:
    """Histogram bin of every pixel, int32 (N, X, Y)."""
    levels = flat.mul(2**16 - 1).round_().float()
    low, high = levels.amin((1, 2), keepdim=True), levels.amax((1, 2), keepdim=True)
    constant = low == high  # is not stretched, its 16-bit level is only cut at the last of the 2^14
    span = torch.where(constant, _LEVELS - 1, high - low)
    levels = levels.sub_(low.masked_fill(constant, 0)).double()  # the second rounding has ties: needs double
    levels.div_(span.double()).mul_(_LEVELS - 1).round_()
    bin_size = 1 + _LEVELS // nbins
    # a reciprocal a little too large never cuts a whole quotient to the bin below
    bins = levels.mul_((1 + 1e-9) / bin_size).to(torch.int32)
    return bins.clamp_(0, (_LEVELS - 1) // bin_size)


def _tile_maps(bins: Tensor, plan: _Plan, limit: int, nbins: int) -> Tensor:
    """Grey level that each tile gives to each bin, int32 (N, *tiles, nbins)."""
    if plan.reflect is not None:
        bins = bins.index_select(1, plan.reflect[0]).index_select(2, plan.reflect[1])
    n_bins = plan.tiles[0] * plan.tiles[1] * nbins
    counted = (bins + plan.tile_offset).add_(_image_offset(bins, n_bins)).flatten()
    hist = torch.bincount(counted, minlength=len(bins) * n_bins).to(torch.int32).view(-1, nbins)
    _clip_histograms(hist, limit, plan.pixels)
    cumulated = hist.cumsum(1, dtype=torch.int32).to(torch.float32 if plan.exact else torch.float64)
    levels = cumulated.mul_((_LEVELS - 1) / plan.pixels).clamp_max_(_LEVELS - 1).to(torch.int32)
    return levels.view(-1, *plan.tiles, nbins)


def _image_offset(bins: Tensor, per_image: int) -> Tensor:
    """Number of the first entry of each image in a table of `per_image` entries an image, int32 (N, 1, 1)."""
    return torch.arange(len(bins), dtype=torch.int32, device=bins.device)[:, None, None] * per_image


def _clip_histograms(hist: Tensor, limit: int, pixels: int) -> None:
    """Cut every bin at `limit`, hand the pixels cut off to bins below it, in scikit-image's order, in place.

    The pixels still to hand out are always `pixels` less the sum of the histogram. First all bins get an
    equal share; then pass i gives one pixel to each bin i, i + step, i + 2 step ... that has room, where the
    step follows from the room and the rest at that moment. Only histograms with a rest go on to the next.
    """
    nbins = hist.shape[1]
    hist.clamp_max_(limit)
    if pixels - limit >= nbins:  # else no share reaches one pixel
        share = (pixels - hist.sum(1, keepdim=True, dtype=torch.int32)) // nbins
        hist.add_(share).masked_fill_(hist >= limit - share, limit)

    combs = _combs(nbins, hist.device)
    no_room = max(0, pixels - nbins * limit)  # the rest that is left when every bin is full
    rest = pixels - hist.sum(1, dtype=torch.int32)
    rest -= _hand_out(hist, rest, limit, combs[:, nbins:])
    rows = (rest > no_room).nonzero().squeeze(1)
    rest = rest.index_select(0, rows)
    start = 1
    while len(rows) > 0:
        part = hist.index_select(0, rows)
        rest -= _hand_out(part, rest, limit, combs[:, nbins - start : 2 * nbins - start])
        hist.index_copy_(0, rows, part)
        going_on = (rest > no_room).nonzero().squeeze(1)
        rows, rest = rows.index_select(0, going_on), rest.index_select(0, going_on)
        start = (start + 1) % nbins


def _hand_out(hist: Tensor, rest: Tensor, limit: int, combs: Tensor) -> Tensor:
    """Give one pixel to the bins with room under each histogram's comb, in place; returns how many."""
    given = (limit - hist).clamp_max_(1)  # 1 where there is room
    step = given.sum(1, dtype=torch.int32).div_(rest.clamp_min(1), rounding_mode="floor").clamp_min_(1)
    given *= combs.index_select(0, step * (rest > 0))
    hist += given
    return given.sum(1, dtype=torch.int32)


@lru_cache(maxsize=8)
def _combs(nbins: int, device: torch.device) -> Tensor:
    """Row s > 0 marks the columns nbins, nbins + s, nbins + 2 s ...; int32 (nbins + 1, 2 * nbins)."""
    column = np.arange(-nbins, nbins)
    step = np.arange(1, nbins + 1)[:, None]
    combs = np.zeros((nbins + 1, 2 * nbins), dtype=np.int32)
    combs[1:] = (column >= 0) & (column % step == 0)
    return torch.as_tensor(combs, device=device)


def _interpolate(maps: Tensor, bins: Tensor, plan: _Plan) -> Tensor:
    """Bilinear mean of the four nearest tiles' maps at each pixel's bin, cut to whole grey levels, (N, X, Y).

    The maps of horizontal neighbours are packed into one number, since looking up is the most expensive step.
    """
    n, rows, columns, nbins = maps.shape
    # pair c holds the tiles c - 1 and c; beyond the outer centres the outer tile is both
    packed = maps.new_empty(n, rows, columns + 1, nbins)
    packed[:, :, 1:] = maps
    packed[:, :, 0] = maps[:, :, 0]
    packed[:, :, :-1].add_(maps, alpha=_LEVELS)
    packed[:, :, -1].add_(maps[:, :, -1], alpha=_LEVELS)

    bins = bins + _image_offset(bins, packed[0].numel())
    index, left, right = torch.empty_like(bins), torch.empty_like(bins), torch.empty_like(bins)
    total = torch.zeros(bins.shape, dtype=torch.int32 if plan.exact else torch.float32, device=bins.device)
    for first_bin, left_weight, right_weight in plan.pairs:
        torch.add(bins, first_bin, out=index)
        torch.index_select(packed.view(-1), 0, index.view(-1), out=left.view(-1))
        torch.bitwise_right_shift(left, _LEVELS.bit_length() - 1, out=right)
        left &= _LEVELS - 1
        for level, weight in ((left, left_weight), (right, right_weight)):
            if plan.exact:
                total.addcmul_(level, weight)
            else:
                total += (level * weight).float()  # rounded before the sum, as scikit-image does
    if plan.exact:
        return total.bitwise_right_shift_(plan.pixels.bit_length() - 1)
    return total.floor_()


def _stretch(mapped: Tensor) -> Tensor:
    """Stretch each image to [0, 1]; a constant one is clipped to it."""
    low, high = mapped.amin((1, 2), keepdim=True), mapped.amax((1, 2), keepdim=True)
    constant = low == high
    span = torch.where(constant, 1, high - low)
    return mapped.sub_(low.masked_fill(constant, 0)).div_(span).clamp_max_(1)


def _check_settings(
    images: Tensor, kernel_size: int | Sequence[int] | None, clip_limit: float, nbins: int
) -> tuple[tuple[int, int], int]:
    """Validate the arguments and work out the tile shape and the limit in pixels."""
    if images.ndim != 4 or images.numel() == 0:
        raise ImageShapeError(f"equalize_adapthist needs images (B, C, X, Y), got {tuple(images.shape)}.")
    if kernel_size is None:
        kernel_size = [max(s // 8, 1) for s in images.shape[2:]]
    elif isinstance(kernel_size, int):
        kernel_size = [kernel_size] * 2
    if len(kernel_size) != 2 or min(kernel_size) < 1:
        raise ConfigError(f"kernel_size must be one or two positive numbers of pixels, got {kernel_size!r}.")
    if not 0 <= clip_limit <= 1:
        raise ConfigError(f"clip_limit must lie in [0, 1], got {clip_limit!r}.")
    if not 2 <= nbins <= 1024:
        raise ConfigError(f"nbins must lie in [2, 1024], got {nbins!r}.")
    kernel = (int(kernel_size[0]), int(kernel_size[1]))
    n_tiles = -(-images.shape[2] // kernel[0]) * -(-images.shape[3] // kernel[1])
    if n_tiles * nbins >= 2**31:
        raise ConfigError(f"{n_tiles} tiles of {nbins} bins are too many; use a larger kernel_size.")
    pixels = kernel[0] * kernel[1]
    return kernel, pixels if clip_limit == 0 else max(1, int(clip_limit * pixels))


class EqualizeAdaptHist(Transform):
    """Equalise one image by CLAHE; see `equalize_adapthist`.

    Args:
        kernel_size: tile shape in pixels; default an eighth of each side.
        clip_limit: largest share of a tile's pixels in one bin, range [0, 1].
        nbins: grey bins of a tile's histogram.
    """

    def __init__(
        self, kernel_size: int | Sequence[int] | None = None, clip_limit: float = 0.01, nbins: int = 256
    ) -> None:
        self.kernel_size, self.clip_limit, self.nbins = kernel_size, clip_limit, nbins

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Equalise `img` (C, X, Y) in [0, 1], see ``unit_range``; its kind and meta data are kept."""
        batch = convert_to_tensor(img).unsqueeze(0)
        out = equalize_adapthist(batch, self.kernel_size, self.clip_limit, self.nbins)[0]
        return convert_to_dst_type(out, img, dtype=out.dtype)[0]


class EqualizeAdaptHistd(MapTransform):
    """Dictionary version of `EqualizeAdaptHist`.

    Args:
        keys: keys of the images.
        kernel_size: see `EqualizeAdaptHist`.
        clip_limit: see `EqualizeAdaptHist`.
        nbins: see `EqualizeAdaptHist`.
        allow_missing_keys: skip keys that are not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        kernel_size: int | Sequence[int] | None = None,
        clip_limit: float = 0.01,
        nbins: int = 256,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = EqualizeAdaptHist(kernel_size, clip_limit, nbins)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Equalise the images under `keys`."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.transform(out[key])
        return out


EqualizeAdaptHistD = EqualizeAdaptHistd
