"""Learning rates over the epochs of a run, for ``torch.optim.lr_scheduler.LambdaLR``."""

from __future__ import annotations

import math

from robustmed_monai.utils.errors import ConfigError


class TwoStageCosine:
    """A half cosine over the first stage and a lower one over the second.

    Args:
        max_epochs: epochs of the run.
        first_epochs: epochs of the first stage (the warm-up of an IntrospectiveLoss).
        second_rate: share of the learning rate that the second stage starts from.
        rise_epochs: epochs over which the very first rates rise linearly.
        rise_share: the same as a share of ``max_epochs``, rounded down, in place of ``rise_epochs``.

    Raises:
        ConfigError: when the stages do not fit the epochs.

    Example:
        >>> schedule = TwoStageCosine(max_epochs=10, first_epochs=8, second_rate=0.25)
        >>> [round(schedule(epoch), 2) for epoch in (0, 1, 4, 7, 8, 9)]
        [0.5, 0.97, 0.55, 0.07, 0.25, 0.16]
    """

    def __init__(
        self,
        max_epochs: int,
        first_epochs: int = 0,
        second_rate: float = 1.0,
        rise_epochs: int = 1,
        rise_share: float | None = None,
    ) -> None:
        if not 0 <= first_epochs <= max_epochs:
            raise ConfigError(f"first_epochs={first_epochs} does not lie in 0 to max_epochs={max_epochs}.")
        self.max_epochs = max_epochs
        self.first_epochs = first_epochs
        self.second_rate = second_rate
        # A share such as 0.1 is no exact number: 30 steps make 3, not 2.
        self.rise_epochs = rise_epochs if rise_share is None else int(rise_share * max_epochs + 1e-6)

    def __call__(self, epoch: int) -> float:
        """Factor of the learning rate in the epoch that comes after ``epoch`` completed ones."""
        if epoch < self.first_epochs:
            start, length, top = 0, self.first_epochs, 1.0
        else:
            start, length, top = self.first_epochs, self.max_epochs - self.first_epochs, self.second_rate
        rise = min(1.0, (epoch + 1) / (self.rise_epochs + 1))
        # The last epoch of a stage still learns a little: the cosine ends one half epoch after it.
        return rise * top * 0.5 * (1 + math.cos(math.pi * (epoch - start) / (length + 0.5)))


def schedule_steps(max_epochs: int, epoch_length: int, per_epoch: bool = False) -> int:
    """Steps of a learning rate schedule over a run: one per epoch, or one per iteration.

    Args:
        max_epochs: epochs of the run.
        epoch_length: iterations of an epoch.
        per_epoch: the schedule moves on once per epoch.
    """
    return max_epochs * (1 if per_epoch else epoch_length)
