"""Parameters drawn for a batch: one protocol for corruptions, augmentations and synthesis.

``sample(shape, generator)`` draws for images of a shape (B, C, X, Y[, Z]); ``apply(batch, params)`` computes
and draws nothing. All that is random lies in the parameters, noise fields included, so a draw can be stored
and replayed, and a batch of N images gives the bits of N batches of one. ``transforms.adapters`` makes MONAI
transforms and batched transforms of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from robustmed_monai.utils.random import rank_share

Params = dict[str, Any]  # name to tensor with B rows, or to the parameters of a part
Shape = Sequence[int]  # (B, C, X, Y) or (B, C, X, Y, Z)
Sample = Callable[[Shape, torch.Generator], Params]


def draw(sample: Sample, shape: Shape, generators: Sequence[torch.Generator]) -> Params:
    """Draw with one generator per image, so that parameters do not depend on the batch around an image.

    Args:
        sample: what to draw with.
        shape: (C, X, Y[, Z]) of one image.
        generators: one CPU generator per image, at least one.

    Returns:
        Parameters of a batch of ``len(generators)`` images.
    """
    return join_params([sample((1, *shape), generator) for generator in generators])


def draw_share(sample: Sample, shape: Shape, generator: torch.Generator) -> Params:
    """Draw for this process's batch: under torchrun, its rows of the draw for the global batch.

    Process r of N keeps the rows r, r + N, ..., as a DistributedSampler deals out the samples, so N processes
    train on the draws of one. Several views of each image lie one after the other and are shared alike.

    Args:
        sample: what to draw with.
        shape: (B, C, X, Y[, Z]) of this process's batch.
        generator: a CPU generator in the same state in every process.
    """
    world, rank = rank_share()
    params = sample((shape[0] * world, *shape[1:]), generator)
    # Nothing is drawn by a transform that is not random, and nothing is shared out.
    return (
        index_params(params, torch.arange(rank, count_rows(params), world))
        if world > 1 and params
        else params
    )


def count_rows(params: Params) -> int:
    """Number of images that parameters are for; 0 where nothing was drawn."""
    if "gates" in params:
        return len(params["gates"])
    first = next(iter(params.values()), ())
    return count_rows(first) if isinstance(first, dict) else len(first)


def join_params(parts: Sequence[Params]) -> Params:
    """Put the parameters of several batches behind each other."""
    return {
        key: join_params([part[key] for part in parts])
        if isinstance(value, dict)
        else torch.cat([part[key] for part in parts])
        for key, value in parts[0].items()
    }


def index_params(params: Params, rows: Tensor) -> Params:
    """Keep the parameters of some images of a batch.

    Args:
        params: parameters of B images.
        rows: (N,) indices below B.
    """
    if "gates" not in params:
        return {
            key: index_params(value, rows) if isinstance(value, dict) else value.index_select(0, rows)
            for key, value in params.items()
        }
    gates = params["gates"]
    chosen: Params = {"gates": gates.index_select(0, rows)}
    for part in range(gates.shape[1]):
        # A part holds parameters of the images that pass its gate only.
        place = gates[:, part].cumsum(0) - 1
        chosen[str(part)] = index_params(params[str(part)], place[rows[chosen["gates"][:, part]]])
    return chosen


def params_to(params: Params, device: torch.device) -> Params:
    """Move parameters to a device."""
    return {
        key: params_to(value, device) if isinstance(value, dict) else value.to(device, non_blocking=True)
        for key, value in params.items()
    }


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """View (B,) values so that they broadcast over ``images`` (B, C, ...)."""
    return values.to(images.dtype).view(-1, *[1] * (images.ndim - 1))
