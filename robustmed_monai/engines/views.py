"""Training on synthesised views: which batches of an endless source an epoch takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ignite.engine import Engine, Events

if TYPE_CHECKING:
    from robustmed_monai.data.synthetic_views import SyntheticViews


class EpochBatches:
    """Ignite handler of a trainer: every epoch goes on in an endless source where the one before ended.

    Without it each epoch would begin with the first batch again, as a loader does. A resumed run takes the
    batches that it would have taken.

    Args:
        views: the source, whose length is that of an epoch.
    """

    def __init__(self, views: SyntheticViews) -> None:
        self.views = views

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Move the source to the epoch that starts."""
        self.views.start = (engine.state.epoch - 1) * len(self.views) * self.views.world
