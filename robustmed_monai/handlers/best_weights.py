"""The best weights of a training, as files that are verified when they are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn

from robustmed_monai.utils.errors import ConfigError, TrainingError, WeightsError
from robustmed_monai.utils.weights import save_weights

Info = Mapping[str, Any] | Callable[[Engine], Mapping[str, Any]]


class BestWeights:
    """Keeps the network of the best validation as verified weights (``model.pt`` and ``model.json``).

    Attach it by the evaluator's handler list and put it into the ``state`` of ``AtomicCheckpoint``, so that a
    resumed run does not replace the best network by a worse one. A metric that is not finite never counts.

    Args:
        network: network to save; wrappers of ``torch.compile`` and DDP are left out.
        path: weights file, or the folder of ``model.pt``.
        metric_name: name in ``evaluator.state.metrics``.
        mode: "min" when lower is better, "max" when higher is.
        info: JSON content to save with the weights, or a function of the evaluator that returns it. Metric,
            value and epoch are added.
        first_epoch: the first epoch that is compared. Of the epochs before it, such as those of a warm-up,
            the last one validated is kept, until there is a better one from here on.
        patience: validations in a row that may be no better; then ``AtomicCheckpoint`` ends the training.
            None never does.

    Raises:
        ConfigError: when an argument is out of range or the metric does not exist.
        TrainingError: during the run, when the weights cannot be written.
    """

    def __init__(
        self,
        network: nn.Module,
        path: str,
        metric_name: str,
        mode: str = "max",
        info: Info | None = None,
        first_epoch: int = 1,
        patience: int | None = None,
    ) -> None:
        if mode not in ("min", "max"):
            raise ConfigError(f"mode is {mode!r}; choose one of min, max.")
        if patience is not None and patience < 1:
            raise ConfigError(f"patience={patience}; give at least 1 validation, or None.")
        self.network = network
        self.path = Path(path)
        if self.path.is_dir() or not self.path.suffix:
            self.path /= "model.pt"
        self.metric_name = metric_name
        self.mode = mode
        self.info: Info = info or {}
        self.first_epoch = first_epoch
        self.patience = patience
        self.value: float | None = None
        self.epoch = 0
        self.no_better = 0

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    @property
    def exhausted(self) -> bool:
        """Whether as many validations as ``patience`` allows were no better."""
        return self.patience is not None and self.no_better >= self.patience

    def __call__(self, engine: Engine) -> None:
        """Save the network when the validation just completed is the best one."""
        metrics = engine.state.metrics
        if self.metric_name not in metrics:
            raise ConfigError(
                f"metric_name '{self.metric_name}' does not exist; the evaluator has {sorted(metrics)}."
            )
        value, epoch = float(metrics[self.metric_name]), engine.state.epoch
        if not self._is_better(value):
            self.no_better += 1
            return
        if idist.get_rank() == 0:
            self._save(engine, value)
        self.no_better, self.epoch = 0, epoch
        # Without a value the next one is better.
        self.value = value if epoch >= self.first_epoch else None

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, its epoch and how many validations since were no better."""
        return {"value": self.value, "epoch": self.epoch, "no_better": self.no_better}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.value, self.epoch = state_dict["value"], state_dict["epoch"]
        self.no_better = state_dict["no_better"]

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.value is None:
            return True
        return value < self.value if self.mode == "min" else value > self.value

    def _save(self, engine: Engine, value: float) -> None:
        info = self.info(engine) if callable(self.info) else self.info
        found = {"metric": self.metric_name, "value": value, "epoch": engine.state.epoch}
        try:
            save_weights(self.network.state_dict(), self.path, {**info, **found})
        except WeightsError as error:
            raise TrainingError(str(error)) from error
