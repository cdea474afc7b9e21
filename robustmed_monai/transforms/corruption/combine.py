"""Corruptions made of corruptions: a chain with a probability for each link, and one of several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from robustmed_monai.transforms.corruption.core import Corruption, scatter_images
from robustmed_monai.transforms.params import Params, Shape
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

Parts = Sequence[Corruption]


def chain(parts: Parts, prob: float = 1.0, name: str = "chain", clean: float = 0.0) -> Corruption:
    """Corruptions one after the other, each image and each link with its own coin.

    Args:
        parts: the links, in order; clipped to [0, 1] after each.
        prob: probability of each link, in [0, 1].
        name: what to call it.
        clean: probability that an image is left alone by all links, whatever their coins say, in [0, 1].

    Raises:
        ConfigError: when there is no link, or ``prob`` or ``clean`` is no probability.

    Example:
        >>> from robustmed_monai.transforms.corruption.core import identity
        >>> both = chain([identity(), identity()], prob=0.5)
        >>> params = both.sample((4, 1, 8, 8), torch.Generator().manual_seed(0))
        >>> params["gates"].shape
        torch.Size([4, 2])
    """
    _check(parts, prob)
    _check(parts, clean)
    sample = partial(_sample_chain, tuple(parts), prob, clean)
    return Corruption(name, sample, partial(_apply, tuple(parts)), _dims(parts))


def one_of(parts: Parts, prob: float = 1.0, name: str = "one_of") -> Corruption:
    """Exactly one of the corruptions for an image, each as likely as the others, or none.

    Args:
        parts: what to choose from.
        prob: probability that an image is corrupted at all, in [0, 1].
        name: what to call it.

    Raises:
        ConfigError: when there is nothing to choose from or ``prob`` is no probability.
    """
    _check(parts, prob)
    return Corruption(
        name, partial(_sample_one, tuple(parts), prob), partial(_apply, tuple(parts)), _dims(parts)
    )


def _sample_chain(
    parts: Parts, prob: float, clean: float, shape: Shape, generator: torch.Generator
) -> Params:
    gates = torch.rand(shape[0], len(parts), generator=generator) < prob
    if clean:
        gates &= torch.rand(shape[0], 1, generator=generator) >= clean
    return _sample_parts(parts, gates, shape, generator)


def _sample_one(parts: Parts, prob: float, shape: Shape, generator: torch.Generator) -> Params:
    u = torch.rand(shape[0], 2, generator=generator)
    chosen = (u[:, 1] * len(parts)).long().clamp_(max=len(parts) - 1)
    gates = (torch.arange(len(parts)) == chosen[:, None]) & (u[:, :1] < prob)
    return _sample_parts(parts, gates, shape, generator)


def _sample_parts(parts: Parts, gates: Tensor, shape: Shape, generator: torch.Generator) -> Params:
    # Only the images that a part changes get parameters for it: noise is the most expensive part of a chain.
    counts = gates.sum(0).tolist()
    drawn = {str(k): part.sample((counts[k], *shape[1:]), generator) for k, part in enumerate(parts)}
    return {"gates": gates, **drawn}


def _apply(parts: Parts, images: Tensor, params: Params) -> Tensor:
    images = images.clone()
    for k, part in enumerate(parts):
        rows = params["gates"][:, k].nonzero()[:, 0]
        if len(rows):
            changed = part.apply(images.index_select(0, rows), params[str(k)]).clamp_(0, 1)
            if changed.shape[1:] != images.shape[1:]:
                raise ImageShapeError(
                    f"{part.name} makes (B, {', '.join(map(str, changed.shape[1:]))}) of "
                    f"{tuple(images.shape)}, which is no batch with the others; crop or pad to X = Y."
                )
            scatter_images(images, rows, changed)
    return images


def _dims(parts: Parts) -> tuple[int, ...]:
    return tuple(d for d in (2, 3) if all(d in part.spatial_dims for part in parts))


def _check(parts: Parts, prob: float) -> None:
    if not parts or not 0 <= prob <= 1:
        raise ConfigError(
            f"{len(parts)} corruptions with prob={prob}: give at least one, and prob in [0, 1]."
        )
