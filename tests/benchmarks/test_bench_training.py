from __future__ import annotations

from pathlib import Path

import pytest
from ignite.engine import Engine

from benchmarks.bench_training import CASES, FEWEST, WARM_UP, Case, rows_of, seconds_per_step
from robustmed_monai.utils.provenance import CHECKOUT


def test_only_the_steps_after_the_warm_up_count() -> None:
    taken: list[int] = []

    def step(_: Engine, batch: int) -> None:
        taken.append(batch)
        sum(i * i for i in range(2_000_000 if len(taken) <= WARM_UP else 20_000))

    engine = Engine(step)
    original = engine.run
    engine.run = lambda *args, **settings: original([0] * 4, max_epochs=10)  # type: ignore[method-assign]
    seconds = seconds_per_step(engine, 5)
    assert len(taken) == WARM_UP + 5
    assert len(seconds) == 5
    assert max(seconds) < 0.1


def test_slow_steps_end_when_the_fewest_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.bench_training.LONGEST", 0.0)
    engine = Engine(lambda _, batch: batch)
    original = engine.run
    engine.run = lambda *args, **settings: original([0] * 4, max_epochs=10)  # type: ignore[method-assign]
    assert len(seconds_per_step(engine, 20)) == FEWEST


def test_hours_are_those_of_all_steps() -> None:
    rows = rows_of("RA", Case("ra", ("train",), None, 7200), [0.4, 0.5, 9.0])
    figures = {row["column"]: row["mean"] for row in rows}
    assert figures == {"ms_per_step": 500, "measured": 3, "steps": 7200, "hours": 1.0}


@pytest.mark.parametrize("name", CASES)
def test_cases_name_configs_that_are_there(name: str) -> None:
    case = CASES[name]
    folder: Path = CHECKOUT / "bundles" / case.bundle / "configs"
    assert all((folder / f"{config}.json").is_file() for config in case.configs)
