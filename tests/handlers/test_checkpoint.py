from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import MeanAbsoluteError
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from monai.transforms import Compose, RandGaussianNoised, RandRotate90d
from torch import nn

from robustmed_monai.handlers import AtomicCheckpoint, BestWeights
from robustmed_monai.utils.errors import ConfigError, TrainingError, WeightsError
from robustmed_monai.utils.weights import load_info, load_weights

# On a machine of one core torch advises against two workers.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")


def autoencoder(dropout: float = 0.3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(4, 1, 3, padding=1),
    )


class Images(Dataset):
    """Small images from MONAI's random transforms and from numpy's and python's global generators."""

    def __init__(self, augment: bool) -> None:
        noise = RandGaussianNoised("image", prob=0.8, std=0.2)
        super().__init__(
            [{"index": i} for i in range(10)], Compose([RandRotate90d("image"), noise]) if augment else None
        )
        self.augment = augment

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:  # type: ignore[override]
        image = torch.linspace(0, 1, 64).reshape(1, 8, 8) * (index + 1) / 10
        if self.augment:
            image = image + 0.01 * float(np.random.rand()) + 0.01 * random.random()
            item: Any = self.transform({"image": image})
            image = item["image"].as_tensor()
        return {"image": image, "label": image}


@dataclass
class Run:
    trainer: SupervisedTrainer
    evaluator: SupervisedEvaluator
    network: nn.Module
    optimizer: torch.optim.Optimizer
    best: BestWeights
    checkpoint: AtomicCheckpoint

    def state(self) -> dict[str, Any]:
        """Everything that must be equal."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state(),
            "python": random.getstate(),
            "best": (self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch),
            "model.pt": (self.best.value, self.best.epoch),
            "counters": (self.trainer.state.epoch, self.trainer.state.iteration),
        }


def build(
    folder: Path,
    max_epochs: int,
    workers: int = 0,
    generator: bool = False,
    checkpoint_first: bool = False,
    seed: int = 0,
    **settings: Any,
) -> Run:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    network = autoencoder()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    order = torch.Generator().manual_seed(seed) if generator else None
    best = BestWeights(network, str(folder / "model.pt"), "mae", "min")
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Images(augment=False), batch_size=5),
        network=network,
        key_val_metric={"mae": MeanAbsoluteError(lambda o: (o[0]["pred"][None], o[0]["label"][None]))},
        metric_cmp_fn=lambda new, old: bool(new < old),
        val_handlers=[best],
    )
    state = {"network": network, "optimizer": optimizer, "scheduler": scheduler, "best": best}
    checkpoint = AtomicCheckpoint(str(folder / "checkpoint.pt"), state, evaluator, **settings)
    validation = ValidationHandler(1, evaluator, exec_at_start=True)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=DataLoader(
            Images(augment=True), batch_size=5, shuffle=True, num_workers=workers, generator=order
        ),
        network=network,
        optimizer=optimizer,
        loss_function=nn.MSELoss(),
        train_handlers=[checkpoint, validation] if checkpoint_first else [validation, checkpoint],
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scheduler.step())
    return Run(trainer, evaluator, network, optimizer, best, checkpoint)


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the last bit, through dictionaries and sequences."""
    assert type(a) is type(b) or isinstance(a, float), where
    if isinstance(a, Mapping):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}.{index}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b), where
    else:
        assert a == b, where


@pytest.mark.parametrize(
    ("workers", "generator", "checkpoint_first"),
    [(0, False, False), (0, True, True), (2, False, True), (2, True, False)],
)
def test_n_epochs_and_n_resumed_are_bit_identical_to_2n(
    tmp_path: Path, workers: int, generator: bool, checkpoint_first: bool
) -> None:
    options: dict[str, Any] = {
        "workers": workers,
        "generator": generator,
        "checkpoint_first": checkpoint_first,
    }
    whole = build(tmp_path / "whole", 4, **options)
    whole.trainer.run()
    expected = whole.state()

    build(tmp_path / "parts", 2, **options).trainer.run()
    # A new process: other weights, other seeds, and somebody has drawn numbers.
    resumed = build(tmp_path / "parts", 4, seed=9, **options)
    random.gauss(0, 1)
    np.random.randn(3)
    resumed.checkpoint.resume(resumed.trainer)
    assert resumed.trainer.state.epoch == 2
    resumed.trainer.run()
    assert_same(resumed.state(), expected)
    assert_same(
        load_weights(tmp_path / "parts" / "model.pt"),
        load_weights(tmp_path / "whole" / "model.pt"),
        "model.pt",
    )


