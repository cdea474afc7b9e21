from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.engines import SupervisedEvaluator
from torch import nn

from robustmed_monai.handlers.cifl import InvarianceHandler
from robustmed_monai.metrics.cifl import s_inverted, s_other, s_same
from robustmed_monai.utils.errors import ConfigError, TrainingError

SIZE = 24


def _batch(kind: str, seed: int, count: int = 2) -> dict[str, Any]:
    drawn = torch.rand(2, count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return {
        "image": torch.cat([drawn[0], drawn[1], 1 - drawn[0]]),
        "mask": torch.ones(count, 1, SIZE, SIZE),
        "kind": kind,
    }


class Features(nn.Module):
    """Four channels: the image, its square and two shifts."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image, image**2, image.roll(3, 2), image.roll(5, 3)], 1)


class Blind(nn.Module):
    """Three different channels that no image changes."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        return maps.expand(len(image), -1, -1, -1)


class OneMap(nn.Module):
    """Three channels that are one."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.expand(-1, 3, -1, -1)


Evaluate = Callable[..., dict[str, float]]


@pytest.fixture
def evaluate() -> Evaluate:
    def run(
        network: nn.Module, batches: list[dict[str, Any]], epoch: int = 1, **settings: Any
    ) -> dict[str, float]:
        evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=batches,
            network=network,
            val_handlers=[InvarianceHandler(crop=2, **settings)],
            decollate=False,
        )
        evaluator.run(epoch)
        metrics: dict[str, float] = evaluator.state.metrics
        return metrics

    return run


def test_metrics_are_means_over_the_batches_of_a_kind(evaluate: Evaluate) -> None:
    batches = [_batch("shapes", 0), _batch("shapes", 1, 3), _batch("brains", 2)]
    metrics = evaluate(Features(), batches)
    network, (first, second, brains) = Features(), batches
    views = [network(b["image"]).chunk(3) for b in (first, second)]
    same = [s_same(image, other, crop=2) for image, other, _ in views]
    assert metrics["shapes_s_same"] == pytest.approx(float(torch.cat(same).mean()), abs=1e-6)
    image, _, other = network(brains["image"]).chunk(3)
    inverted = s_inverted(image, other, crop=2).mean()
    assert metrics["brains_s_inverted"] == pytest.approx(float(inverted), abs=1e-6)
    assert metrics["brains_s_other"] == pytest.approx(float(s_other(image, crop=2).mean()))
    expected = (metrics["brains_s_same"] + metrics["brains_s_inverted"]) / 2 - metrics["brains_s_other"]
    assert metrics["brains_margin"] == pytest.approx(expected)
    assert {f"shapes_{k}" for k in ("overlap", "rank", "s_inverted", "s_other")} <= set(metrics)


def test_features_that_ignore_the_image_end_the_training(evaluate: Evaluate) -> None:
    with pytest.raises(TrainingError, match=r"s_other = 1\.000, above 0\.9.*do not look at the image.*crop"):
        evaluate(Blind(), [_batch("shapes", 0)], epoch=3, min_epochs_before_best=2)


def test_channels_that_are_one_end_the_training(evaluate: Evaluate) -> None:
    with pytest.raises(TrainingError, match=r"effective rank of 1\.00, below 2"):
        evaluate(OneMap(), [_batch("shapes", 0)], epoch=3, min_epochs_before_best=2)


def test_nothing_ends_before_the_grace_is_over(evaluate: Evaluate) -> None:
    metrics = evaluate(Blind(), [_batch("shapes", 0)], epoch=2, min_epochs_before_best=2)
    assert metrics["shapes_s_other"] == pytest.approx(1.0)


def test_other_kinds_do_not_end_it(evaluate: Evaluate) -> None:
    twins = _batch("brains", 0)
    twins["image"] = twins["image"][::2].repeat_interleave(2, 0)
    metrics = evaluate(Features(), [_batch("shapes", 0), twins], epoch=5)
    assert metrics["brains_s_other"] == pytest.approx(1.0)


def test_a_checked_kind_that_is_not_there_is_named(evaluate: Evaluate) -> None:
    with pytest.raises(ConfigError, match="checked_kind='shapes'"):
        evaluate(Features(), [_batch("brains", 0)], epoch=5)
