from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from robustmed_monai.engines.schedules import TwoStageCosine, schedule_steps
from robustmed_monai.utils.errors import ConfigError


@pytest.mark.parametrize(("epochs", "first"), [(10, 8), (40, 32), (50, 50), (7, 0), (1, 1), (1, 0), (2, 1)])
def test_rates_are_positive_and_at_most_the_whole(epochs: int, first: int) -> None:
    rates = [TwoStageCosine(epochs, first, 0.25)(epoch) for epoch in range(epochs)]
    assert all(0 < rate <= 1 for rate in rates)


def test_each_stage_falls_and_the_second_starts_at_its_share() -> None:
    schedule = TwoStageCosine(40, 32, 0.25)
    rates = [schedule(epoch) for epoch in range(40)]
    assert rates[1:32] == sorted(rates[1:32], reverse=True)
    assert rates[32:] == sorted(rates[32:], reverse=True)
    assert rates[32] == 0.25
    assert rates[31] < 0.05
    assert rates[39] < 0.25 * 0.1


def test_first_rates_rise() -> None:
    rates = [TwoStageCosine(100, 0, rise_epochs=3)(epoch) for epoch in range(6)]
    assert rates[0] == 0.25
    assert rates[:4] == sorted(rates[:4])
    assert [TwoStageCosine(100, 0, rise_epochs=0)(epoch) for epoch in range(1)] == [1.0]


def test_without_a_first_stage_it_is_one_cosine() -> None:
    schedule = TwoStageCosine(20, second_rate=1.0, rise_epochs=0)
    for epoch in range(20):
        assert schedule(epoch) == pytest.approx(0.5 * (1 + math.cos(math.pi * epoch / 20.5)))
    whole = TwoStageCosine(20, 20, second_rate=0.25, rise_epochs=0)
    assert [whole(epoch) for epoch in range(20)] == [schedule(epoch) for epoch in range(20)]


def test_torch_steps_it_by_completed_epochs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.002)
    schedule = TwoStageCosine(6, 4, 0.5)
    scheduler = LambdaLR(optimizer, schedule)
    seen = []
    for _ in range(6):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx([0.002 * schedule(epoch) for epoch in range(6)])


@pytest.mark.parametrize("first", [-1, 11])
def test_stages_that_do_not_fit_are_refused(first: int) -> None:
    with pytest.raises(ConfigError, match=f"first_epochs={first} does not lie in 0 to max_epochs=10"):
        TwoStageCosine(10, first)


@pytest.mark.parametrize("steps", [1, 9, 30, 60, 70, 110, 1230])
def test_a_share_of_the_steps_rises(steps: int) -> None:
    assert TwoStageCosine(steps, rise_share=0.1).rise_epochs == steps // 10
    assert TwoStageCosine(steps, rise_share=0.05).rise_epochs == steps // 20


def test_a_schedule_moves_on_per_iteration_or_per_epoch() -> None:
    assert schedule_steps(4, 25) == 100
    assert schedule_steps(4, 25, per_epoch=True) == 4
