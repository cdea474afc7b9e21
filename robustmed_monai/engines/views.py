"""Training on pairs of views: which batches an epoch takes, and all views of a batch in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import PrepareBatch

if TYPE_CHECKING:
    from robustmed_monai.data.synthetic_views import SyntheticViews


class StackViews(PrepareBatch):
    """MONAI's ``prepare_batch`` that lays the views of a batch one after the other.

    Args:
        keys: views; each (B, C, *spatial).

    Example:
        >>> batch = {"image": torch.zeros(4, 1, 8, 8), "image_2": torch.ones(4, 1, 8, 8)}
        >>> StackViews()(batch)[0].shape
        torch.Size([8, 1, 8, 8])
    """

    def __init__(self, keys: Sequence[str] = ("image", "image_2")) -> None:
        self.keys = tuple(keys)

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the views (len(keys) B, C, *spatial) on the device, and no label."""
        views = [batchdata[key].to(device=device, non_blocking=non_blocking) for key in self.keys]
        return torch.cat(views), None


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
