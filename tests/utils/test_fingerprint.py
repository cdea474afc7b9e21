from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustmed_monai.utils.fingerprint import digest_objects, input_stamp


class Setting:
    """An inferer as the package has them: settings as attributes, one of them a method of itself."""

    def __init__(self, size: int = 3, **more: Any) -> None:
        self.size = size
        self.method = self.apply
        self.__dict__ |= more

    def apply(self) -> None: ...


class Slotted:
    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


FACTOR = torch.ones(1)


def scaled(value: Any) -> Any:
    return (lambda: value * FACTOR)()


def test_what_a_function_takes_from_around_it_shows() -> None:
    before = digest_objects(scaled)
    assert digest_objects(scaled) == before
    FACTOR.fill_(2)
    assert digest_objects(scaled) != before


def network(**changes: Any) -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LeakyReLU(0.2)).eval()
    with torch.no_grad():
        for index, tensor in enumerate(net.parameters()):
            tensor.fill_(index)
    for name, value in changes.items():
        setattr(net[2], name, value)
    return net


def test_equal_objects_have_equal_digests() -> None:
    one, two = (digest_objects(network(), Setting(), {"a": [1, None, torch.ones(2)]}) for _ in range(2))
    assert one == two
    assert digest_objects(network().train()) == digest_objects(network())
    assert digest_objects(torch.device("cpu")) == digest_objects(torch.device("cuda"))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (Setting(3), Setting(4)),
        (Setting(x=torch.zeros(2)), Setting(x=torch.zeros(3))),
        (Setting(x=torch.zeros(2)), Setting(x=torch.zeros(2).half())),
        (Setting(x=np.zeros(2)), Setting(x=np.ones(2))),
        (Setting(x=lambda v: v + 1), Setting(x=lambda v: v + 2)),
        (Setting(x=torch.relu), Setting(x=torch.sigmoid)),
        (Setting(x=partial(max, 1)), Setting(x=partial(max, 2))),
        (Setting(x={"a", "b"}), Setting(x={"a", "c"})),
        (network(), network(negative_slope=0.1)),
        (nn.ReLU(), nn.SiLU()),
        ([1, 2], [2, 1]),
        (Setting(x=torch.float32), Setting(x=torch.float16)),
        (Setting(x=slice(2)), Setting(x=slice(3))),
        (b"a", b"b"),
        (re.compile("a"), re.compile("b")),
        (Slotted(1), Slotted(2)),
        (None, 0),
    ],
)
def test_any_difference_shows(one: Any, two: Any) -> None:
    assert digest_objects(one) != digest_objects(two)


def test_a_single_weight_shows() -> None:
    changed = network()
    with torch.no_grad():
        changed[0].weight[1, 0, 2, 2].add_(1e-6)  # type: ignore[index]
    assert digest_objects(changed) != digest_objects(network())
    bfloat = [digest_objects(network().to(torch.bfloat16)) for _ in range(2)]
    assert bfloat[0] == bfloat[1] != digest_objects(network())


def test_another_process_gets_the_same() -> None:
    made = "digest_objects({'b': {1, 2, 'x', 'y'}, 'a': 0.1}, str.upper, print)"
    code = f"from robustmed_monai.utils.fingerprint import digest_objects; print({made})"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == digest_objects({"b": {1, 2, "x", "y"}, "a": 0.1}, str.upper, print)


def test_stamps_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    assert input_stamp(tmp_path / "a")["bytes"] == 3
    before = input_stamp(tmp_path)
    (tmp_path / "b").write_bytes(b"")
    assert input_stamp(tmp_path) != before
    with pytest.raises(FileNotFoundError):
        input_stamp(tmp_path / "c")
