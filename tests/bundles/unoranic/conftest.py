"""A made-up PneumoniaMNIST and RetinaMNIST, and tiny runs of unORANIC's configs on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

CONFIGS = Path(__file__).resolve().parents[3] / "bundles" / "unoranic" / "configs"
CHANNELS = [4, 4, 4, 8]

Overrides = dict[str, Any]
Run = Callable[..., ConfigWorkflow]


@pytest.fixture(scope="package")
def configs() -> Path:
    """The folder of the bundle's configs."""
    return CONFIGS


@pytest.fixture(scope="package")
def medmnist_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Official files as far as the installed medmnist can tell: rings whose brightness is their class."""
    import medmnist

    folder = tmp_path_factory.mktemp("medmnist")
    with pytest.MonkeyPatch.context() as patch:
        for name, classes, channels in (("pneumoniamnist", 2, 1), ("retinamnist", 5, 3)):
            path = folder / f"{name}.npz"
            np.savez_compressed(path, **_rings(classes, channels))
            digest = hashlib.md5(path.read_bytes()).hexdigest()
            patch.setitem(medmnist.INFO, name, medmnist.INFO[name] | {"MD5": digest})
        yield folder


@pytest.fixture
def tiny(medmnist_dir: Path) -> Overrides:
    """Overrides that make a run of seconds of `train.json`."""
    return _tiny(medmnist_dir)


@pytest.fixture(scope="package")
def unoranic(bundle: Run) -> Run:
    """`unoranic(files, overrides, **more)` runs configs of this bundle and returns the workflow."""
    return lambda files, *args, **more: bundle(_paths(files), *args, **more)


@pytest.fixture(scope="package")
def made(workflow: Run) -> Run:
    """`made(files, overrides, **more)` reads configs of this bundle."""
    return lambda files, *args, **more: workflow(_paths(files), *args, **more)


@pytest.fixture(scope="package")
def trained_nets(
    unoranic: Run, medmnist_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Output folders of tiny trainings of unORANIC, AE and denoising AE."""
    folders = {}
    for name in ("train", "ae", "dae"):
        folders[name] = tmp_path_factory.mktemp("trained") / name
        files = ["train.json", *([f"{name}.json"] if name != "train" else [])]
        unoranic(files, _tiny(medmnist_dir), output_dir=str(folders[name]))
    return folders


@pytest.fixture(scope="package")
def with_heads(
    unoranic: Run, medmnist_dir: Path, trained_nets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Output folder of `train_probe.json` on the tiny unORANIC."""
    folder = tmp_path_factory.mktemp("probe")
    overrides = {k: _tiny(medmnist_dir)[k] for k in ("dataset", "dataset_dir", "channels")}
    weights = str(trained_nets["train"] / "model.pt")
    unoranic("train_probe.json", overrides, weights=weights, draws=1, output_dir=str(folder))
    return folder


def _paths(files: str | Sequence[str]) -> list[str]:
    return [str(CONFIGS / name) for name in ([files] if isinstance(files, str) else files)]


def _tiny(folder: Path) -> Overrides:
    return {
        "dataset": "pneumoniamnist",
        "dataset_dir": str(folder),
        "channels": CHANNELS,
        "batch_size": 8,
        "max_epochs": 4,
        "val_interval": 2,
        "device": "cpu",
    }


def _rings(classes: int, channels: int) -> dict[str, Any]:
    rng = np.random.default_rng(classes)
    distance = np.hypot(*np.mgrid[-1:1:28j, -1:1:28j])
    arrays: dict[str, Any] = {}
    for part, count in (("train", 30), ("val", 20), ("test", 20)):
        labels = rng.permutation(np.arange(count) % classes)
        radius = rng.uniform(0.4, 0.8, count)[:, None, None]
        ring = (
            np.exp(-(((distance - radius) / 0.2) ** 2)) * (0.5 + 0.5 * labels / (classes - 1))[:, None, None]
        )
        pixels = 200 * ring[..., None] * rng.uniform(0.8, 1.0, channels) + rng.uniform(
            0, 30, (count, 28, 28, 1)
        )
        arrays[f"{part}_images"] = (pixels if channels > 1 else pixels[..., 0]).astype(np.uint8)
        arrays[f"{part}_labels"] = labels[:, None].astype(np.uint8)
    return arrays
