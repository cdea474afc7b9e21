"""W1 and W3 of the reliability sheet: damaged and hostile weights files."""

from __future__ import annotations

import errno
import io
import os
import pickle
import random
import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from robustmed_monai.utils.archive import read_archive
from robustmed_monai.utils.errors import WeightsError
from robustmed_monai.utils.files import read_json, sha256, write_json
from robustmed_monai.utils.weights import load_info, load_weights, save_weights

FLIPS = 300


def weights(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"a": torch.full((32, 32), value), "b": torch.full((7,), -value), "n": torch.tensor(3)}


def flipped(data: bytes, rng: random.Random) -> bytes:
    bit = rng.randrange(len(data) * 8)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_every_one_of_300_bit_flips_is_refused(tmp_path: Path) -> None:
    path, rng, refused = tmp_path / "model.pt", random.Random(0), 0
    save_weights(weights(), path)
    intact = path.read_bytes()
    for _ in range(FLIPS):
        path.write_bytes(flipped(intact, rng))
        with pytest.raises(WeightsError, match=r"model\.pt: was altered"):
            load_weights(path)
        refused += 1
    assert refused == FLIPS
    path.write_bytes(intact)
    assert torch.equal(load_weights(path)["a"], weights()["a"])


@pytest.mark.parametrize("cut", [0, 1, 100, 0.5, 0.9, -1])
def test_truncated_files_are_refused_with_and_without_a_digest(tmp_path: Path, cut: float) -> None:
    path = tmp_path / "model.pt"
    save_weights(weights(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if isinstance(cut, float) else cut])
    with pytest.raises(WeightsError, match="was altered"):
        load_weights(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match="no intact torch archive"):
        load_weights(path, allow_unverified=True)


def test_bit_flips_in_an_archive_never_change_a_value_even_without_a_digest() -> None:
    # Checkpoints have no digest beside them: the checksums in the archive must catch what matters.
    buffer, rng = io.BytesIO(), random.Random(1)
    torch.save(weights(), buffer)
    refused = 0
    for _ in range(FLIPS):
        try:
            content = read_archive(flipped(buffer.getvalue(), rng), "x.pt")
        except WeightsError:
            refused += 1
            continue
        assert all(torch.equal(content[k], v) for k, v in weights().items())
    # The rest hit padding, time stamps and the like.
    assert refused > FLIPS // 2


