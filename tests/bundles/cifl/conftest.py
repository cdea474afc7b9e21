"""Tiny runs of CIFL's configs on a few made-up heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

CONFIGS = Path(__file__).resolve().parents[3] / "bundles" / "cifl" / "configs"

Overrides = dict[str, Any]
Run = Callable[..., ConfigWorkflow]


@pytest.fixture(scope="session")
def cifl_configs() -> Path:
    """The folder of the bundle's configs."""
    return CONFIGS


@pytest.fixture
def tiny(dataset_dir: Path) -> Overrides:
    """Overrides that make a run of seconds of `train.json`."""
    return tiny_overrides(dataset_dir)


@pytest.fixture(scope="session")
def cifl(bundle: Run) -> Run:
    """`cifl(files, overrides, **more)` runs configs of this bundle and returns the workflow."""
    return lambda files, *args, **more: bundle(_paths(files), *args, **more)


@pytest.fixture(scope="session")
def made(workflow: Run) -> Run:
    """`made(files, overrides, **more)` reads configs of this bundle."""
    return lambda files, *args, **more: workflow(_paths(files), *args, **more)


@pytest.fixture(scope="session")
def trained(cifl: Run, dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a tiny training."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    cifl("train.json", tiny_overrides(dataset_dir), output_dir=str(folder))
    return folder


def tiny_overrides(dataset_dir: Path) -> Overrides:
    return {
        "dataset_dir": str(dataset_dir),
        "device": "cpu",
        "spatial_size": [32, 32],
        "image_size": 32,
        "out_channels": 4,
        "filters": 4,
        "batch_size": 2,
        "epoch_length": 3,
        "max_epochs": 2,
        "val_interval": 1,
    }


def _paths(files: str | Sequence[str]) -> list[str]:
    return [str(CONFIGS / name) for name in ([files] if isinstance(files, str) else files)]
