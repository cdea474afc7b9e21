"""How invariant features are at every validation; a training whose features are useless ends."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events

from robustmed_monai.metrics.cifl import invariance_figures, mean_figures
from robustmed_monai.utils.errors import ConfigError, TrainingError


class InvarianceHandler:
    """Ignite handler for an evaluator that runs on the batches of ``data.invariance_views``.

    The evaluator's `pred` are the features of the three views, one after the other. For each `kind` of batch
    its metrics get ``<kind>_s_same``, ``<kind>_s_inverted``, ``<kind>_s_other``, ``<kind>_overlap`` (mean
    |G|), ``<kind>_rank``, and ``<kind>_margin``, the mean of s_same and s_inverted less s_other: high when
    features follow the anatomy and nothing else. Place it before the handlers that write metrics.

    Args:
        crop: voxels left out at each border.
        checked_kind: kind of batch that decides whether the training goes on.
        max_other: the training ends when s_other is above it: the features ignore the image.
        min_rank: the training ends when the effective rank is below it: the channels are all the same.
        min_epochs_before_best: epochs before which nothing ends the training.

    Raises:
        ConfigError: during the run, when no batch is of the checked kind.
        TrainingError: during the run, when features are as said.
    """

    def __init__(
        self,
        crop: int = 8,
        checked_kind: str = "shapes",
        max_other: float = 0.9,
        min_rank: float = 2.0,
        min_epochs_before_best: int = 1,
    ) -> None:
        self.crop = crop
        self.checked_kind = checked_kind
        self.max_other = max_other
        self.min_rank = min_rank
        self.min_epochs_before_best = min_epochs_before_best
        self._found: list[dict[str, torch.Tensor]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._found.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._measure)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _measure(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        features = output["pred"]
        mask = batch["mask"].to(features.device)
        self._found.append(invariance_figures(features, mask, self.crop, batch["kind"]))

    def _report(self, engine: Engine) -> None:
        metrics = mean_figures(self._found)
        engine.state.metrics.update(metrics)
        if engine.state.epoch > self.min_epochs_before_best:
            self._check(engine, metrics)

    def _check(self, engine: Engine, metrics: dict[str, float]) -> None:
        if f"{self.checked_kind}_s_other" not in metrics:
            raise ConfigError(
                f"checked_kind={self.checked_kind!r}: the evaluator has {sorted(metrics)}; name one of these."
            )
        other, rank = metrics[f"{self.checked_kind}_s_other"], metrics[f"{self.checked_kind}_rank"]
        advice = "Train with center=True and a crop of at least the network's depth, or change tau_g."
        if other > self.max_other:
            raise TrainingError(
                f"epoch {engine.state.epoch}: the features of different {self.checked_kind} are alike "
                f"(s_other = {other:.3f}, above {self.max_other}): they do not look at the image. {advice}"
            )
        if rank < self.min_rank:
            raise TrainingError(
                f"epoch {engine.state.epoch}: the features of {self.checked_kind} have an effective rank of "
                f"{rank:.2f}, below {self.min_rank}: all channels show the same. {advice}"
            )
