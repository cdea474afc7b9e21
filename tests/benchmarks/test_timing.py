"""The harness of the benchmarks: who runs when, what a row says, what is caught. Times are no unit tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import bench_anomaly_map, bench_engine, bench_volume, timing
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.provenance import read_results
from tools.tables import render_table


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    logger = logging.getLogger("ignite")
    before = logger.level
    yield
    logger.setLevel(before)


def test_works_take_turns_after_a_call_that_does_not_count() -> None:
    calls: list[str] = []
    seconds = timing.interleaved({name: partial(calls.append, name) for name in "abc"}, 3)
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_row_holds_medians_and_a_loss_stays_a_loss() -> None:
    row = timing.row("case", [0.002, 0.004, 0.1, 0.003], [0.001] * 4, "peer")
    assert (row["ours"], row["peer"], row["unit"]) == (3.5, 1.0, "ms")
    assert row["ratio"] == pytest.approx(1 / 3.5, abs=1e-3)
    # Quartiles 2.75 and 28 ms of 2, 3, 4, 100 ms.
    assert row["iqr"] == [25.25, 0.0]


def test_rows_make_a_results_file_and_a_table(tmp_path: Path) -> None:
    chosen = timing.options("x", "What.", 5, ["--rounds", "2", "--output", str(tmp_path / "x.json")])
    assert chosen.rounds == 2
    path = timing.save(chosen, [timing.row("case", [1.0, 2.0], [3.0], "peer")], seeds=[7], pixels=8)
    found = read_results(path)
    assert (found["seeds"], found["rounds"], found["pixels"]) == ([7], 2, 8)
    assert "| case | 1500.0 | 3000.0 (peer) | ms | 2.00 |" in render_table(found, digits=1)


@pytest.mark.parametrize("value", [1.5, float("nan")])
def test_different_numbers_stop_the_benchmark(value: float) -> None:
    assert timing.same_numbers("map", torch.ones(2), torch.tensor([1.0, 1.25]), 0.25) == 0.25
    with pytest.raises(DataError, match="map: the two sides differ"):
        timing.same_numbers("map", torch.ones(2), torch.tensor([1.0, value]), 0.25)


@pytest.mark.slow
@pytest.mark.parametrize("script", [bench_anomaly_map, bench_engine, bench_volume])
def test_script_runs_and_writes_rows(script: object, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    script.main(["--quick", "--rounds", "1", "--output", str(output)])  # type: ignore[attr-defined]
    rows = read_results(output)["rows"]
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows)
