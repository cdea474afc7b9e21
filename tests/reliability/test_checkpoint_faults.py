"""R1, R2 and R5 of the reliability sheet: kill -9 while saving, failing disks and broken states.

Run as a program, this file is the harness that forks the writers to be killed: one import of torch is enough.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import mmap
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn

from robustmed_monai.handlers import AtomicCheckpoint, BestWeights
from robustmed_monai.utils.archive import read_archive
from robustmed_monai.utils.errors import TrainingError, WeightsError
from robustmed_monai.utils.weights import load_info, load_weights, save_weights

CHECKPOINT_KILLS, WEIGHTS_KILLS, CONTROL_KILLS = 200, 50, 25


def adam(size: int = 1) -> tuple[nn.Linear, torch.optim.Adam]:
    """A network and an optimizer that has moments."""
    network = nn.Linear(size, size)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    network(torch.ones(1, size)).sum().backward()
    optimizer.step()
    return network, optimizer


def engine_at(epoch: int) -> Engine:
    engine = Engine(lambda *_: None)
    engine.state.epoch, engine.state.iteration, engine.state.epoch_length = epoch, epoch * 10, 10
    return engine


# --- The harness: R1


def kill_writers(
    write: Callable[[int], None], read: Callable[[], int], folder: Path, kills: int
) -> dict[str, int]:
    """Fork a process that writes without pause, kill it after 1 to 40 ms, look at what is left; repeat.

    Every second kill waits for a write to be under way: on a fast disk few others would hit one.

    Returns:
        How often the file was the last or the one before ("good"), how often the kill hit a write ("torn").
    """
    rng, written = random.Random(0), mmap.mmap(-1, 8)
    write(0)
    good = torn = last = 0
    for kill in range(kills):
        written[:] = last.to_bytes(8, "little")
        pid = os.fork()
        if pid == 0:
            try:
                for number in range(last + 1, sys.maxsize):
                    write(number)
                    written[:] = number.to_bytes(8, "little")
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0.001, 0.040))
        deadline = time.monotonic() + 1
        while kill % 2 and time.monotonic() < deadline and not any(folder.glob(".tmp-*")):
            pass
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        completed = int.from_bytes(written[:], "little")
        try:
            last = read()
            good += last in (completed, completed + 1)
        except WeightsError:
            write(last)
        leftovers = list(folder.glob(".tmp-*"))
        torn += bool(leftovers)
        for leftover in leftovers:
            leftover.unlink()
    return {"good": good, "torn": torn}


def kill_checkpoints(folder: Path) -> dict[str, int]:
    network, optimizer = adam(192)
    checkpoint = AtomicCheckpoint(str(folder / "checkpoint.pt"), {"network": network, "optimizer": optimizer})

    def read() -> int:
        engine = Engine(lambda *_: None)
        checkpoint.resume(engine)
        return int(engine.state.epoch)

    return kill_writers(lambda number: checkpoint.save(engine_at(number)), read, folder, CHECKPOINT_KILLS)


def kill_weights(folder: Path) -> dict[str, int]:
    path = folder / "model.pt"

    def write(number: int) -> None:
        save_weights({"a": torch.full((200, 200), float(number))}, path, {"number": number})

    def read() -> int:
        number = int(load_info(path)["number"])
        if not torch.equal(load_weights(path)["a"], torch.full((200, 200), float(number))):
            raise WeightsError("the info belongs to other weights")
        return number

    return kill_writers(write, read, folder, WEIGHTS_KILLS)


def kill_in_place(folder: Path) -> dict[str, int]:
    """The control: torch.save under the final name, as CheckpointSaver does."""
    path, weights = folder / "checkpoint.pt", torch.ones(192, 192, 3)

    def read() -> int:
        return int(read_archive(path.read_bytes(), path)["epoch"])

    return kill_writers(lambda n: torch.save({"epoch": n, "w": weights}, path), read, folder, CONTROL_KILLS)


# --- The harness: two processes


def resume_in_two_processes(folder: Path) -> dict[str, list[bool]]:
    """2 + 2 epochs against 4 in two processes whose generators differ: does each end where it should?"""
    pids = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                equal = two_plus_two(folder, rank)
                (folder / f"{rank}.json").write_text(json.dumps(equal))
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return {str(rank): json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)}


def two_plus_two(folder: Path, rank: int) -> list[bool]:
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    expected = distributed_run(folder / "whole.pt", rank, [4])
    found = distributed_run(folder / "parts.pt", rank, [2, 4])
    torch.distributed.destroy_process_group()
    return [torch.equal(a, b) for a, b in zip(expected, found, strict=True)]


def distributed_run(path: Path, rank: int, ends: list[int]) -> list[torch.Tensor]:
    for attempt, end in enumerate(ends):
        # New weights in every process, and noise of its own in each.
        torch.manual_seed(100 * attempt)
        wrapped = nn.parallel.DistributedDataParallel(nn.Linear(3, 3))
        optimizer = torch.optim.Adam(wrapped.parameters(), 0.1)
        torch.manual_seed(100 * attempt + rank)

        def step(
            engine: Engine,
            batch: torch.Tensor,
            network: nn.Module = wrapped,
            adam: torch.optim.Adam = optimizer,
        ) -> None:
            adam.zero_grad()
            network(batch + torch.randn(2, 3)).square().mean().backward()
            adam.step()

        engine = Engine(step)
        checkpoint = AtomicCheckpoint(str(path), {"network": wrapped, "optimizer": optimizer})
        checkpoint.attach(engine)
        if attempt:
            torch.distributed.barrier()
            checkpoint.resume(engine)
        engine.run([torch.ones(2, 3)] * 2, max_epochs=end)
    return [wrapped.module.weight.detach(), torch.get_rng_state()]


def main(folder: Path) -> None:
    results = {}
    # The two processes come first: autograd cannot be forked once it has run.
    for scenario in (resume_in_two_processes, kill_checkpoints, kill_weights, kill_in_place):
        place = folder / scenario.__name__
        place.mkdir()
        results[scenario.__name__] = scenario(place)
    sys.stdout.write(json.dumps(results))


# --- The tests


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(repository)}
    command = [sys.executable, __file__, str(tmp_path_factory.mktemp("harness"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.slow
def test_after_200_kills_200_checkpoints_are_the_last_or_the_one_before(harness: dict[str, Any]) -> None:
    result = harness["kill_checkpoints"]
    assert result["good"] == CHECKPOINT_KILLS
    # Many kills must have fallen into a write, else they prove nothing.
    assert result["torn"] > CHECKPOINT_KILLS // 4


@pytest.mark.slow
def test_after_50_kills_50_weights_load_with_their_own_info(harness: dict[str, Any]) -> None:
    result = harness["kill_weights"]
    assert result["good"] == WEIGHTS_KILLS
    assert result["torn"] > WEIGHTS_KILLS // 4


@pytest.mark.slow
def test_the_same_kills_ruin_files_that_are_written_in_place(harness: dict[str, Any]) -> None:
    assert harness["kill_in_place"]["good"] < CONTROL_KILLS


@pytest.mark.slow
def test_every_process_resumes_with_its_own_generators(harness: dict[str, Any]) -> None:
    assert harness["resume_in_two_processes"] == {"0": [True, True], "1": [True, True]}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes: writing stops midway as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def failing(call: str, code: int) -> Iterator[None]:
    """Let ``os.<call>`` fail with an error of the system."""

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, fail)
        yield


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "full at the end": (lambda: failing("fsync", errno.ENOSPC), "No space left on device"),
    "quota": (lambda: failing("fsync", errno.EDQUOT), "quota"),
    "I/O error": (lambda: failing("fsync", errno.EIO), "Input/output error"),
    "read-only": (lambda: failing("open", errno.EROFS), "Read-only file system"),
    "no permission": (lambda: failing("open", errno.EACCES), "Permission denied"),
    "locked": (lambda: failing("replace", errno.EBUSY), "busy"),
    "full midway": (lambda: largest_file(50_000), "File too large|writ"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_disk_stops_and_leaves_the_last_good_checkpoint(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "checkpoint.pt"
    network, optimizer = adam(100)
    checkpoint = AtomicCheckpoint(str(path), {"network": network, "optimizer": optimizer})
    checkpoint.save(engine_at(1))
    good, (disk, reason) = path.read_bytes(), FAULTS[fault]
    with disk(), pytest.raises(TrainingError, match=reason) as caught:
        checkpoint.save(engine_at(2))
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be written (")
    assert "previous checkpoint is untouched" in message
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]
    # The disk recovers, and so does the run.
    checkpoint.save(engine_at(3))
    engine = Engine(lambda *_: None)
    checkpoint.resume(engine)
    assert engine.state.epoch == 3


def test_best_weights_survive_a_failing_disk(tmp_path: Path) -> None:
    network, _ = adam()
    best = BestWeights(network, str(tmp_path / "model.pt"), "m")
    engine = engine_at(1)
    engine.state.metrics = {"m": 0.1}
    best(engine)
    engine.state.metrics = {"m": 0.3}
    with (
        failing("replace", errno.ENOSPC),
        pytest.raises(TrainingError, match=r"model\.pt: cannot be written"),
    ):
        best(engine)
    assert load_info(tmp_path / "model.pt")["value"] == best.value == 0.1
    # What was not saved was not the best: a smaller improvement is saved later.
    engine.state.metrics = {"m": 0.2}
    best(engine)
    assert load_info(tmp_path / "model.pt")["value"] == best.value == 0.2


def test_weights_that_are_not_finite_are_never_the_best(tmp_path: Path) -> None:
    network, _ = adam()
    best = BestWeights(network, str(tmp_path / "model.pt"), "m")
    nn.init.constant_(network.weight, math.nan)
    engine = engine_at(1)
    engine.state.metrics = {"m": 0.1}
    with pytest.raises(TrainingError, match="'weight' has NaN or infinite values"):
        best(engine)
    assert best.value is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["network.weight", "optimizer.state.0.exp_avg"])
def test_a_state_that_is_not_finite_does_not_replace_the_last_good_one(
    tmp_path: Path, where: str, value: float
) -> None:
    path = tmp_path / "checkpoint.pt"
    network, optimizer = adam()
    checkpoint = AtomicCheckpoint(str(path), {"network": network, "optimizer": optimizer})
    checkpoint.save(engine_at(1))
    good = path.read_bytes()
    broken = network.weight if where.startswith("network") else optimizer.state[network.weight]["exp_avg"]
    nn.init.constant_(broken, value)
    with pytest.raises(TrainingError, match=f"{where} is NaN or infinite after epoch 2; the last checkpoint"):
        checkpoint.save(engine_at(2))
    assert path.read_bytes() == good


class Exploding(nn.Module):
    """A loss that becomes NaN at step ``at``."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.step, self.at = 0, at

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.step += 1
        return (prediction - target).square().mean() * (math.nan if self.step == self.at else 1.0)


