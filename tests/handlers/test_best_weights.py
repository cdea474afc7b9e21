from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events
from torch import nn

from robustmed_monai.handlers import AtomicCheckpoint, BestWeights
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.weights import load_info


def evaluator_with(value: object, epoch: int = 1) -> Engine:
    engine = Engine(lambda *_: None)
    engine.state.metrics, engine.state.epoch = {"m": value}, epoch
    return engine


def test_before_the_first_epoch_the_last_validation_is_kept(tmp_path: Path) -> None:
    best = BestWeights(nn.Linear(1, 1), str(tmp_path / "model.pt"), "m", first_epoch=4)
    kept = []
    for epoch, value in enumerate([0.9, 0.8, math.nan, 0.1, 0.2, 0.15], 1):
        best(evaluator_with(value, epoch))
        kept.append(load_info(tmp_path / "model.pt")["epoch"])
    assert kept == [1, 2, 2, 4, 5, 5]
    assert (best.value, best.epoch) == (0.2, 5)


def test_a_training_ends_when_its_patience_is_exhausted_also_after_resuming(tmp_path: Path) -> None:
    def trained(epochs: int, resume: bool = False) -> tuple[int, int]:
        values = iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.9][2 * resume :])
        evaluator = Engine(lambda *_: None)
        best = BestWeights(nn.Linear(1, 1), str(tmp_path / "model.pt"), "m", patience=3)
        evaluator.add_event_handler(
            Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(m=next(values), epoch=1)
        )
        best.attach(evaluator)
        trainer = Engine(lambda *_: None)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))
        checkpoint = AtomicCheckpoint(str(tmp_path / "c.pt"), {"best": best})
        checkpoint.attach(trainer)
        trainer.state.max_epochs = epochs
        if resume:
            checkpoint.resume(trainer)
        trainer.run([0], max_epochs=epochs)
        return trainer.state.epoch, best.no_better

    assert trained(2) == (2, 0)
    assert trained(9, resume=True) == (5, 3)


def test_info_of_the_best_weights_may_come_from_the_evaluator(tmp_path: Path) -> None:
    path = str(tmp_path / "model.pt")
    BestWeights(nn.Linear(1, 1), path, "m", info=lambda e: {"threshold": 2 * e.state.metrics["m"]})(
        evaluator_with(0.5)
    )
    assert load_info(path) == {"threshold": 1.0, "metric": "m", "value": 0.5, "epoch": 1}
    BestWeights(nn.Linear(1, 1), path, "m", info={"data": "IXI"})(evaluator_with(0.5, 4))
    assert load_info(path) == {"data": "IXI", "metric": "m", "value": 0.5, "epoch": 4}


def test_a_metric_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metric_name 'auroc' does not exist; the evaluator has \['m'\]"):
        BestWeights(nn.Linear(1, 1), str(tmp_path / "model.pt"), "auroc")(evaluator_with(0.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "low"}, "mode is 'low'; choose one of min, max"),
        ({"patience": 0}, "patience=0; give at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BestWeights(nn.Linear(1, 1), "m.pt", "a", **settings)
