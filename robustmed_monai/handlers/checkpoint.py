"""Checkpoints that survive a crash at any moment and resume a run bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines.workflow import Workflow
from torch import nn

from robustmed_monai.utils.archive import read_archive
from robustmed_monai.utils.bundle import restarted
from robustmed_monai.utils.errors import ConfigError, TrainingError, WeightsError
from robustmed_monai.utils.files import atomic_path, read_file
from robustmed_monai.utils.random_state import random_state, restore_random

_MAX_BYTES = 16 << 30  # of a checkpoint: weights, and what the optimizers keep of them


class AtomicCheckpoint:
    """Writes all that a run consists of after each epoch, and restores it bit by bit.

    The file is written beside the previous one, read back, and only then takes its name. It holds the given
    states, epoch and iteration, the best metrics, the AMP scaler and all random number generators, one set
    per process: python, numpy, torch, CUDA, ``trainer.generator``, those of the loader and its sampler, and
    those in ``state``. On the CPU N epochs, resume and N epochs more give the bits of 2N epochs.

    ``run`` trains with it; or attach it by the trainer's handler list, in any place (it acts after all other
    handlers of the epoch), and call ``resume(trainer)`` before ``trainer.run()``. So that no epoch depends on
    how far the one before had read ahead, the data loader starts anew in every epoch, and random transforms
    of its data set are seeded from torch's generator. Resuming is not exact, and a warning is logged, when
    ``epoch_length`` is not the loader's length or workers are persistent.

    Args:
        path: the file, or the folder of ``checkpoint.pt``.
        state: name to network, optimizer, scheduler, ``BestWeights``, ``torch.Generator`` or anything else
            with ``state_dict`` and ``load_state_dict``.
        optimizers: name to further optimizers.
        schedulers: name to further schedulers.
        evaluator: engine whose best metric and best epoch are kept.
        interval: epochs from one checkpoint to the next; the last epoch is always saved.
        settings: what the run was asked for, as JSON: data set, seed and the like. A run with other settings
            does not go on from the file.

    Raises:
        ConfigError: when an argument is out of range or a state cannot be saved.
        TrainingError: during the run, when the file cannot be written or a state has become NaN or infinite.
            The last good file is untouched.
    """

    def __init__(
        self,
        path: str,
        state: Mapping[str, Any],
        evaluator: Engine | None = None,
        interval: int = 1,
        optimizers: Mapping[str, torch.optim.Optimizer] | None = None,
        schedulers: Mapping[str, torch.optim.lr_scheduler.LRScheduler] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if interval < 1:
            raise ConfigError(f"interval of AtomicCheckpoint is {interval}; give at least 1 epoch.")
        self.path = Path(path)
        if self.path.is_dir() or not self.path.suffix:
            self.path /= "checkpoint.pt"
        items = dict(state)
        items |= {f"optimizer_{name}": item for name, item in (optimizers or {}).items()}
        items |= {f"scheduler_{name}": item for name, item in (schedulers or {}).items()}
        self.generators = {k: v for k, v in items.items() if isinstance(v, torch.Generator)}
        self.objects = {k: _unwrapped(v) for k, v in items.items() if k not in self.generators}
        for name, item in self.objects.items():
            if not (hasattr(item, "state_dict") and hasattr(item, "load_state_dict")):
                raise ConfigError(
                    f"state '{name}' of AtomicCheckpoint is a {type(item).__name__} without state_dict; "
                    "give networks, optimizers, schedulers or generators."
                )
        self.evaluator = evaluator
        self.interval = interval
        self.settings = dict(settings or {})
        self._resumed: dict[str, Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.STARTED, self._started)

    def run(self, trainer: Workflow, resume: bool = False) -> None:
        """Attach to a trainer and run it, from the checkpoint on where that is asked for.

        A run that torchrun or SLURM started again resumes without being asked, if it got as far as a
        checkpoint.

        Args:
            trainer: the trainer.
            resume: resume from the checkpoint, which must be there.

        Raises:
            WeightsError: as ``resume`` does.
            TrainingError: as ``resume`` does, and during the run.
        """
        self.attach(trainer)
        if resume or (restarted() and self.path.exists()):
            self.resume(trainer)
        trainer.run()

    def save(self, engine: Engine) -> None:
        """Write the checkpoint of the trainer's present state. All processes call it, the first writes."""
        scaler = getattr(engine, "scaler", None)
        content = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "epoch_length": engine.state.epoch_length,
            "state": {name: item.state_dict() for name, item in self.objects.items()},
            "best": {name: _best(state) for name, state in self._states_with_best(engine).items()},
            "scaler": scaler.state_dict() if scaler else None,
            "random": random_state(self._all_generators(engine)),
            "settings": self.settings,
            "stopped": self._exhausted(),
        }
        if idist.get_rank() != 0:
            return
        self._refuse_nonfinite(content)
        try:
            with atomic_path(self.path) as temporary:
                with temporary.open("wb") as stream:
                    torch.save(content, stream)
                # What cannot be read again must not replace what can.
                _read_back(temporary, self.path)
        # Torch turns some faults of the disk into a RuntimeError.
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or _first_line(error)
            raise TrainingError(
                f"{self.path}: cannot be written ({reason}); the previous checkpoint is untouched. "
                "Free space or change the rights of the folder, then resume."
            ) from error

    def resume(self, engine: Engine) -> None:
        """Restore the trainer and all states from the file, so that ``run`` goes on with the next epoch.

        Args:
            engine: the trainer, with ``max_epochs`` larger than the epochs done.

        Raises:
            WeightsError: when the file is missing, damaged or of another run.
            ConfigError: when that run had other settings; it names them.
            TrainingError: when nothing is left to train, the training ended early, or the epochs have another
                length now.
        """
        content = _read_checkpoint(self.path)
        self._check_fit(content, engine)
        for name, item in self.objects.items():
            saved = content["state"][name]
            try:
                if isinstance(item, torch.optim.Optimizer):
                    _log_changed_settings(engine, name, item, saved)
                item.load_state_dict(saved)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise WeightsError(
                    f"{self.path}: '{name}' does not fit this run ({_first_line(error)}); "
                    "resume with the settings of the run that wrote it."
                ) from error
        if self._exhausted():
            raise TrainingError(
                f"{self.path}: the training ended after epoch {content['epoch']}, since the weights got no "
                "better; raise patience to train on."
            )
        for name, other in self._states_with_best(engine).items():
            if name in content["best"]:
                other.best_metric, other.best_metric_epoch = content["best"][name]
        state = engine.state
        state.epoch, state.iteration = content["epoch"], content["iteration"]
        state.epoch_length = content["epoch_length"]
        if state.max_epochs is None:
            # An ignite engine without a limit takes itself for a new one and would start from epoch 0.
            state.max_epochs = content["epoch"]
        self._resumed = {"scaler": content["scaler"], "random": content["random"]}
        engine.logger.info(f"Resumed after epoch {state.epoch} from {self.path}")

    def is_finished(self, engine: Engine) -> bool:
        """Whether the file is that of this run at its end, so that there is nothing to go on with.

        Args:
            engine: the trainer.

        Raises:
            WeightsError: when the file is missing or damaged.
            ConfigError: when that run had other settings; it names them.
        """
        content = _read_checkpoint(self.path)
        self._check_settings(content)
        return bool(content.get("stopped") or content["epoch"] == engine.state.max_epochs)

    def _started(self, engine: Engine) -> None:
        # Registered only now, these come after validation and all else that handlers do at the same events.
        if not engine.has_event_handler(self._epoch_started, Events.EPOCH_STARTED):
            engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        loader = engine.state.dataloader
        if getattr(loader, "persistent_workers", False):
            engine.logger.warning(
                "Resuming will not be exact: persistent workers do not tell the state of random transforms."
            )
        if loader is not None and not _is_whole_epoch(engine):
            engine.logger.warning(
                f"Resuming will not be exact: epoch_length {engine.state.epoch_length} is not the loader's."
            )

    def _epoch_started(self, engine: Engine) -> None:
        if self._resumed is not None:
            # Not in resume() already: an uninterrupted run does not draw what handlers of STARTED draw now.
            restore_random(self._resumed["random"], self._all_generators(engine))
            scaler = getattr(engine, "scaler", None)
            if scaler and self._resumed["scaler"]:
                scaler.load_state_dict(self._resumed["scaler"])
            self._resumed = None
        loader: Any = engine.state.dataloader
        if hasattr(loader, "dataset"):
            set_rnd(loader.dataset, int(torch.randint(2**31, ())))
        if loader is not None and _is_whole_epoch(engine):
            engine.set_data(loader)

    def _epoch_completed(self, engine: Engine) -> None:
        stopped = self._exhausted()
        if stopped:
            engine.logger.info(f"Training ends after epoch {engine.state.epoch}: the weights get no better.")
            engine.terminate()
        if (
            stopped
            or engine.state.epoch % self.interval == 0
            or engine.state.epoch == engine.state.max_epochs
        ):
            self.save(engine)

    def _exhausted(self) -> bool:
        """Whether one of the states says that the weights get no better, which ends the training."""
        return any(getattr(item, "exhausted", False) for item in self.objects.values())

    def _states_with_best(self, engine: Engine) -> dict[str, Any]:
        engines = {"trainer": engine, "evaluator": self.evaluator}
        return {k: v.state for k, v in engines.items() if v is not None and hasattr(v.state, "best_metric")}

    def _all_generators(self, engine: Engine) -> dict[str, torch.Generator]:
        loader = getattr(engine, "data_loader", engine.state.dataloader)
        found = {
            "trainer": getattr(engine, "generator", None),
            "loader": getattr(loader, "generator", None),
            "sampler": getattr(getattr(loader, "sampler", None), "generator", None),
            **{f"state:{k}": v for k, v in self.generators.items()},
        }
        return {k: v for k, v in found.items() if isinstance(v, torch.Generator)}

    def _refuse_nonfinite(self, content: dict[str, Any]) -> None:
        for name, item in self.objects.items():
            if not isinstance(item, nn.Module | torch.optim.Optimizer):
                continue
            for where, tensor in _tensors(content["state"][name], name):
                if not torch.isfinite(tensor).all():
                    raise TrainingError(
                        f"{self.path}: not written, because {where} is NaN or infinite after epoch "
                        f"{content['epoch']}; the last checkpoint is untouched. Resume from it with a lower "
                        "learning rate."
                    )

    def _check_fit(self, content: dict[str, Any], engine: Engine) -> None:
        self._check_settings(content)
        state, saved = engine.state, sorted(content["state"])
        if saved != sorted(self.objects):
            raise WeightsError(
                f"{self.path}: is of another run: it holds the states {saved}, this run has "
                f"{sorted(self.objects)}. Give the folder of this run."
            )
        if state.max_epochs is not None and content["epoch"] >= state.max_epochs:
            raise TrainingError(
                f"{self.path}: {content['epoch']} epochs are done and max_epochs is {state.max_epochs}; "
                "raise max_epochs to train on."
            )
        if state.epoch_length not in (None, content["epoch_length"]):
            raise TrainingError(
                f"{self.path}: was written with {content['epoch_length']} iterations per epoch, now it is "
                f"{state.epoch_length}; resume with the same data and batch size."
            )

    def _check_settings(self, content: dict[str, Any]) -> None:
        then = content.get("settings") or {}
        changed = [
            k for k in sorted(then.keys() | self.settings.keys()) if then.get(k) != self.settings.get(k)
        ]
        if changed:
            found = ", ".join(f"{k}={self.settings.get(k)!r} (was {then.get(k)!r})" for k in changed)
            raise ConfigError(
                f"{self.path}: the run that is to go on had other settings: {found}. Give those again, or "
                "start without resuming."
            )


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        data = read_file(path, _MAX_BYTES)
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path}: no such checkpoint; start without resuming or correct the folder."
        ) from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error
    content = read_archive(data, path)
    if not isinstance(content, dict) or not {"epoch", "state", "random"} <= set(content):
        raise WeightsError(f"{path}: is no checkpoint; give the file of AtomicCheckpoint, not the weights.")
    return content