def test_without_restored_generators_the_runs_would_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The control: the comparison above does notice what it is about.
    whole = build(tmp_path / "whole", 4)
    whole.trainer.run()
    build(tmp_path / "parts", 2).trainer.run()
    resumed = build(tmp_path / "parts", 4, seed=9)
    resumed.checkpoint.resume(resumed.trainer)
    monkeypatch.setitem(AtomicCheckpoint.resume.__globals__, "restore_random", lambda *_: None)
    resumed.trainer.run()
    assert not torch.equal(resumed.network.state_dict()["0.weight"], whole.network.state_dict()["0.weight"])


def test_a_run_killed_within_an_epoch_resumes_from_its_start(tmp_path: Path) -> None:
    whole = build(tmp_path / "whole", 3)
    whole.trainer.run()
    expected = whole.state()
    torn = build(tmp_path / "torn", 3)

    @torn.trainer.on(Events.ITERATION_STARTED(once=4))
    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        torn.trainer.run()
    resumed = build(tmp_path / "torn", 3, seed=5)
    resumed.checkpoint.resume(resumed.trainer)
    assert (resumed.trainer.state.epoch, resumed.trainer.state.iteration) == (1, 2)
    resumed.trainer.run()
    assert_same(resumed.state(), expected)


def test_a_resumed_run_does_not_overwrite_the_best_weights_by_worse(tmp_path: Path) -> None:
    first = build(tmp_path, 2)
    first.trainer.run()
    held = load_info(tmp_path / "model.pt")
    resumed = build(tmp_path, 3)
    resumed.checkpoint.resume(resumed.trainer)
    assert resumed.best.value == held["value"]
    assert resumed.evaluator.state.best_metric == first.evaluator.state.best_metric
    with torch.no_grad():
        resumed.network.get_parameter("4.bias").add_(10.0)
    resumed.evaluator.run(3)
    assert load_info(tmp_path / "model.pt") == held
    assert resumed.evaluator.state.best_metric == first.evaluator.state.best_metric


class TwoNetworks:
    """Two networks with an optimizer each in a plain ignite engine, with noise from an explicit generator."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.networks = {"encoder": nn.Linear(4, 2), "decoder": nn.Linear(2, 4)}
        self.optimizers = {
            "encoder": torch.optim.Adam(self.networks["encoder"].parameters(), 0.1),
            "decoder": torch.optim.SGD(self.networks["decoder"].parameters(), 0.1, momentum=0.9),
        }
        self.noise = torch.Generator().manual_seed(seed)
        self.engine = Engine(self.step)
        state = {
            **self.networks,
            **{f"{k}_optimizer": v for k, v in self.optimizers.items()},
            "noise": self.noise,
        }
        self.checkpoint = AtomicCheckpoint(str(path), state)
        self.checkpoint.attach(self.engine)

    def step(self, engine: Engine, batch: torch.Tensor) -> float:
        for optimizer in self.optimizers.values():
            code = self.networks["encoder"](batch)
            code = code + torch.randn(code.shape, generator=self.noise)
            loss = (self.networks["decoder"](code) - batch).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    def run(self, epochs: int) -> dict[str, Any]:
        data = torch.arange(12.0).reshape(3, 4)
        self.engine.run(torch.utils.data.DataLoader(data / 12, batch_size=1, shuffle=True), max_epochs=epochs)  # type: ignore[arg-type]
        networks = {k: v.state_dict() for k, v in self.networks.items()}
        return {
            **networks,
            "optimizers": [v.state_dict() for v in self.optimizers.values()],
            "n": self.noise.get_state(),
        }


def test_two_optimizers_in_a_plain_ignite_engine_resume_exactly(tmp_path: Path) -> None:
    expected = TwoNetworks(tmp_path / "whole.pt").run(6)
    TwoNetworks(tmp_path / "parts.pt").run(3)
    resumed = TwoNetworks(tmp_path / "parts.pt", seed=1)
    resumed.checkpoint.resume(resumed.engine)
    assert_same(resumed.run(6), expected)
    assert resumed.engine.state.iteration == 18


class Scaler:
    """Stands for torch's GradScaler, which only lives on an accelerator."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


