"""Smooth noise: against a transcription in NumPy, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from robustmed_monai.transforms.params import index_params
from robustmed_monai.transforms.synthesis.noise import enlarge, noise_field, sample_noise
from robustmed_monai.utils.errors import ConfigError

SIZES = [(37, 24), (19, 24, 17)]


def resize(grid: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.float64]:
    """Linear, corner on corner, one axis after the other."""
    for axis, side in enumerate(size):
        nodes = grid.shape[axis]
        places = np.linspace(0, nodes - 1, side)
        # All lines along an axis are the same combinations of its nodes.
        weights = np.stack([np.interp(places, np.arange(nodes), unit) for unit in np.eye(nodes)], 1)
        grid = np.moveaxis(np.tensordot(weights, grid, (1, axis)), 0, axis)
    return grid


@pytest.mark.parametrize("size", SIZES)
def test_field_is_draw_perlins(size: tuple[int, ...]) -> None:
    grids = sample_noise(2, 3, size, (4, 8, 40), 2.0, torch.Generator().manual_seed(0))
    assert [grid.shape[2] for grid in grids.values()] == [-(-size[0] // scale) for scale in (4, 8, 40)]
    field = noise_field(grids, size)
    assert field.shape == (2, 3, *size)
    for row in range(2):
        for channel in range(3):
            expected = sum(resize(grid[row, channel].double().numpy(), size) for grid in grids.values())
            np.testing.assert_allclose(field[row, channel].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_batch_is_its_samples(size: tuple[int, ...]) -> None:
    grids = sample_noise(3, 2, size, (8, 16), 1.0, torch.Generator().manual_seed(1))
    one = noise_field(index_params(grids, torch.tensor([1])), size)
    torch.testing.assert_close(one[0], noise_field(grids, size)[1], atol=0, rtol=0)


def test_enlarging_is_torchs() -> None:
    field = torch.randn(2, 3, 7, 5, 9, generator=torch.Generator().manual_seed(0))
    before = field.clone()
    expected = torch.nn.functional.interpolate(field, (13, 5, 12), mode="trilinear", align_corners=True)
    torch.testing.assert_close(enlarge(field, (13, 5, 12)), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(field, before, atol=0, rtol=0)


def test_spread_is_one_draw_per_sample_and_scale() -> None:
    grids = sample_noise(400, 64, (32, 32), (4,), 3.0, torch.Generator().manual_seed(0), min_std=1.0)
    spread = grids["grid_0"].flatten(1).std(1)
    assert 0.95 < spread.min() < 1.05
    assert 2.9 < spread.max() < 3.1
    assert abs(spread.mean() - 2.0) < 0.1
    by_channel = grids["grid_0"].flatten(2).std(2)
    assert (by_channel / spread[:, None] - 1).abs().mean() < 0.15


@pytest.mark.parametrize("scales", [(), (0.0,), (4.0, -1.0)])
def test_wrong_scales_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="scales"):
        sample_noise(1, 1, (8, 8), scales, 1.0, torch.Generator())