def test_a_loss_that_becomes_nan_ends_the_run_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    checkpoint = AtomicCheckpoint(str(tmp_path / "c.pt"), {"network": network, "optimizer": optimizer})
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=9,
        train_data_loader=[{"image": torch.ones(1, 2), "label": torch.zeros(1, 2)}] * 3,
        network=network,
        optimizer=optimizer,
        loss_function=Exploding(at=8),
        train_handlers=[checkpoint],
        decollate=False,
    )
    held: list[torch.Tensor] = []
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED(once=2), lambda: held.append(network.weight.detach().clone())
    )
    with pytest.raises(TrainingError, match=r"network\.weight is NaN or infinite after epoch 3"):
        trainer.run()
    again = Engine(lambda *_: None)
    checkpoint.resume(again)
    assert again.state.epoch == 2
    assert torch.equal(network.weight, held[0])


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    network, _ = adam(50)
    checkpoint = AtomicCheckpoint(str(path), {"network": network})
    checkpoint.save(engine_at(1))
    data = bytearray(path.read_bytes())
    data[data.index(network.weight.detach().numpy().tobytes()) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"checkpoint\.pt: the checksum of its part .* is wrong"):
        checkpoint.resume(Engine(lambda *_: None))
    path.write_bytes(data[:2000])
    with pytest.raises(WeightsError, match=r"checkpoint\.pt: is no intact torch archive"):
        checkpoint.resume(Engine(lambda *_: None))


