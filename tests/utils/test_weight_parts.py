from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from robustmed_monai.utils.errors import WeightsError
from robustmed_monai.utils.weight_parts import join_weights, load_part, part_info
from robustmed_monai.utils.weights import load_into, save_weights


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 1)


@pytest.fixture
def joined(tmp_path: Path) -> tuple[Path, Pair]:
    pair = Pair()
    save_weights(pair.first.state_dict(), tmp_path / "first.pt", {"temperature": 2.0})
    save_weights(pair.second.state_dict(), tmp_path / "second.pt", {"classes": 1})
    join_weights({"first": tmp_path / "first.pt", "second": tmp_path / "second.pt"}, tmp_path / "model.pt")
    return tmp_path / "model.pt", pair


def test_joined_weights_fit_the_whole(joined: tuple[Path, Pair]) -> None:
    other = Pair()
    load_into(other, joined[0])
    for ours, theirs in zip(other.parameters(), joined[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("file", ["model.pt", "first.pt"])
def test_a_part_is_loaded_from_the_whole_or_from_its_own_file(joined: tuple[Path, Pair], file: str) -> None:
    network = load_part(nn.Linear(2, 3), joined[0].with_name(file), "first")
    assert torch.equal(network.weight, joined[1].first.weight)  # type: ignore[arg-type]
    assert part_info(joined[0].with_name(file), "first")["temperature"] == 2.0


def test_a_part_that_does_not_fit_is_refused_and_the_network_unchanged(joined: tuple[Path, Pair]) -> None:
    network = nn.Linear(2, 4)
    before = network.weight.clone()
    with pytest.raises(WeightsError, match=r"its part 'first' does not fit Linear \(bias, weight\)"):
        load_part(network, joined[0], "first")
    assert torch.equal(network.weight, before)


def test_an_altered_file_is_refused(joined: tuple[Path, Pair]) -> None:
    data = bytearray(joined[0].read_bytes())
    data[-40] ^= 1
    joined[0].write_bytes(data)
    with pytest.raises(WeightsError, match="was altered"):
        load_part(nn.Linear(2, 3), joined[0], "first")