def test_the_scaler_that_run_makes_is_restored(tmp_path: Path) -> None:
    def with_scaler(max_epochs: int, scale: float) -> Run:
        run = build(tmp_path, max_epochs)
        run.trainer.add_event_handler(Events.STARTED, lambda engine: setattr(engine, "scaler", Scaler(scale)))
        return run

    with_scaler(1, 8.0).trainer.run()
    resumed = with_scaler(2, 1.0)
    resumed.checkpoint.resume(resumed.trainer)
    resumed.trainer.run()
    assert resumed.trainer.scaler.scale == 8.0  # type: ignore[union-attr]


def test_the_generator_of_a_trainer_is_found_and_restored(tmp_path: Path) -> None:
    def with_generator(max_epochs: int, seed: int) -> tuple[Run, torch.Generator]:
        run = build(tmp_path, max_epochs)
        generator = torch.Generator().manual_seed(seed)
        run.trainer.generator = generator  # type: ignore[attr-defined]
        return run, generator

    first, generator = with_generator(1, 3)
    torch.rand(5, generator=generator)
    first.trainer.run()
    resumed, restored = with_generator(2, 4)
    resumed.checkpoint.resume(resumed.trainer)
    resumed.trainer.run()
    assert torch.equal(restored.get_state(), generator.get_state())


def test_the_file_reads_with_weights_only_and_is_group_readable(tmp_path: Path) -> None:
    build(tmp_path, 1).trainer.run()
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert set(content["state"]) == {"network", "optimizer", "scheduler", "best"}
    assert content["epoch"] == 1
    assert (tmp_path / "checkpoint.pt").stat().st_mode & 0o044 == 0o044


def test_wrapped_networks_are_saved_without_their_wrapper(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    engine = Engine(lambda *_: None)
    AtomicCheckpoint(str(tmp_path / "c.pt"), {"network": torch.compile(nn.DataParallel(network))}).save(
        engine
    )
    other = nn.Linear(2, 2)
    AtomicCheckpoint(str(tmp_path / "c.pt"), {"network": other}).resume(engine)
    assert torch.equal(other.weight, network.weight)


@pytest.mark.parametrize(("interval", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_interval_and_last_epoch_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: int, epochs: list[int]
) -> None:
    run = build(tmp_path, 5, interval=interval)
    seen: list[int] = []
    monkeypatch.setattr(run.checkpoint, "save", lambda engine: seen.append(engine.state.epoch))
    run.trainer.run()
    assert seen == epochs


def test_running_on_in_the_same_process_saves_once_per_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build(tmp_path, 1)
    seen: list[int] = []
    monkeypatch.setattr(run.checkpoint, "save", lambda engine: seen.append(engine.state.epoch))
    run.trainer.run()
    run.trainer.state.max_epochs = 3
    run.trainer.run()
    assert seen == [1, 2, 3]


def test_nothing_left_to_train_is_said_and_not_started_again(tmp_path: Path) -> None:
    build(tmp_path, 2).trainer.run()
    again = build(tmp_path, 2)
    with pytest.raises(TrainingError, match=r"2 epochs are done and max_epochs is 2; raise max_epochs"):
        again.checkpoint.resume(again.trainer)


def test_a_training_that_ended_early_is_finished(tmp_path: Path) -> None:
    run = build(tmp_path, 9)
    run.best.patience = 1
    run.trainer.add_event_handler(Events.EPOCH_STARTED(once=3), lambda: setattr(run.best, "value", -1.0))
    run.trainer.run()
    assert run.trainer.state.epoch == 3
    again = build(tmp_path, 9)
    again.best.patience = 1
    assert again.checkpoint.is_finished(again.trainer)
    with pytest.raises(TrainingError, match="ended after epoch 3, since the weights got no better; raise"):
        again.checkpoint.resume(again.trainer)
    again.best.patience = 5
    again.checkpoint.resume(again.trainer)


def test_other_data_than_before_are_refused(tmp_path: Path) -> None:
    build(tmp_path, 1).trainer.run()
    other = build(tmp_path, 2)
    other.trainer.state.epoch_length = 7
    with pytest.raises(TrainingError, match=r"2 iterations per epoch, now it is 7"):
        other.checkpoint.resume(other.trainer)


def test_a_missing_unreadable_or_foreign_file_is_named(tmp_path: Path) -> None:
    engine = Engine(lambda *_: None)
    checkpoint = AtomicCheckpoint(str(tmp_path / "checkpoint.pt"), {"network": nn.Linear(1, 1)})
    with pytest.raises(WeightsError, match=r"checkpoint\.pt: no such checkpoint"):
        checkpoint.resume(engine)
    checkpoint.path.mkdir()
    with pytest.raises(WeightsError, match=r"checkpoint\.pt: cannot be read"):
        checkpoint.resume(engine)
    checkpoint.path.rmdir()
    torch.save(nn.Linear(1, 1).state_dict(), checkpoint.path)
    with pytest.raises(WeightsError, match=r"is no checkpoint; give the file of AtomicCheckpoint"):
        checkpoint.resume(engine)


def test_states_of_another_run_are_named(tmp_path: Path) -> None:
    path, engine = str(tmp_path / "checkpoint.pt"), Engine(lambda *_: None)
    AtomicCheckpoint(path, {"a": nn.Linear(1, 1)}).save(engine)
    with pytest.raises(
        WeightsError, match=r"is of another run: it holds the states \['a'\], this run has \['b'\]"
    ):
        AtomicCheckpoint(path, {"b": nn.Linear(1, 1)}).resume(engine)
    with pytest.raises(WeightsError, match=r"'a' does not fit this run \(Error\(s\) in loading state_dict"):
        AtomicCheckpoint(path, {"a": nn.Linear(2, 1)}).resume(engine)
    with pytest.raises(WeightsError, match="'a' does not fit this run"):
        AtomicCheckpoint(path, {"a": torch.optim.SGD(nn.Linear(1, 1).parameters())}).resume(engine)


def test_a_changed_setting_that_the_checkpoint_wins_over_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def checkpoint(lr: float) -> AtomicCheckpoint:
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr)
        return AtomicCheckpoint(str(tmp_path / "checkpoint.pt"), {"o": optimizer})

    # A bundle run in this process may have set the root logger to INFO.
    caplog.set_level(logging.WARNING)
    checkpoint(0.1).save(Engine(lambda *_: None))
    checkpoint(0.1).resume(Engine(lambda *_: None))
    assert caplog.text == ""
    checkpoint(0.5).resume(Engine(lambda *_: None))
    assert "'o' goes on with the checkpoint's lr=0.1, not 0.5" in caplog.text


class PersistentLoader(list[int]):
    """Looks like a DataLoader with persistent workers."""

    persistent_workers = True


def test_what_cannot_be_resumed_exactly_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(lambda *_: None)
    AtomicCheckpoint(str(tmp_path / "checkpoint.pt"), {"a": nn.Linear(1, 1)}).attach(engine)
    seen: list[int] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(int(engine.state.batch)))  # type: ignore[arg-type]
    engine.run(PersistentLoader(range(4)), max_epochs=2, epoch_length=2)
    assert "Resuming will not be exact: persistent workers" in caplog.text
    assert "Resuming will not be exact: epoch_length 2 is not the loader's" in caplog.text
    # The loader goes on where it was: starting anew would never show the other half.
    assert seen == [0, 1, 2, 3]


