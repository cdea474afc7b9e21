"""Label maps of random shapes, from nothing: which of several smooth noise images is largest, and a warp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustmed_monai.transforms.fields import warp
from robustmed_monai.transforms.params import Params
from robustmed_monai.transforms.synthesis.noise import noise_field, sample_noise, split_noise
from robustmed_monai.utils.errors import ConfigError

_PIECE = {"cpu": 2**19}  # numbers computed at a time; on a CPU they stay in its cache
_WARPS = ("shared", "per_label")


def natural_scale(size: Sequence[int]) -> int:
    """Size k in voxels of shapes of which an image holds five or six along its shortest side.

    A multiple of 4, at most SynthMorph's 32: 32 for 192 x 160, 24 for 128 x 128, 16 for 96 x 96 x 96.
    """
    return max(2, min(32, min(size) // 20 * 4))


@dataclass(frozen=True)
class LabelShapes:
    """SynthMorph's random shapes: a smooth noise image per label, warped; the largest one names the voxel.

    Args:
        num_labels: number of labels L, 1 to 255; label 0 is a shape like the others.
        scales: distances of the noise grids' nodes in voxels; None for (k, 2 k) with k of ``natural_scale``.
        warp: "shared" warps the label map, one warp for all labels: fast, and what the authors' demo
            computes. "per_label" warps every noise image by a warp of its own, as the paper says: a map then
            costs 15 (2-D) to 40 times (3-D) as much.
        warp_scales: likewise for the warp; None for (k / 2, k, 2 k).
        warp_std: the warp's displacement has per scale a standard deviation uniform between 0 and this, in
            voxels; 0 switches it off; None for k / 2.

    Raises:
        ConfigError: when a setting is out of range.

    Source: Hoffmann et al., "SynthMorph: learning contrast-invariant registration without acquired images",
    IEEE TMI 2022, section III-A1, and the authors' demo (scales 32 and 64, warp 16, 32, 64, standard
    deviation 16, for sides of 256 pixels).

    Example:
        >>> shapes, generator = LabelShapes(num_labels=8), torch.Generator().manual_seed(0)
        >>> labels = shapes.apply(shapes.sample(2, (48, 40), generator), (48, 40))
        >>> labels.shape, labels.dtype
        (torch.Size([2, 1, 48, 40]), torch.uint8)
    """

    num_labels: int = 16
    scales: Sequence[float] | None = None
    warp: str = "shared"
    warp_scales: Sequence[float] | None = None
    warp_std: float | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 1 <= self.num_labels <= 255:
            raise ConfigError(f"LabelShapes: num_labels={self.num_labels} is not in 1 to 255.")
        if self.warp not in _WARPS:
            raise ConfigError(f"LabelShapes: warp={self.warp!r}; choose from {_WARPS}.")
        if self.warp_std is not None and self.warp_std < 0:
            raise ConfigError(f"LabelShapes: warp_std={self.warp_std} is negative.")

    def sample(self, rows: int, size: Sequence[int], generator: torch.Generator) -> Params:
        """Draw ``rows`` maps of a spatial shape: coarse grids on the generator's device."""
        k = natural_scale(size)
        warps = self.num_labels if self.warp == "per_label" else 1
        std = k / 2 if self.warp_std is None else self.warp_std
        warp_scales = self.warp_scales or (k / 2, k, 2 * k)
        return {
            "noise": sample_noise(rows, self.num_labels, size, self.scales or (k, 2 * k), 1.0, generator),
            "warp": sample_noise(rows, warps * len(size), size, warp_scales, std, generator),
        }

    def apply(self, params: Params, size: Sequence[int]) -> Tensor:
        """Compute the maps: (B, 1, *size) uint8, 0 to L - 1."""
        if self.warp_std == 0:
            return largest(params["noise"], size)
        ddf = noise_field(params["warp"], size)
        if self.warp == "shared":
            return warp(largest(params["noise"], size), ddf, "nearest", "border")
        return _largest_warped(params["noise"], ddf, size)


def largest(grids: Params, size: Sequence[int]) -> Tensor:
    """Which channel of a noise field is largest, voxel by voxel.

    The field is never stored: it is computed piece by piece. The number of the channel travels in the last
    bits of the field's values, so that a maximum finds it: values that agree in all but these (1 part in 2^20
    for 16 channels) may be taken for each other.

    Args:
        grids: what ``sample_noise`` gave: (B, C, *nodes) each, C <= 255.
        size: spatial shape.

    Returns:
        (B, 1, *size) uint8.
    """
    matrix, columns = split_noise(grids, size)
    rows, channels = columns.shape[:2]
    bits = max(1, (channels - 1).bit_length())
    numbers = torch.arange(channels, dtype=torch.int32, device=columns.device).view(-1, 1, 1)
    piece = max(1, _PIECE.get(columns.device.type, 2**26) // (channels * size[0]))
    labels = torch.empty(rows, size[0], columns.shape[3], dtype=torch.uint8, device=columns.device)
    for row in range(rows):
        for start in range(0, columns.shape[3], piece):
            values = torch.matmul(matrix, columns[row, :, :, start : start + piece])
            values.view(torch.int32).bitwise_and_(-(2**bits)).bitwise_or_(numbers)
            found = values.amax(0).view(torch.int32).bitwise_and_(2**bits - 1)
            labels[row, :, start : start + piece] = found
    return labels.view(rows, 1, *size)


def _largest_warped(grids: Params, ddf: Tensor, size: Sequence[int]) -> Tensor:
    """``largest`` of noise images that are warped, image c by the field in channels c d to c d + d - 1."""
    axes = len(size)
    matrix, columns = split_noise(grids, size)
    best: Tensor | None = None
    labels = torch.zeros(len(ddf), 1, *size, dtype=torch.uint8, device=ddf.device)
    for channel in range(columns.shape[1]):
        image = torch.matmul(matrix, columns[:, channel]).view(-1, 1, *size)
        moved = warp(image, ddf[:, channel * axes : (channel + 1) * axes], padding_mode="border")
        if best is None:
            best = moved
        else:
            labels.masked_fill_(moved > best, channel)
            best = torch.maximum(best, moved)
    return labels
