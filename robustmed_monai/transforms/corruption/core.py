"""What a corruption is: parameters drawn for a batch, and a pure function that applies them on its device."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustmed_monai.transforms.params import Params, Shape, params_to
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError, ImageShapeError


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
        images: (B, C, X, Y[, Z]), see ``unit_range``.
        corruption: what to do.
        params: what ``draw`` or ``corruption.sample`` gave, for B images.

    Returns:
        Images in [0, 1] on the same device, float32 or the float type of the images; half types are computed
        in float32.

    Raises:
        ImageShapeError: when the corruption has no meaning for this number of axes.
        ImageError: when the images are of another type, or leave [0, 1].
    """
    images = ready_images(images, corruption)
    # Fourier transforms and resizing refuse an empty batch.
    if not len(images):
        return images.clone()
    exact = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
    changed = corruption.apply(exact, params_to(params, images.device)).clamp_(0, 1)
    return changed.to(images.dtype)


def ready_images(images: Tensor, corruption: Corruption, *, batched: bool = True) -> Tensor:
    """Images as every corruption takes them: see ``unit_range``.

    Args:
        images: (B, C, X, Y[, Z]), float in [0, 1]; uint8 and uint16 are divided by their white.
        corruption: what they are for.
        batched: False for one image with an axis put before it, which an error does not show.

    Raises:
        ImageShapeError: when the corruption has no meaning for this number of axes.
        ImageError: as ``unit_range``.
    """
    if images.ndim - 2 not in corruption.spatial_dims:
        shape, axes = tuple(images.shape), "(B, C, spatial axes)"
        if not batched:
            shape, axes = shape[1:], "(C, spatial axes)"
        raise ImageShapeError(
            f"{corruption.name}: images of shape {shape}; it takes {axes} with "
            f"{' or '.join(map(str, corruption.spatial_dims))} spatial axes."
        )
    return unit_range(images, corruption.name)


def scatter_images(images: Tensor, rows: Tensor, changed: Tensor) -> None:
    """Replace the images (B, ...) at ``rows`` (N,) in place by ``changed`` (N, ...)."""
    if images.device.type == "cpu":
        # On a CPU NumPy scatters five times as fast as index_copy_.
        images.numpy()[rows.numpy()] = changed.numpy()
    else:
        images.index_copy_(0, rows, changed)


def bernoulli(shape: Shape, prob: float, generator: torch.Generator) -> Tensor:
    """True with a probability, a multiple of 1 / 65536, from sixteen random bits each."""
    return _words(shape, generator).to(torch.int32) < round(prob * 2**16) - 2**15


def uniform(rows: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform numbers in [low, high), shape (rows,)."""
    return low + (high - low) * torch.rand(rows, generator=generator)


def gaussian(shape: Shape, generator: torch.Generator) -> Tensor:
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
    """The same number for each of ``rows`` images."""
    return torch.full((rows,), float(value))


def check_name(name: str, known: Collection[str], family: str) -> None:
    """Refuse a name that a family does not have.

    Raises:
        ConfigError: when it does not; it lists all names and the nearest.
    """
    if name not in known:
        near = get_close_matches(str(name), known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"{name!r} is not one of {family} {list(known)}.{hint}")


def check_severity(severity: float, name: str) -> None:
    """Refuse a severity outside 0 (nothing happens) to 5.

    Raises:
        ConfigError: when it is.
    """
    if severity not in range(6):
        raise ConfigError(f"{name}: severity {severity} is not one of 0 (identity), 1, 2, 3, 4, 5.")


def at_severity(
    name: str,
    severity: int,
    table: Mapping[str, tuple[Callable[..., Corruption], Sequence[Any]]],
    family: str,
) -> Corruption:
    """The corruption that a table makes at a severity of 1 to 5; 0 is the identity.

    Args:
        name: key of the table.
        severity: 0 to 5.
        table: name to what makes the corruption, and its argument at each severity.
        family: what messages call the corruptions of the table.

    Raises:
        ConfigError: for an unknown name or severity.
    """
    check_name(name, table, family)
    check_severity(severity, name)
    if severity == 0:
        return identity(name)
    build, levels = table[name]
    return build(levels[severity - 1])


def sample_constants(values: Mapping[str, float], shape: Shape, generator: torch.Generator) -> Params:
    """The same numbers for every image: how a severity enters the parameters. Draws nothing."""
    return {key: constant(shape[0], value) for key, value in values.items()}


def sample_uniform(
    ranges: Mapping[str, tuple[float, float]], shape: Shape, generator: torch.Generator
) -> Params:
    """Numbers of each image, uniform in [low, high), in the order of the names."""
    return {key: uniform(shape[0], low, high, generator) for key, (low, high) in ranges.items()}


def sample_nothing(shape: Shape, generator: torch.Generator) -> Params:
    """Parameters of a corruption without randomness: nothing but the number of images."""
    return {"rows": torch.zeros(shape[0])}


def identity(name: str = "identity") -> Corruption:
    """The corruption that does nothing: severity 0 of every corruption."""
    return Corruption(name, sample_nothing, _unchanged, (2, 3))


def _unchanged(images: Tensor, params: Params) -> Tensor:
    return images.clone()