def _read_back(temporary: Path, path: Path) -> None:
    try:
        read_archive(temporary.read_bytes(), path)
    except WeightsError as error:
        raise TrainingError(
            f"{path}: not written, because it could not be read again: {error} "
            "Keep to tensors, numbers and text in every state_dict."
        ) from error


def _log_changed_settings(
    engine: Engine, name: str, optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]
) -> None:
    """Say so where the optimizer of the checkpoint wins over a setting that was changed for this run."""
    for now, then in zip(optimizer.param_groups, saved["param_groups"], strict=False):
        # A scheduler changes lr itself and notes what it began with as initial_lr.
        ignored = {"params", "lr"} if "initial_lr" in then else {"params"}
        for key in sorted((now.keys() & then.keys()) - ignored):
            if now[key] != then[key]:
                engine.logger.warning(
                    f"'{name}' goes on with the checkpoint's {key}={then[key]}, not {now[key]}."
                )


def _is_whole_epoch(engine: Engine) -> bool:
    loader: Any = engine.state.dataloader
    try:
        return len(loader) == engine.state.epoch_length
    except TypeError:
        return False


def _best(state: Any) -> tuple[float, int]:
    return float(state.best_metric), int(state.best_metric_epoch)


def _unwrapped(item: Any) -> Any:
    """The network within the wrappers of DDP and torch.compile; anything else as it is."""
    while True:
        if isinstance(item, nn.DataParallel | nn.parallel.DistributedDataParallel):
            item = item.module
        elif isinstance(item, nn.Module) and hasattr(item, "_orig_mod"):
            item = item._orig_mod
        else:
            return item


def _tensors(value: Any, where: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{where}.{index}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
