"""Which share of a draw is this process's, and noise that does not depend on how a batch is spread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import ignite.distributed as idist
import torch

_alike = ContextVar("alike", default=False)


@contextmanager
def same_seed_on_all_ranks() -> Iterator[None]:
    """All processes draw and keep the same within: each holds all images, as in validation."""
    token = _alike.set(True)
    try:
        yield
    finally:
        _alike.reset(token)


def rank_share() -> tuple[int, int]:
    """Number of processes that a draw is for, and the place of this one among them."""
    return (1, 0) if _alike.get() else (idist.get_world_size(), idist.get_rank())


def shared_randn(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal noise shaped ``like`` (B, ...), this process's share of the noise of the global batch.

    Every process draws the whole global batch from its own equally seeded generator and keeps the rows of the
    samples that a DistributedSampler hands it (rank, rank + world, ...), so N processes train on the noise of
    one.

    Args:
        like: tensor that gives shape and device.
        generator: a CPU generator, in the same state in every process.

    Returns:
        Float32 tensor of ``like``'s shape and device.
    """
    world, rank = rank_share()
    noise = torch.randn(like.shape[0] * world, *like.shape[1:], generator=generator)
    return noise[rank::world].to(like.device)
