from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine
from torch.utils.data import DataLoader

from robustmed_monai.data.synthetic_views import SyntheticViews
from robustmed_monai.engines.views import EpochBatches
from robustmed_monai.handlers.checkpoint import AtomicCheckpoint


def _seen(folder: Path, epochs: int, length: int, done: int = 0) -> list[torch.Tensor]:
    """Images that a trainer with checkpoints sees, after ``done`` epochs."""
    views = SyntheticViews((16, 16), batch_size=2, length=length, label_map_cache=3)
    seen: list[torch.Tensor] = []
    engine = Engine(lambda _, batch: seen.append(batch["image"]))
    EpochBatches(views).attach(engine)
    AtomicCheckpoint(str(folder / "checkpoint.pt"), {}).attach(engine)
    engine.state.epoch, engine.state.iteration = done, done * length
    engine.state.max_epochs, engine.state.epoch_length = epochs, length
    engine.run(DataLoader(views, batch_size=None))
    return seen


def test_epochs_go_on_in_the_source(tmp_path: Path) -> None:
    whole, parts = _seen(tmp_path, epochs=1, length=6), _seen(tmp_path, epochs=3, length=2)
    assert len(parts) == 6
    assert all(torch.equal(x, y) for x, y in zip(whole, parts, strict=True))
    assert not torch.equal(parts[0], parts[2])


def test_a_resumed_run_takes_the_batches_that_it_would_have_taken(tmp_path: Path) -> None:
    whole, resumed = _seen(tmp_path, epochs=3, length=2), _seen(tmp_path, epochs=3, length=2, done=2)
    assert all(torch.equal(x, y) for x, y in zip(whole[4:], resumed, strict=True))