class Run:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def archive_with(payload: object, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A torch archive whose pickle is ``payload``, or bytes that are one."""
    pickled = payload if isinstance(payload, bytes) else pickle.dumps(payload, protocol=2)
    return rewritten(weights(), lambda _: pickled, compression)


def rewritten(
    state: dict[str, Any], change: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED
) -> bytes:
    """What torch.save makes of ``state``, with its pickle changed and all checksums right."""
    source, target = io.BytesIO(), io.BytesIO()
    torch.save(state, source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for part in old.infolist():
            data = old.read(part)
            new.writestr(part.filename, change(data) if part.filename.endswith("data.pkl") else data)
    return target.getvalue()


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def number(value: int) -> bytes:
    """A pickled integer of any size."""
    size = (value.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


# A tensor of four elements: its storage size, shape and stride are the bytes K\x04, K\x04 and K\x01.
FOUR = {"a": torch.arange(4.0)}
HUGE = number(1 << 42)


def hostile(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Name to (file, pattern of the message)."""
    touch = Run(os.system, f"touch {canary}")
    ran = "more than tensors and was not read"
    return {
        "pickle in zip": (archive_with({"a": touch}), r"asks to run posix\.system"),
        "pickle beside tensors": (saved({**weights(), "x": touch}), r"asks to run posix\.system"),
        "raw pickle": (pickle.dumps({"a": touch}), "no intact torch archive"),
        "old torch format": (legacy({"a": touch}), "no intact torch archive"),
        "GLOBAL and REDUCE": (
            archive_with(b"\x80\x02cos\nsystem\nX\x05\x00\x00\x00touch\x85R."),
            r"asks to run os\.system",
        ),
        "STACK_GLOBAL": (
            archive_with(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."),
            "posix|os|more than",
        ),
        "builtins eval": (
            archive_with(b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R."),
            "asks to run eval",
        ),
        "torch hub": (archive_with(Run(torch.hub.load, "a/b", "c")), r"asks to run torch\.hub"),
        "numpy load": (
            archive_with(b"\x80\x02cnumpy\nload\nX\x01\x00\x00\x00x\x85R."),
            r"asks to run numpy\.load",
        ),
        "setstate of a class": (archive_with(b"\x80\x02csubprocess\nPopen\n)\x81}b."), r"subprocess\.Popen"),
        "no pickle at all": (archive_with(b"hello"), ran),
        "endless pickle": (archive_with(b"\x80\x02" + b"(" * 10_000), ran),
        "huge storage": (rewritten(FOUR, lambda d: d.replace(b"K\x04", HUGE)), ran),
        "huge shape": (rewritten(FOUR, lambda d: d.replace(b"K\x04\x85", HUGE + b"\x85")), ran),
        "huge shape without memory": (
            rewritten(
                FOUR, lambda d: d.replace(b"K\x04\x85", HUGE + b"\x85").replace(b"K\x01\x85", b"K\x00\x85")
            ),
            "claims the shape",
        ),
        "huge bytearray": (
            archive_with(b"\x80\x02cbuiltins\nbytearray\n" + number(1 << 46) + b"\x85R."),
            ran,
        ),
        "zip bomb": (archive_with(saved(torch.zeros(1 << 20)), zipfile.ZIP_DEFLATED), "compressed parts"),
        "wrong checksum": (wrong_checksum(), "no intact|checksum"),
        "NaN": (saved({"a": torch.tensor([1.0, float("nan")])}), "'a' has NaN or infinite values"),
        "infinity": (saved({"a": torch.tensor([-float("inf")])}), "'a' has NaN or infinite values"),
        "nested": (saved({"model": weights(), "epoch": 3}), "'model' is a dict"),
        "list": (saved([torch.ones(1)]), "holds a list"),
        "one tensor": (saved(torch.ones(1)), "holds a Tensor"),
        "empty": (saved({}), "holds a dict, not named tensors"),
        "number as a name": (saved({1: torch.ones(1)}), "1 is a Tensor"),
        "no memory": (saved({"a": torch.ones(2, device="meta")}), "not a dense tensor"),
        "sparse": (saved({"a": torch.eye(2).to_sparse()}), "not a dense tensor"),
        "text": (b"<html>404</html>", "no intact torch archive"),
        "nothing": (b"", "no intact torch archive"),
    }


def legacy(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def wrong_checksum() -> bytes:
    data = saved({"a": torch.arange(64.0)})
    place = data.index(torch.arange(64.0).numpy().tobytes())
    return data[:place] + b"\x01" + data[place + 1 :]


CORPUS = list(hostile(Path("canary")))
# Nothing is wrong with these but that weights must be flat, finite, dense and no larger than their file.
SOUND = set(CORPUS[CORPUS.index("NaN") : CORPUS.index("text")]) | {"huge shape without memory"}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize("name", CORPUS)
def test_hostile_files_run_nothing_and_are_refused_even_with_a_matching_digest(
    tmp_path: Path, name: str
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.pt"
    data, pattern = hostile(canary)[name]
    path.write_bytes(data)
    # The worst case: whoever made the file made the digest, too.
    write_json(path.with_suffix(".json"), {"sha256": sha256(path), "info": {}})
    with pytest.raises(WeightsError, match=pattern) as caught:
        load_weights(path)
    assert str(caught.value).startswith(str(path))
    assert "weights_only" not in str(caught.value)
    assert not canary.exists()


def test_the_canary_sings_without_protection(tmp_path: Path) -> None:
    # The control: the corpus is dangerous to a loader that trusts it.
    pickle.loads(hostile(tmp_path / "canary")["raw pickle"][0])
    assert (tmp_path / "canary").exists()


def test_hostile_archives_are_no_checkpoints_either(tmp_path: Path) -> None:
    refused = 0
    for name, (data, _) in hostile(tmp_path / "canary").items():
        if name in SOUND:
            continue
        with pytest.raises(WeightsError):
            read_archive(data, "checkpoint.pt")
        refused += 1
    assert refused == len(CORPUS) - len(SOUND)
    assert not (tmp_path / "canary").exists()


class StopError(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("crash_at", range(6))
def test_a_crash_at_any_step_leaves_a_pair_that_belongs_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    path = tmp_path / "model.pt"
    save_weights(weights(1), path, {"run": 1})
    with monkeypatch.context() as patch:
        crash_at_step(patch, crash_at)
        with pytest.raises(StopError):
            save_weights(weights(2), path, {"run": 2})
    run = load_info(path)["run"]
    assert torch.equal(load_weights(path)["a"], weights(run)["a"])
    # Whatever the state is, the next save repairs it, also when that one crashes again.
    with monkeypatch.context() as patch:
        crash_at_step(patch, 3)
        with pytest.raises(StopError):
            save_weights(weights(3), path, {"run": 3})
    assert torch.equal(load_weights(path)["a"], weights(load_info(path)["run"])["a"])
    save_weights(weights(4), path, {"run": 4})
    assert load_info(path) == {"run": 4}
    assert set(read_json(path.with_suffix(".json"))) == {"sha256", "info"}


def crash_at_step(patch: pytest.MonkeyPatch, step: int) -> None:
    """Crash before (even steps) or after (odd ones) the first, second or third file takes its name."""
    replace, calls = os.replace, []

    def crashing(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) - 1 == step // 2:
            if step % 2:
                replace(source, target)
            raise StopError
        replace(source, target)

    patch.setattr(os, "replace", crashing)


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ETXTBSY])
def test_a_failing_disk_leaves_the_previous_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    path = tmp_path / "model.pt"
    save_weights(weights(1), path, {"run": 1})

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(WeightsError) as caught:
            save_weights(weights(2), path, {"run": 2})
    assert str(path) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert load_info(path) == {"run": 1}
    assert torch.equal(load_weights(path)["a"], weights(1)["a"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.pt"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_midway_leaves_the_previous_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_weights(weights(1), path, {"run": 1})
    big = {"a": torch.ones(100_000)}
    with largest_file(20_000), pytest.raises(WeightsError, match="File too large"):
        save_weights(big, path)
    assert load_info(path) == {"run": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.pt"]
