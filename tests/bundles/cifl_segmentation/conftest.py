"""Drawn heads with tissue labels, tiny features, and tiny runs of the bundle's configs on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from robustmed_monai.networks.cifl import CIFL
from robustmed_monai.utils.files import write_json
from robustmed_monai.utils.weights import save_weights

CONFIGS = Path(__file__).resolve().parents[3] / "bundles" / "cifl_segmentation" / "configs"
FEATURES: dict[str, Any] = {"out_channels": 4, "channels": 4, "depth": 3, "norm": "channel", "center": True}

Overrides = dict[str, Any]
Run = Callable[..., ConfigWorkflow]


@pytest.fixture(scope="session")
def segmentation_configs() -> Path:
    """The folder of the bundle's configs."""
    return CONFIGS


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datalist of 12 + 4 + 4 subjects with two slices each, 40 x 48 pixels of 1.5 mm, labels 0 to 3."""
    folder = tmp_path_factory.mktemp("heads")
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {"name": "heads", "license": "CC0-1.0", "description": "drawn by the tests"}
    for section, count in (("training", 12), ("validation", 4), ("test", 4)):
        content[section] = []
        for subject in range(count):
            for level in range(2):
                name = f"{section}-{subject}-{level}.png"
                image, labels = _draw(rng)
                _write(folder / "images" / name, np.rint(image * 255))
                _write(folder / "labels" / name, labels)
                item = {"image": f"images/{name}", "label": f"labels/{name}", "healthy": True}
                content[section].append(
                    {**item, "subject": f"{section}-{subject}", "level": level, "pixel_mm": 1.5}
                )
    write_json(folder / "datalist.json", content)
    return folder


@pytest.fixture(scope="session")
def feature_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an untrained CIFL network, as bundles/cifl writes them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("features") / "model.pt"
    save_weights(CIFL(**FEATURES).state_dict(), path, {**FEATURES, "spatial_dims": 2})
    return path


@pytest.fixture(scope="session")
def tiny(heads: Path, feature_weights: Path) -> Overrides:
    """Overrides that make a training of seconds."""
    return {
        "dataset_dir": str(heads),
        "features_weights": str(feature_weights),
        "image_size": 32,
        "channels": [8, 16],
        "learning_rate": 0.02,
        "val_interval": 10,
        "batch_size": 8,
        "max_epochs": 2,
        "device": "cpu",
    }


@pytest.fixture(scope="session")
def segmentation(bundle: Run) -> Run:
    """`segmentation(files, overrides, **more)` runs configs of this bundle and returns the workflow."""
    return lambda files, *args, **more: bundle(_paths(files), *args, **more)


@pytest.fixture(scope="session")
def made(workflow: Run) -> Run:
    """`made(files, overrides, **more)` reads configs of this bundle."""
    return lambda files, *args, **more: workflow(_paths(files), *args, **more)


@pytest.fixture(scope="session")
def trained(segmentation: Run, tiny: Overrides, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights by run: on features for two epochs, the baseline for many."""
    found = {}
    for name, files, epochs in (("features", [], 2), ("raw", ["raw.json"], 30)):
        folder = tmp_path_factory.mktemp(name) / "out"
        own = {k: v for k, v in tiny.items() if not (files and k == "features_weights")}
        segmentation(["train.json", *files], {**own, "max_epochs": epochs}, output_dir=str(folder))
        found[name] = folder / "model.pt"
    return found


def _paths(files: str | Sequence[str]) -> list[str]:
    return [str(CONFIGS / name) for name in ([files] if isinstance(files, str) else files)]


def _draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(X, Y) image in [0, 1] and labels: a scalp, and white, grey matter and CSF in rings."""
    x, y = np.linspace(-1, 1, 40)[:, None], np.linspace(-1, 1, 48)[None]
    radius = np.hypot(x / rng.uniform(0.85, 0.95), y / rng.uniform(0.9, 1.0))
    labels = np.select([radius < 0.25, radius < 0.5, radius < 0.75], [1, 3, 2], 0)
    image = np.array([0.0, 0.15, 0.4, 0.6])[labels] + rng.normal(0, 0.01, labels.shape)
    image[(radius > 0.85) & (radius < 1)] = 0.95
    return image.clip(0, 1), labels


def _write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values.T.astype(np.uint8)).save(path)
