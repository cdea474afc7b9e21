"""Stages that follow one another, and RotNet's calibration."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.engines.risc import calibrate_rotnet, train_stage
from robustmed_monai.handlers.best_weights import BestWeights
from robustmed_monai.handlers.checkpoint import AtomicCheckpoint
from robustmed_monai.utils.errors import ConfigError, WeightsError
from robustmed_monai.utils.weights import load_info, save_weights


def stage(path: Path, epochs: int, seed: int = 0) -> tuple[Engine, AtomicCheckpoint, list[int]]:
    """A trainer that notes its epochs, and its checkpoint."""
    epochs_run: list[int] = []

    def note(engine: Engine, batch: Any) -> None:
        epochs_run.append(engine.state.epoch)

    trainer = Engine(note)
    trainer.state.max_epochs = epochs
    trainer.state.dataloader = [0]
    checkpoint = AtomicCheckpoint(
        str(path), {"network": nn.Linear(1, 1)}, settings={"seed": seed, "dataset": None}
    )
    checkpoint.attach(trainer)
    run = trainer.run
    trainer.run = partial(run, [0], max_epochs=epochs)  # type: ignore[method-assign]
    return trainer, checkpoint, epochs_run


class TestStages:
    def test_a_finished_one_is_left_and_an_unfinished_one_goes_on(self, tmp_path: Path) -> None:
        path = tmp_path / "checkpoint.pt"
        trainer, checkpoint, epochs = stage(path, 2)
        train_stage(trainer, checkpoint)
        assert epochs == [1, 2]
        trainer, checkpoint, epochs = stage(path, 2)
        train_stage(trainer, checkpoint, resume=True)
        assert epochs == []
        trainer, checkpoint, epochs = stage(path, 4)
        train_stage(trainer, checkpoint, resume=True)
        assert epochs == [3, 4]

    @pytest.mark.parametrize("epochs", [2, 4])
    def test_one_with_other_settings_is_neither_taken_nor_gone_on_with(
        self, tmp_path: Path, epochs: int
    ) -> None:
        path = tmp_path / "checkpoint.pt"
        train_stage(*stage(path, 2)[:2])
        trainer, checkpoint, run = stage(path, epochs, seed=99)
        with pytest.raises(ConfigError, match=r"other settings: seed=99 \(was 0\)"):
            train_stage(trainer, checkpoint, resume=True)
        assert run == []

    def test_resuming_needs_a_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="no such checkpoint"):
            train_stage(*stage(tmp_path / "checkpoint.pt", 2)[:2], resume=True)


class Marks(nn.Module):
    """RotNet: the brightest of the four corners, which some images lie about."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 30 * torch.stack(
            [image[:, 0, 0, 0], image[:, 0, 0, -1], image[:, 0, -1, -1], image[:, 0, -1, 0]], 1
        )


def test_calibration_is_stored_with_the_weights(tmp_path: Path) -> None:
    class Sure(nn.Module):
        """Right in half of the cases and sure in all, so its temperature is high."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(20.0))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.scale * Marks()(image) / 30
            return logits

    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 0.5
    images[::2, 0, 0, 0], images[1::2, 0, 0, -1] = 1, 1
    path = tmp_path / "model.pt"
    save_weights(Sure().state_dict(), path, {"stage": "rotnet"})
    info = calibrate_rotnet(Sure(), BestWeights(Sure(), str(path), "loss"), TensorDataset({"image": images}))
    assert info == load_info(path)
    assert info["stage"] == "rotnet"
    assert info["temperature"] > 2
    assert info["validation_accuracy"] == 0.5
    assert torch.tensor(info["validation_confusion"]).sum(1).tolist() == [40] * 4
