"""The official MedMNIST files: read as published, and what the first steps on them reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robustmed_monai.data.medmnist import image_channels, image_dataset
from robustmed_monai.data.tensor_dataset import with_corrupted
from robustmed_monai.inferers.probe import extract_features, fit_probe
from robustmed_monai.metrics.classification import classification_metrics
from robustmed_monai.metrics.unoranic import pooled_psnr
from robustmed_monai.networks.unoranic import UNORANIC
from robustmed_monai.transforms.corruption.suite import CorruptionSuite
from robustmed_monai.transforms.corruption.unoranic import unoranic_chain

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("dataset", "counts", "classes"),
    [("pneumoniamnist", (4708, 524, 624), 2), ("retinamnist", (1080, 120, 400), 5)],
)
def test_official_files(data_root: Path, dataset: str, counts: tuple[int, ...], classes: int) -> None:
    folder = data_root / "medmnist"
    for section, count in zip(("training", "validation", "test"), counts, strict=True):
        data = image_dataset(section, dataset, folder)
        image, label = data.tensors["image"], data.tensors["label"]
        assert image.shape == (count, image_channels(dataset), 28, 28)
        assert (float(image.min()), float(image.max())) >= (0.0, 0.5)
        assert set(label.tolist()) == set(range(classes))
    with np.load(folder / f"{dataset}.npz") as arrays:
        pixels = arrays["test_images"][0]
    shown = (image[0].permute(2, 1, 0) * 255).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(shown[..., 0] if pixels.ndim == 2 else shown, pixels)


def test_noise_of_the_paper_cannot_be_worse_than_31_db(data_root: Path) -> None:
    # The paper lists 30.5 dB for "Gaussian noise" as the corrupted input; a variance of 50 gives 31.1.
    clean = image_dataset("test", "pneumoniamnist", data_root / "medmnist").tensors["image"]
    suite = CorruptionSuite.unoranic()
    case = next(case for case in suite.cases if case.name == "gaussian_noise")
    assert 31 < pooled_psnr(suite.apply(clean, case), clean) < 38


def test_random_features_already_tell_something(data_root: Path) -> None:
    torch.manual_seed(0)
    network = UNORANIC(3)
    found, labels = {}, {}
    for section in ("training", "validation", "test"):
        data = image_dataset(section, "retinamnist", data_root / "medmnist")
        if section == "training":
            views = with_corrupted(data, unoranic_chain()).tensors["corrupted"]
            with torch.no_grad():
                network.train().anatomy(views[:256])
        found[section], labels[section] = (
            extract_features(network, data.tensors["image"]),
            data.tensors["label"],
        )
    one, two = ((found[k]["anatomy"], labels[k]) for k in ("training", "validation"))
    metrics = classification_metrics(fit_probe(one, two)(found["test"]["anatomy"]), labels["test"])
    assert metrics["auc"] > 0.6
