"""A made-up test set, a model that cannot see noise, and foreign bundles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from robustmed_monai.apps.stress import Model, StressData, callable_model, tensor_data
from robustmed_monai.transforms.corruption.suite import CorruptionSuite

COUNT = 24


def brightness(images: Tensor) -> Tensor:
    """Two classes by the mean grey value."""
    mean = images.mean((1, 2, 3))
    return torch.stack([0.5 - mean, mean - 0.5], 1) * 20


def threshold(images: Tensor) -> Tensor:
    """Labels: what is bright."""
    return (images > 0.5).to(torch.uint8)


@pytest.fixture(scope="session")
def pictures() -> tuple[Tensor, Tensor]:
    """Dark and bright pictures (24, 1, 20, 20) of 8 bits, and which is which."""
    labels = torch.arange(COUNT) % 2
    noise = torch.rand(COUNT, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    images = 0.25 + 0.3 * labels.view(-1, 1, 1, 1) + 0.2 * noise
    return (images * 255).round() / 255, labels


@pytest.fixture
def data(pictures: tuple[Tensor, Tensor]) -> StressData:
    images, labels = pictures
    return tensor_data(images, labels, "made up", subjects=[i // 2 for i in range(COUNT)])


@pytest.fixture
def squares() -> StressData:
    """Bright squares on dark ground with their masks; twelve images of six subjects."""
    images, masks = torch.full((12, 1, 24, 24), 0.2), torch.zeros(12, 1, 24, 24, dtype=torch.long)
    for i in range(12):
        masks[i, 0, 4 + i % 5 : 14, 3 : 15 + i % 3] = 1
    images[masks > 0] = 0.8
    return tensor_data(
        images, masks, "squares", subjects=[i // 2 for i in range(12)], class_names=["air", "box"]
    )


@pytest.fixture
def model() -> Model:
    return callable_model(brightness, "brightness")


@pytest.fixture
def segmenter() -> Model:
    return callable_model(threshold, "threshold")


@pytest.fixture
def suite() -> CorruptionSuite:
    rows: list[dict[str, Any]] = [
        {"family": "imagenet_c", "name": ["gaussian_noise", "brightness"], "severity": [1, 3, 5]},
        {"family": "acquisition", "name": "gain_up", "severity": [1, 2, 3, 4, 5]},
        {"family": "orientation", "name": ["flip_x", "turn_90"]},
    ]
    return CorruptionSuite("small", 3, rows)


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """`bundle(**keys)`: a foreign bundle, a classifier of MONAI, with keys added or changed."""

    def make(weights: bool = True, **keys: Any) -> Path:
        folder = tmp_path / "foreign"
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        (folder / "models").mkdir(exist_ok=True)
        network = {
            "_target_": "DenseNet",
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 2,
            "init_features": 4,
            "growth_rate": 4,
            "block_config": [1, 1],
        }
        config = {
            "bundle_root": ".",
            "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
            "network_def": network,
            "network": "$@network_def.to(@device)",
            "preprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "LoadImaged", "keys": "image"},
                    {"_target_": "EnsureChannelFirstd", "keys": "image"},
                    {"_target_": "ScaleIntensityd", "keys": "image"},
                ],
            },
            "inferer": {"_target_": "SimpleInferer"},
            **keys,
        }
        (folder / "configs" / "inference.json").write_text(json.dumps(config))
        (folder / "configs" / "metadata.json").write_text('{"version": "0.1.0"}')
        if weights:
            from monai.networks.nets import DenseNet

            torch.manual_seed(0)
            built = DenseNet(2, 1, 2, init_features=4, growth_rate=4, block_config=(1, 1))
            torch.save(built.state_dict(), folder / "models" / "model.pt")
        return folder

    return make


@pytest.fixture
def datalist(tmp_path: Path, pictures: tuple[Tensor, Tensor]) -> Path:
    """A MONAI datalist of PNG files with a class each, two images a subject."""
    items = []
    for i, (image, label) in enumerate(zip(*pictures, strict=True)):
        pixels = (image[0].T * 255).round().to(torch.uint8).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{i:02}.png")
        items.append({"image": f"{i:02}.png", "label": int(label), "subject": f"s{i // 2}"})
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"test": items}))
    return path


@pytest.fixture
def squares_on_disk(tmp_path: Path, squares: StressData) -> Path:
    """The squares and their masks as a datalist of NIfTI files with intensities from 0.2 to 0.8."""
    items = []
    for i in range(4):
        image, truth = squares.read(i)
        for name, values in (("image", image[0].numpy()), ("label", truth[0].numpy())):
            nib.save(nib.Nifti1Image(values[..., None], np.eye(4)), tmp_path / f"{name}{i}.nii")
        items.append({"image": f"image{i}.nii", "label": f"label{i}.nii"})
    path = tmp_path / "squares.json"
    path.write_text(json.dumps({"test": items}))
    return path
