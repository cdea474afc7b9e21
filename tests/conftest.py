"""Set-up of the whole test suite: one thread, and the fixtures that several folders share."""

from __future__ import annotations

import os

# Before torch is imported: on a shared machine a second thread makes small tensors many times slower.
os.environ["OMP_NUM_THREADS"] = "1"
# Pictures are written, never shown.
os.environ["MPLBACKEND"] = "Agg"

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from robustmed_monai.utils.bundle import BUNDLES_VARIABLE

torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One worker of pytest-xdist has all tests of a bundle, which share its trained model, or of a file."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            bundle = item.path.parent if item.path.parent.parent.name == "bundles" else item.path
            item.add_marker(pytest.mark.xdist_group(bundle.relative_to(REPOSITORY).as_posix()))


@pytest.fixture
def rng() -> np.random.Generator:
    """A fresh generator, seeded 0."""
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def no_network() -> Iterator[None]:
    """Connections fail, and bundles are those of this checkout."""

    def refuse(*_: Any) -> NoReturn:
        raise OSError("this test has no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.delenv(BUNDLES_VARIABLE, raising=False)
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """Folder of the checkout that the tests belong to."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real images, which are not part of the project."""
    value = os.environ.get("ROBUSTMED_DATA")
    if not value:
        pytest.skip("ROBUSTMED_DATA is not set: it names the folder of the real images")
    root = Path(value)
    if not root.is_dir():
        pytest.fail(f"ROBUSTMED_DATA={value}: no such folder")
    return root
