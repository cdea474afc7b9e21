"""How an image was taken and scaled: field of view, coverage, thick slices, gain, another contrast."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from robustmed_monai.transforms.batch_affine import apply_affine
from robustmed_monai.transforms.contrasts import apply_curves, sample_curves
from robustmed_monai.transforms.corruption.core import Corruption, at_severity, sample_constants
from robustmed_monai.transforms.params import Params, Shape, per_image
from robustmed_monai.transforms.synthesis.low_resolution import thick_slices

_DIMS = (2, 3)


def acquisition(name: str, severity: int) -> Corruption:
    """What differs from one protocol to the next, on the scale 1 to 5.

    Args:
        name: one of ``ACQUISITION``: "zoom_in" and "zoom_out" (the field of view is smaller or larger, the
            grid the same), "cut_off" (only the middle was covered, the rest is 0), "thick_slices" (along the
            third axis of a volume), "gain_down" and "gain_up" (intensities times a factor, clipped),
            "remapping" (a random smooth curve of intensities, blended in).
        severity: 1 to 5, or 0 for the identity.

    Raises:
        ConfigError: for an unknown name or severity.

    Example:
        >>> acquisition("zoom_out", 3).spatial_dims
        (2, 3)
    """
    return at_severity(name, severity, ACQUISITION, "the changes of acquisition")._replace(name=name)


def zoom(factor: float) -> Corruption:
    """Magnify about the centre along the first two axes; below 1 the surroundings are 0."""
    return Corruption("zoom", partial(sample_constants, {"factor": factor}), _zoom, _DIMS)


def cut_off(share: float) -> Corruption:
    """Set to 0 what lies beyond the central ``share`` of the last axis but one, or of a volume's third."""
    return Corruption("cut_off", partial(sample_constants, {"share": share}), _cut_off, _DIMS)


def thick(voxels: float) -> Corruption:
    """Average over slabs of ``voxels`` along the third axis of volumes, interpolated back to the grid."""
    return Corruption("thick_slices", partial(sample_constants, {"voxels": voxels}), _thick, (3,))


def gain(factor: float) -> Corruption:
    """Multiply intensities, as a wrong rescale slope or receiver gain does; what leaves [0, 1] is clipped."""
    return Corruption("gain", partial(sample_constants, {"factor": factor}), _gain, _DIMS)


def remapping(amount: float) -> Corruption:
    """Blend with the image under a random smooth curve of intensities, see ``transforms.contrasts``."""
    return Corruption("remapping", partial(_sample_remapping, amount), _remap, _DIMS)


def _zoom(images: Tensor, params: Params) -> Tensor:
    if images.ndim == 5:
        slices = images.movedim(4, 2)
        return _zoom(slices.flatten(1, 2), params).view(slices.shape).movedim(2, 4)
    scale = 1 / params["factor"].to(images.dtype)
    zero = torch.zeros_like(scale)
    rows = [torch.stack([scale, zero, zero], 1), torch.stack([zero, scale, zero], 1)]
    return apply_affine(images, torch.stack(rows, 1))


def _cut_off(images: Tensor, params: Params) -> Tensor:
    axis = 4 if images.ndim == 5 else 3
    side = images.shape[axis]
    place = (torch.arange(side, dtype=images.dtype, device=images.device) + 0.5) / side * 2 - 1
    place = place.view([side if k == axis else 1 for k in range(images.ndim)])
    return torch.where(place.abs() <= per_image(params["share"], images), images, 0)


def _thick(images: Tensor, params: Params) -> Tensor:
    # Images one by one: a matrix product of the batch would sum in an order that depends on its size.
    parts = []
    for image, voxels in zip(images.split(1), params["voxels"], strict=True):
        thickness = image.new_ones(1, 3)
        thickness[0, 2] = voxels
        parts.append(thick_slices(image, thickness))
    return torch.cat(parts)


def _gain(images: Tensor, params: Params) -> Tensor:
    return images * per_image(params["factor"], images)


def _sample_remapping(amount: float, shape: Shape, generator: torch.Generator) -> Params:
    curves = sample_curves(shape[0], generator)
    return {"curves": curves, "amount": torch.full((shape[0],), amount)}


def _remap(images: Tensor, params: Params) -> Tensor:
    amount = per_image(params["amount"], images)
    return images + amount * (apply_curves(images, params["curves"]) - images)


_Build = Callable[[float], Corruption]
ACQUISITION: dict[str, tuple[_Build, tuple[float, ...]]] = {
    "zoom_in": (zoom, (1.1, 1.2, 1.35, 1.5, 2.0)),
    "zoom_out": (zoom, (0.9, 0.8, 0.7, 0.6, 0.5)),
    "cut_off": (cut_off, (0.9, 0.8, 0.7, 0.6, 0.5)),
    "thick_slices": (thick, (2.0, 3.0, 4.0, 6.0, 8.0)),
    "gain_down": (gain, (0.8, 0.65, 0.5, 0.35, 0.2)),
    "gain_up": (gain, (1.15, 1.3, 1.5, 1.75, 2.0)),
    "remapping": (remapping, (0.2, 0.4, 0.6, 0.8, 1.0)),
}
