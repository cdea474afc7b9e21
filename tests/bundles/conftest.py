"""A tiny data set, a tiny training, and the RA bundle run as MONAI's workflow and as its command."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

from robustmed_monai.utils.files import write_json

CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "ra" / "configs"
PROGRAM = str(Path(sys.modules["monai.bundle"].__path__[0]) / "__main__.py")

Overrides = dict[str, Any]


class Done(NamedTuple):
    """How a command ended."""

    code: int
    last_line: str


@pytest.fixture(scope="module", autouse=True)
def _offline(no_network: None) -> None:
    """No bundle needs a network; one that asks for it fails here as it would offline."""


@pytest.fixture(scope="session")
def configs() -> Path:
    """The folder of the bundle's configs."""
    return CONFIGS


@pytest.fixture
def tiny(dataset_dir: Path) -> Overrides:
    """Overrides that make a run of seconds of `train.json`, its warm-up and its second stage included."""
    return _tiny(dataset_dir)


@pytest.fixture(scope="session")
def tiny_network(dataset_dir: Path) -> Overrides:
    """The part of `tiny` that describes the network, for evaluation and inference."""
    return {key: _tiny(dataset_dir)[key] for key in ("image_size", "channels", "latent_size")}


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training, four validation and eight test pictures; every second test one has a lesion."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)
    content: dict[str, Any] = {"name": "blobs", "license": "CC0-1.0", "description": "drawn by the tests"}
    for section, count in (("training", 12), ("validation", 4), ("test", 8)):
        items = []
        for i in range(count):
            head = draw_head(rng)
            item = {"image": f"{section}-{i}.png", "healthy": section != "test" or i % 2 == 0}
            if not item["healthy"]:
                item |= {"mask": f"{section}-{i}-mask.png", "kind": "hyper"}
                mask = np.zeros(head.shape, bool)
                mask[18:24, 20:27] = True
                head[mask] = 1.0
                _write_png(folder / str(item["mask"]), mask.astype(float))
            _write_png(folder / str(item["image"]), head)
            items.append(item)
        content[section] = items
    write_json(folder / "datalist.json", content)
    return folder


@pytest.fixture(scope="session")
def trained(dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a whole tiny training with seed 0."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    run_bundle("train.json", _tiny(dataset_dir), output_dir=str(folder))
    return folder


@pytest.fixture(scope="session")
def workflow() -> Callable[..., ConfigWorkflow]:
    """`workflow(files, overrides, **more)` reads config files of RA."""
    return make_workflow


@pytest.fixture(scope="session")
def bundle() -> Callable[..., ConfigWorkflow]:
    """`bundle(files, overrides, **more)` runs config files of RA in this process and returns the workflow."""
    return run_bundle


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`command(folder, *words, **overrides)`: what `python -m monai.bundle run` does there, in here."""

    def run(folder: Path, *words: str, **overrides: Any) -> Done:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", sys.path.copy())
        monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
        # The bundle's logging.conf would bind the root logger to a stream that ends with this test.
        words = (*words, "--logging_file", "False")
        monkeypatch.setattr(sys, "argv", [PROGRAM, "run", *words, *spelled(overrides)])
        code = 0
        try:
            with warnings.catch_warnings():
                _ignore_renamed_arguments()
                runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
            code = 1
        return Done(code, last_line(capfd.readouterr().err))

    return run


@pytest.fixture(scope="session")
def process() -> Callable[..., Done]:
    """`process(folder, *words, **overrides)`: the same in a new Python process, as a user starts it."""

    def run(folder: Path, *words: str, module: Sequence[str] = ("monai.bundle",), **overrides: Any) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", *module, "run", *words, *spelled(overrides)],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return Done(done.returncode, last_line(done.stderr))

    return run


def run_bundle(
    files: str | Sequence[str],
    overrides: Overrides | None = None,
    before_run: Callable[[ConfigWorkflow], None] | None = None,
    **more: Any,
) -> ConfigWorkflow:
    workflow = make_workflow(files, overrides, **more)
    with warnings.catch_warnings():
        _ignore_renamed_arguments()
        workflow.initialize()
        if before_run is not None:
            before_run(workflow)
        workflow.run()
        workflow.finalize()
    return workflow


def make_workflow(
    files: str | Sequence[str], overrides: Overrides | None = None, workflow_type: str = "train", **more: Any
) -> ConfigWorkflow:
    names = [files] if isinstance(files, str) else files
    paths = [str(CONFIGS / name) for name in names]
    return ConfigWorkflow(paths, logging_file=False, workflow_type=workflow_type, **(overrides or {}), **more)


def _ignore_renamed_arguments() -> None:
    # MONAI 1.6.1 hands ignite's early stopping arguments that ignite 0.5.5 has renamed.
    warnings.filterwarnings("ignore", "'(min_delta|cumulative_delta)' is deprecated", DeprecationWarning)


def draw_head(rng: np.random.Generator, shape: tuple[int, int] = (40, 48)) -> np.ndarray:
    """A bright ellipse with a dark middle and noise, (X, Y) in [0, 1], black around."""
    x, y = (
        np.linspace(-1, 1, n)[s]
        for n, s in zip(shape, ((slice(None), None), (None, slice(None))), strict=True)
    )
    width, height, shift = rng.uniform(0.65, 0.8), rng.uniform(0.75, 0.9), rng.uniform(-0.05, 0.05)
    distance = np.hypot((x - shift) / width, y / height)
    texture = 0.6 + 0.1 * np.sin(6 * x + rng.uniform(0, 6)) + rng.normal(0, 0.02, shape)
    return np.where(distance < 1, np.where(distance < 0.3, 0.3, texture), 0).clip(0, 1)


def spelled(overrides: Overrides) -> list[str]:
    return [word for key, value in overrides.items() for word in (f"--{key}", str(value))]


def last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _tiny(dataset_dir: Path) -> Overrides:
    return {
        "dataset_dir": str(dataset_dir),
        "image_size": 32,
        "channels": [4, 8, 8],
        "latent_size": 8,
        "batch_size": 4,
        "max_epochs": 4,
        "warmup_epochs": 2,
        "val_interval": 1,
    }


def _write_png(path: Path, values: np.ndarray) -> None:
    Image.fromarray(np.rint(values.T * 255).astype(np.uint8)).save(path)
