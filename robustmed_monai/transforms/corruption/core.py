"""What a corruption is: parameters drawn for a batch, and a pure function that applies them on its device.

All that is random lies in the parameters, noise fields included, so a draw can be stored and replayed, and a
batch of N images gives the bits of N batches of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustmed_monai.utils.errors import ConfigError, ImageError, ImageShapeError

Params = dict[str, Any]  # name to tensor with B rows, or to the parameters of a part
Shape = Sequence[int]  # (B, C, X, Y) or (B, C, X, Y, Z)


class Corruption(NamedTuple):
    """One corruption of images in [0, 1].

    Args:
        name: what tables and pictures call it.
        sample: function of (shape, generator) that draws the parameters of a batch on the CPU: tensors whose
            first axis is the batch. The shape is (B, C, X, Y[, Z]); B may be 0.
        apply: function of (images, parameters on the images' device) that returns new images of the same
            shape; it draws nothing and need not clip to [0, 1]. It is given one image at least.
        spatial_dims: numbers of spatial axes that it can do.
    """

    name: str
    sample: Callable[[Shape, torch.Generator], Params]
    apply: Callable[[Tensor, Params], Tensor]
    spatial_dims: tuple[int, ...] = (2,)


@torch.no_grad()
def corrupt(images: Tensor, corruption: Corruption, params: Params) -> Tensor:
    """Apply a draw to a batch.

    Args:
        images: (B, C, X, Y[, Z]), float in [0, 1]; uint8 is converted (divided by 255).
        corruption: what to do.
        params: what ``draw`` or ``corruption.sample`` gave, for B images.

    Returns:
        Images in [0, 1] on the same device, float32 (other float types are kept).

    Raises:
        ImageShapeError: when the corruption has no meaning for this number of axes.
        ImageError: when the images are neither float nor uint8.
    """
    images = _as_float(images, corruption)
    # Fourier transforms and resizing refuse an empty batch.
    if not len(images):
        return images.clone()
    return corruption.apply(images, to_device(params, images.device)).clamp_(0, 1)


def draw(corruption: Corruption, shape: Shape, generators: Sequence[torch.Generator]) -> Params:
    """Draw parameters with one generator per image, so that they do not depend on the batch around it.

    Args:
        corruption: what to draw for.
        shape: (C, X, Y[, Z]) of one image.
        generators: one CPU generator per image.

    Returns:
        Parameters of a batch of ``len(generators)`` images.
    """
    return join([corruption.sample((1, *shape), generator) for generator in generators])


def join(parts: Sequence[Params]) -> Params:
    """Put the parameters of several batches behind each other."""
    return {
        key: join([part[key] for part in parts])
        if isinstance(value, dict)
        else torch.cat([part[key] for part in parts])
        for key, value in parts[0].items()
    }


def take(params: Params, rows: Tensor) -> Params:
    """Keep the parameters of some images of a batch.

    Args:
        params: parameters of B images.
        rows: (N,) indices below B.
    """
    if "gates" not in params:
        return {
            key: take(value, rows) if isinstance(value, dict) else value.index_select(0, rows)
            for key, value in params.items()
        }
    gates = params["gates"]
    taken: Params = {"gates": gates.index_select(0, rows)}
    for part in range(gates.shape[1]):
        # A part holds parameters of the images that pass its gate only.
        place = gates[:, part].cumsum(0) - 1
        taken[str(part)] = take(params[str(part)], place[rows[taken["gates"][:, part]]])
    return taken


def to_device(params: Params, device: torch.device) -> Params:
    """Move parameters to a device."""
    return {
        key: to_device(value, device) if isinstance(value, dict) else value.to(device, non_blocking=True)
        for key, value in params.items()
    }


def put(images: Tensor, rows: Tensor, changed: Tensor) -> None:
    """Replace the images (B, ...) at ``rows`` (N,) in place by ``changed`` (N, ...)."""
    if images.device.type == "cpu":
        # On a CPU NumPy scatters five times as fast as index_copy_.
        images.numpy()[rows.numpy()] = changed.numpy()
    else:
        images.index_copy_(0, rows, changed)


def chance(shape: Shape, prob: float, generator: torch.Generator) -> Tensor:
    """True with a probability, a multiple of 1 / 65536, from sixteen random bits each."""
    return _words(shape, generator) < round(prob * 2**16) - 2**15


def uniform(rows: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform numbers in [low, high), shape (rows,)."""
    return low + (high - low) * torch.rand(rows, generator=generator)


def normal(shape: Shape, generator: torch.Generator) -> Tensor:
    """Standard normal numbers that have the same bits on every processor, as ``torch.randn`` has not.

    Sixteen random bits choose one of 65536 quantiles, so no number lies beyond 4.3.

    Args:
        shape: of the result.
        generator: on the CPU.
    """
    places = _words(shape, generator).flatten().to(torch.int32) + 2**15
    return _quantiles().index_select(0, places).view(*shape)


def _words(shape: Shape, generator: torch.Generator) -> Tensor:
    """Sixteen random bits each, as whole numbers from -32768 on."""
    count = math.prod(shape)
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:count].view(*shape)


@cache
def _quantiles() -> Tensor:
    quantiles: Tensor = torch.special.ndtri((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16)
    return quantiles.to(torch.float32)


def constant(rows: int, value: float) -> Tensor:
    """The same number for each of ``rows`` images: how a severity enters the parameters."""
    return torch.full((rows,), float(value))


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """View (B,) values so that they broadcast over ``images`` (B, C, ...)."""
    return values.to(images.dtype).view(-1, *[1] * (images.ndim - 1))


def check_name(name: str, known: Collection[str], family: str) -> None:
    """Refuse a name that a family does not have.

    Raises:
        ConfigError: when it does not; it lists all names and the nearest.
    """
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"'{name}' is not one of {family} {list(known)}.{hint}")


def check_severity(severity: float, name: str) -> None:
    """Refuse a severity outside 0 (nothing happens) to 5.

    Raises:
        ConfigError: when it is.
    """
    if severity not in range(6):
        raise ConfigError(f"{name}: severity {severity} is not one of 0 (identity), 1, 2, 3, 4, 5.")


def _nothing(shape: Shape, generator: torch.Generator) -> Params:
    return {"rows": torch.zeros(shape[0])}


def _unchanged(images: Tensor, params: Params) -> Tensor:
    return images.clone()


def identity(name: str = "identity") -> Corruption:
    """The corruption that does nothing: severity 0 of every corruption."""
    return Corruption(name, _nothing, _unchanged, (2, 3))


def _as_float(images: Tensor, corruption: Corruption) -> Tensor:
    if images.ndim - 2 not in corruption.spatial_dims:
        raise ImageShapeError(
            f"{corruption.name}: images of shape {tuple(images.shape)}; it takes (B, C, spatial axes) with "
            f"{' or '.join(map(str, corruption.spatial_dims))} spatial axes."
        )
    images = images.as_subclass(Tensor)  # MetaTensor bookkeeping would cost more than most corruptions
    if images.dtype == torch.uint8:
        return images.to(torch.float32) / 255
    if not images.is_floating_point():
        raise ImageError(
            f"{corruption.name}: images are {images.dtype}; give float in [0, 1], or uint8 in 0 to 255."
        )
    return images
