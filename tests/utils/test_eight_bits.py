from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustmed_monai.utils.eight_bits import SCALE, restored, rounded_for, row_scales
from robustmed_monai.utils.errors import WeightsError
from robustmed_monai.utils.weights import load_weights, save_weights


@pytest.fixture
def matrix() -> torch.Tensor:
    drawn = torch.randn(32, 48, generator=torch.Generator().manual_seed(0))
    drawn[3] = 0
    return drawn


@pytest.fixture
def inputs() -> torch.Tensor:
    """Inputs that go together, as pixels do: six directions and a little noise."""
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(6, 48, generator=generator)
    few = torch.randn(500, 6, generator=generator) @ directions
    return few + 0.05 * torch.randn(500, 48, generator=generator)


def test_a_file_in_eight_bits_loads_as_its_matrix(tmp_path: Path, matrix: torch.Tensor) -> None:
    rounded = rounded_for(matrix, torch.eye(48))
    scales = row_scales(matrix)
    state = {"a.weight": rounded, f"a.weight{SCALE}": scales, "a.bias": torch.ones(32)}
    save_weights(state, tmp_path / "model.pt")
    loaded = load_weights(tmp_path / "model.pt")
    assert list(loaded) == ["a.weight", "a.bias"]
    assert rounded.dtype == torch.int8
    assert ((loaded["a.weight"] - matrix).abs() <= scales[:, None] / 2 + 1e-6).all()
    assert loaded["a.weight"][3].abs().max() == 0


def test_rounding_for_inputs_changes_products_less_than_plain_rounding(
    matrix: torch.Tensor, inputs: torch.Tensor
) -> None:
    scales = row_scales(matrix)[:, None]
    plain, fitted = (matrix / scales).round() * scales, rounded_for(matrix, inputs) * scales
    errors = [(inputs @ (found - matrix).T).square().mean() for found in (plain, fitted)]
    assert errors[1] < 0.25 * errors[0]


def test_whole_numbers_without_scales_and_scales_without_whole_numbers_stay() -> None:
    state = {
        "count": torch.tensor([1, 2], dtype=torch.int8),
        "norm": torch.ones(2),
        "norm_scale": torch.full((2,), 3.0),
    }
    found = restored(state, "model.pt")
    assert found.keys() == state.keys()
    assert all(found[name] is tensor for name, tensor in state.items())


def test_scales_of_another_number_of_rows_are_refused(tmp_path: Path) -> None:
    state = {"a": torch.zeros(4, 2, dtype=torch.int8), "a_scale": torch.ones(3)}
    save_weights(state, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"model\.pt: 'a' \(4, 2\) has scales \(3,\)"):
        load_weights(tmp_path / "model.pt")
