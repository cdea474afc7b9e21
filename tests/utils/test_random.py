from __future__ import annotations

import ignite.distributed as idist
import pytest
import torch

from robustmed_monai.utils.random import same_seed_on_all_ranks, shared_randn


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    monkeypatch.setattr(idist, "get_world_size", lambda: world)
    monkeypatch.setattr(idist, "get_rank", lambda: rank)


def test_one_process_draws_as_torch_does() -> None:
    like = torch.empty(4, 2, 5)
    assert torch.equal(shared_randn(like, _generator()), torch.randn(4, 2, 5, generator=_generator()))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_draw_of_one(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    alone = _generator()
    whole = shared_randn(torch.empty(8, 3), alone)
    for rank in range(world):
        _as_rank(monkeypatch, rank, world)
        generator = _generator()
        part = shared_randn(torch.empty(8 // world, 3), generator)
        # The samples that a DistributedSampler hands to this rank.
        assert torch.equal(part, whole[rank::world])
        assert torch.equal(generator.get_state(), alone.get_state())


def test_where_all_processes_hold_all_images_they_draw_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shared_randn(torch.empty(8, 3), _generator())
    _as_rank(monkeypatch, 1, 2)
    with same_seed_on_all_ranks():
        assert torch.equal(shared_randn(torch.empty(8, 3), _generator()), whole)
    assert not torch.equal(shared_randn(torch.empty(8, 3), _generator()), whole)


def test_noise_has_the_shape_of_what_it_is_for_and_its_own_type() -> None:
    like = torch.empty(2, 3, dtype=torch.bfloat16)
    noise = shared_randn(like, _generator())
    assert noise.shape == like.shape
    assert noise.dtype == torch.float32


def test_global_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    shared_randn(torch.empty(2, 2), _generator())
    assert torch.equal(torch.get_rng_state(), before)
