"""A U-Net on slices and their neighbours: each slice sees just those; stacks of any number."""

from __future__ import annotations

import pytest
import torch

from robustmed_monai.networks import SliceStackUNet
from robustmed_monai.utils.errors import ImageShapeError


def network(neighbours: int = 1) -> SliceStackUNet:
    torch.manual_seed(0)
    return SliceStackUNet(neighbours, features=(4, 4, 4, 4, 4, 4), batch=3).eval()


@torch.no_grad()
def test_a_slice_sees_its_neighbours_and_no_other() -> None:
    stack = torch.randn(2, 1, 32, 32, 7)
    changed = stack.clone()
    changed[..., 3] += 1
    differs = (network()(stack) != network()(changed)).flatten(0, 3).any(0)
    assert differs.tolist() == [False, False, True, True, True, False, False]


@torch.no_grad()
def test_the_outermost_slices_are_their_own_neighbours() -> None:
    stack = torch.randn(1, 1, 32, 32, 2)
    longer = torch.cat([stack[..., :1], stack, stack[..., 1:]], -1)
    torch.testing.assert_close(network()(stack), network()(longer)[..., 1:3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        network()(torch.cat([stack, stack.flip(0)])).flip(0), network()(torch.cat([stack.flip(0), stack]))
    )


def test_anything_but_a_stack_is_refused() -> None:
    with pytest.raises(ImageShapeError, match=r"takes stacks .*got \(1, 1, 32, 32\)"):
        network()(torch.zeros(1, 1, 32, 32))
