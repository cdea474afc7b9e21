"""2-D networks on stacks of slices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robustmed_monai.inferers.slicewise import SlicewiseInferer


@pytest.fixture
def stack() -> torch.Tensor:
    image = torch.rand(1, 2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    image[..., [0, 4]] = 0
    return image


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_slices_come_back_where_they_were(stack: torch.Tensor, batch_size: int) -> None:
    seen: list[int] = []

    def infer(slices: torch.Tensor, network: Any) -> dict[str, torch.Tensor]:
        seen.append(len(slices))
        return {"pred": slices + 1, "score": slices.mean((1, 2, 3))}

    found = SlicewiseInferer(infer, batch_size)(stack, torch.nn.Identity())
    filled = torch.tensor([1, 2, 3, 5, 6])
    assert sum(seen) == 5
    assert max(seen) == min(batch_size, 5)
    torch.testing.assert_close(found["pred"][..., filled], stack[..., filled] + 1)
    assert not found["pred"][..., [0, 4]].any()
    assert found["score"].isnan()[0].nonzero().flatten().tolist() == [0, 4]
    torch.testing.assert_close(found["score"][0, filled], stack[0].mean((0, 1, 2))[filled])


def test_an_empty_stack_gives_nothing_of_the_right_shape() -> None:
    network = torch.nn.Conv2d(1, 3, 1)
    found = SlicewiseInferer()(torch.zeros(1, 1, 4, 4, 2), network)
    assert found.shape == (1, 3, 4, 4, 2)
    assert not found.any()


def test_the_network_is_in_evaluation_mode_and_left_as_it_was(stack: torch.Tensor) -> None:
    modes: list[bool] = []

    class Network(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            modes.append(self.training)
            return image

    network = Network().train()
    SlicewiseInferer()(stack, network)
    assert modes == [False]
    assert network.training


def test_a_3d_network_gets_the_volume() -> None:
    volume = torch.rand(1, 1, 4, 5, 6)
    seen = SlicewiseInferer(spatial_dims=3)(volume, lambda x: x.flip(-1))
    assert torch.equal(seen, volume.flip(-1))
