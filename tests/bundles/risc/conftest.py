"""Made-up pictures of two classes that have an upright, and tiny runs of RISC's configs on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

CONFIGS = Path(__file__).resolve().parents[3] / "bundles" / "risc" / "configs"

Overrides = dict[str, Any]
Run = Callable[..., ConfigWorkflow]


@pytest.fixture(scope="session")
def risc_configs() -> Path:
    """The folder of the bundle's configs."""
    return CONFIGS


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders train, val and test, each with the classes cross and disk; the ground is bright below."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for section, count in (("train", 24), ("val", 6), ("test", 6)):
        for name in ("cross", "disk"):
            for i in range(count):
                path = folder / section / name / f"{name}-{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(_draw(rng, name).T).save(path)
    return folder


@pytest.fixture(scope="session")
def small() -> Overrides:
    """The settings that all configs share and that make tiny networks."""
    return {"num_classes": 2, "depth": 10, "width": 0.125, "class_names": ["cross", "disk"]}


@pytest.fixture
def tiny(pictures: Path, small: Overrides) -> Overrides:
    """Overrides that make a run of seconds."""
    return {**small, "dataset_dir": str(pictures), "max_epochs": 2}


@pytest.fixture(scope="session")
def risc(bundle: Run) -> Run:
    """`risc(files, overrides, **more)` runs configs of this bundle and returns the workflow."""
    return lambda files, *args, **more: bundle(_paths(files), *args, **more)


@pytest.fixture(scope="session")
def made(workflow: Run) -> Run:
    """`made(files, overrides, **more)` reads configs of this bundle."""
    return lambda files, *args, **more: workflow(_paths(files), *args, **more)


@pytest.fixture(scope="session")
def trained(risc: Run, pictures: Path, small: Overrides, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of `train.json`: both stages, a few epochs."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    risc("train.json", small, dataset_dir=str(pictures), max_epochs=20, output_dir=str(folder))
    return folder


def _paths(files: str | Sequence[str]) -> list[str]:
    return [str(CONFIGS / name) for name in ([files] if isinstance(files, str) else files)]


def _draw(rng: np.random.Generator, name: str) -> np.ndarray:
    """(X, Y) uint8."""
    x, y = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    image = 20 + rng.normal(0, 6, (32, 32)) + 120 * (y > 24)
    a, b = 16 + rng.integers(-2, 3), 14 + rng.integers(-2, 3)
    if name == "disk":
        image[np.hypot(x - a, y - b) < 7] = 220
    else:
        image[(np.abs(x - a) < 2) & (np.abs(y - b) < 8)] = 220
        image[(np.abs(y - b) < 2) & (np.abs(x - a) < 8)] = 220
    return image.clip(0, 255).astype(np.uint8)