def test_states_that_cannot_be_read_back_do_not_replace_a_good_file(tmp_path: Path) -> None:
    path, engine = tmp_path / "checkpoint.pt", engine_at(1)
    AtomicCheckpoint(str(path), {"a": nn.Linear(1, 1)}).save(engine)
    good = path.read_bytes()

    class Odd(nn.Linear):
        def get_extra_state(self) -> Any:
            return logging.getLogger("x")

    with pytest.raises(TrainingError, match=r"could not be read again: .*asks to run logging\.getLogger"):
        AtomicCheckpoint(str(path), {"a": Odd(1, 1)}).save(engine)
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("mode", "values", "kept"),
    [
        ("max", [0.1, 0.3, 0.2, 0.3], (0.3, 2)),
        ("min", [0.5, 0.3, 0.4, 0.3], (0.3, 2)),
        ("max", [float("nan"), 0.1, float("inf"), float("nan")], (0.1, 2)),
        ("min", [float("-inf"), float("nan")], (None, 0)),
        ("max", [torch.tensor(0.25), np.float32(0.5)], (0.5, 2)),
    ],
)
def test_the_best_finite_value_is_kept(
    tmp_path: Path, mode: str, values: list[Any], kept: tuple[float | None, int]
) -> None:
    network = nn.Linear(1, 1)
    best = BestWeights(network, str(tmp_path / "model.pt"), "m", mode)
    for epoch, value in enumerate(values, 1):
        nn.init.constant_(network.weight, epoch)
        engine = engine_at(epoch)
        engine.state.metrics = {"m": value}
        best(engine)
    assert (best.value, best.epoch) == kept
    assert (tmp_path / "model.pt").exists() == (kept[0] is not None)
    if kept[0] is not None:
        assert float(load_weights(tmp_path / "model.pt")["weight"]) == kept[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