def test_data_without_length_and_no_data_at_all_are_left_alone(tmp_path: Path) -> None:
    for data, epoch_length in ((iter(range(6)), 3), (None, 3), ([1, 2, 3], 3)):
        engine = Engine(lambda *_: None)
        AtomicCheckpoint(str(tmp_path / "checkpoint.pt"), {"a": nn.Linear(1, 1)}).attach(engine)
        engine.run(data, max_epochs=2, epoch_length=epoch_length)
        assert engine.state.iteration == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AtomicCheckpoint("c.pt", {}, interval=0), "interval of AtomicCheckpoint is 0"),
        (
            lambda: AtomicCheckpoint("c.pt", {"x": 3}),
            "state 'x' of AtomicCheckpoint is a int without state_dict",
        ),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_restarted_run_resumes_only_if_there_is_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(tmp_path, 2)
    with pytest.raises(WeightsError, match="no such checkpoint"):
        first.checkpoint.run(first.trainer, resume=True)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    first.checkpoint.run(first.trainer)
    again = build(tmp_path / "other", 4)
    again.checkpoint.path = tmp_path / "checkpoint.pt"
    again.checkpoint.run(again.trainer)
    whole = build(tmp_path / "whole", 4)
    whole.trainer.run()
    assert_same(again.network.state_dict(), whole.network.state_dict())


def test_optimizers_and_schedulers_are_states_of_their_names() -> None:
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    checkpoint = AtomicCheckpoint(
        "c.pt", {"network": network}, optimizers={"encoder": optimizer}, schedulers={"encoder": scheduler}
    )
    assert list(checkpoint.objects) == ["network", "optimizer_encoder", "scheduler_encoder"]
