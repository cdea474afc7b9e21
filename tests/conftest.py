"""Set-up of the whole test suite: one thread, and the fixtures that several folders share."""

from __future__ import annotations

import os

# Before torch is imported: on a shared machine a second thread makes small tensors many times slower.
os.environ["OMP_NUM_THREADS"] = "1"
# Pictures are written, never shown.
os.environ["MPLBACKEND"] = "Agg"

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from robustmed_monai.utils.bundle import BUNDLES_VARIABLE

torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile`` a bundle counts as one file: its tests share the model that one worker trains.

    By hand, since the groups of pytest-xdist 3.8 do nothing under pytest 9.2.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    def group(nodeid: str) -> str:
        folder, _, file = nodeid.split("::")[0].rpartition("/")
        in_bundle = folder.startswith("tests/bundles/") or file.startswith("test_ra_")
        return folder if in_bundle else f"{folder}/{file}"

    scheduling = LoadFileScheduling(config, log)
    scheduling._split_scope = group
    return scheduling


@pytest.fixture
def rng() -> np.random.Generator:
    """A fresh generator, seeded 0."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def brain_transforms() -> Callable[..., Any]:
    """The transforms of pchVAE's train.json, with settings of the config by keyword."""
    path = REPOSITORY / "bundles/pchvae/configs/train.json"

    def transforms(image_size: int = 64, min_pixels: int = 10, **settings: Any) -> Any:
        parser = ConfigParser(ConfigParser.load_config_file(path))
        parser.update({"image_size": image_size, "spacing": None, **settings})
        parser["train#preprocessing#transforms#6#min_pixels"] = min_pixels
        return parser.get_parsed_content("train#preprocessing")

    return transforms


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


@pytest.fixture
def in_time() -> Callable[[int], AbstractContextManager[None]]:
    """`with in_time(seconds)`: a test that hangs fails instead."""

    @contextmanager
    def limit(seconds: int) -> Iterator[None]:
        def ring(*_: Any) -> NoReturn:
            pytest.fail(f"hang: more than {seconds} s")

        previous = signal.signal(signal.SIGALRM, ring)
        signal.alarm(seconds)
        try:
            yield
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)

    return limit


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the counts of the fuzz tests, which pytest's dots do not tell."""
    passed = {report.nodeid for report in terminalreporter.getreports("passed")}
    # The counts are complete when a test is torn down, which is a report of its own.
    torn_down = [r for r in terminalreporter.getreports("") if r.when == "teardown" and r.nodeid in passed]
    lines = [text for report in torn_down for name, text in report.user_properties if name == "fuzz"]
    if lines:
        terminalreporter.section("fuzz")
        terminalreporter.write("".join(f"{line}\n" for line in lines))
