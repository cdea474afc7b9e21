"""The figures behind unORANIC's tables, on networks and classifiers whose answer is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustmed_monai.data.probe_data import ProbeData
from robustmed_monai.inferers.probe import LinearProbe, fit_probes
from robustmed_monai.metrics import unoranic
from robustmed_monai.metrics.result import Result
from robustmed_monai.metrics.unoranic import (
    ClassifierLoader,
    load_revision,
    measure_classifier,
    measure_detection,
    measure_reconstruction,
    measure_revision,
    measure_robustness,
    pooled_psnr,
    probed,
    robustness_pictures,
    whole_network,
)
from robustmed_monai.transforms.corruption.suite import CorruptionSuite
from robustmed_monai.utils.weights import save_weights

TWELVE = CorruptionSuite("few", 0, [{"family": "unoranic", "name": ["invert", "gaussian_noise"]}])


class Shifted(nn.Module):
    """Draws the image 0.1 brighter as anatomy, 0.01 brighter in full; its codes are mean and deviation."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + 0.1

    def reconstruct(self, image: torch.Tensor) -> torch.Tensor:
        return image + 0.01

    def anatomy(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1).mean(1, keepdim=True)

    def characteristics(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1).std(1, keepdim=True)


@pytest.fixture
def clean() -> torch.Tensor:
    """Forty dark images (class 0 darker than class 1)."""
    images = 0.05 * torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return images + 0.1 * (torch.arange(40) % 2).view(-1, 1, 1, 1)


def values(result: Result) -> dict[str, float]:
    return {k: float(v) for k, v in result.figures.items() if isinstance(v, float)}


LABELS = torch.arange(40) % 2
BRIGHT = LinearProbe(torch.tensor([[0.0], [100.0]]), torch.tensor([0.0, -7.5]))


def test_reconstruction_compares_each_image_with_what_it_should_be(clean: torch.Tensor) -> None:
    figures = values(measure_reconstruction(Shifted(), clean, clean + 0.2))
    assert figures["full_psnr"] == pytest.approx(40, abs=0.01)
    assert figures["anatomy_psnr"] == pytest.approx(20, abs=0.01)
    # The full image is to be like the corrupted one, the anatomy image like the clean one.
    assert figures["corrupted_full_psnr"] == pytest.approx(40, abs=0.01)
    assert figures["corrupted_anatomy_psnr"] == pytest.approx(-20 * math.log10(0.3), abs=0.01)
    assert set(figures) == {
        f"{a}{b}_{c}" for a in ("", "corrupted_") for b in ("full", "anatomy") for c in ("psnr", "ssim")
    }


def test_pooled_psnr_is_that_of_the_mean_error() -> None:
    x = torch.zeros(2, 1, 4, 4)
    y = x.clone()
    y[1] += 0.2
    assert pooled_psnr(y, x) == pytest.approx(-10 * math.log10(0.02), abs=1e-5)
    assert math.isfinite(pooled_psnr(x, x))


def test_revision_is_measured_against_the_clean_image(clean: torch.Tensor, tmp_path: Path) -> None:
    inverted = TWELVE.apply(clean, TWELVE.cases[0])
    nothing = values(measure_revision(nn.Identity(), TWELVE, clean))
    assert list(nothing) == ["invert", "gaussian_noise"]
    assert nothing["invert"] == pytest.approx(pooled_psnr(inverted, clean))
    save_weights({"unused": torch.zeros(1)}, tmp_path / "model.pt")
    network = Shifted()
    network.register_buffer("unused", torch.zeros(1))
    for image, shift in (("anatomy", 0.1), ("full", 0.01)):
        found = values(
            measure_revision(load_revision(str(tmp_path / "model.pt"), network, image), TWELVE, clean)
        )
        assert found["invert"] == pytest.approx(pooled_psnr(inverted + shift, clean), abs=1e-4)


class TestClassifiers:
    def test_probes_and_whole_nets(self, clean: torch.Tensor) -> None:
        layer = nn.Linear(1, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[0.0], [100.0]]))
            layer.bias.copy_(torch.tensor([0.0, -7.5]))
        net = nn.Sequential(nn.AvgPool2d(28), nn.Flatten(), layer)
        classifiers = [probed(Shifted(), "anatomy", BRIGHT), whole_network(net)]
        for classify in classifiers:
            found = values(measure_classifier(classify, clean, LABELS))
            assert found == {"auc": 1.0, "acc": 1.0, "balanced_error": 0.0}
        spread = probed(Shifted(), "characteristics", BRIGHT)
        assert values(measure_classifier(spread, clean, LABELS))["acc"] == 0.5

    def test_the_loader_fits_each_probe_once(
        self, clean: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        network, file = Shifted(), str(tmp_path / "model.pt")
        network.register_buffer("unused", torch.zeros(1))
        save_weights(network.state_dict(), file)
        data = ProbeData(
            {k: clean for k in ("training", "validation")}, {k: LABELS for k in ("training", "validation")}
        )
        load = ClassifierLoader(data, network, features="anatomy")
        fits: list[list[str]] = []

        def fit(network: nn.Module, data: ProbeData, names: list[str], device: str) -> Any:
            fits.append(names)
            return fit_probes(network, data, names, device)

        monkeypatch.setattr(unoranic, "fit_probes", fit)
        first, again, other = (
            load(file),
            load(file, network, "anatomy"),
            load(file, features="characteristics"),
        )
        assert fits == [["anatomy"], ["characteristics"]]
        assert torch.equal(first(clean), again(clean))
        assert not torch.equal(first(clean), other(clean))

    def test_detection_says_which_corruptions_are_seen(self, clean: torch.Tensor) -> None:
        detector = LinearProbe(torch.tensor([[0.0], [20.0]]), torch.tensor([0.0, -10.0]))
        images = torch.cat([clean, TWELVE.apply(clean, TWELVE.cases[0])])
        labels = torch.arange(80) // 40
        classifier = probed(Shifted(), "anatomy", detector)
        found = values(measure_detection(classifier, images, labels, clean, TWELVE))
        assert found["auc"] == found["acc"] == found["auc_invert"] == 1.0
        # A little noise hardly changes the mean: only what is clipped at black counts.
        assert 0.4 < found["auc_gaussian_noise"] < 0.8

    def test_robustness_averages_severities_then_corruptions(self, clean: torch.Tensor) -> None:
        names = ["brightness", "contrast"]
        suite = CorruptionSuite("two", 0, [{"family": "imagenet_c", "name": names, "severity": [1, 5]}])
        result = measure_robustness(probed(Shifted(), "anatomy", BRIGHT), suite, clean, LABELS)
        found = values(result)
        for figure in ("auc", "acc", "balanced_error"):
            for name in names:
                each = [found[f"{figure}_{name}_{s}"] for s in (1, 5)]
                assert found[f"{figure}_{name}"] == pytest.approx(sum(each) / 2)
            mean = (found[f"{figure}_brightness"] + found[f"{figure}_contrast"]) / 2
            assert found[f"{figure}_mean"] == pytest.approx(mean)
        # All images become bright, so all are taken for class 1.
        assert found["acc_brightness_5"] == found["balanced_error_brightness_5"] == 0.5
        assert not any(column.startswith("be_") for column in found)
        assert [severity for severity, _ in result.shown["auc"]["contrast"]] == [0, 1, 5]
        assert set(robustness_pictures({"a": [result, result]})) == {"curves"}

    def test_medmnist_c_brings_the_relative_error(self, clean: torch.Tensor) -> None:
        row = {"family": "medmnist_c", "name": "brightness_up", "severity": [5], "dataset": "pneumoniamnist"}
        classifier = probed(Shifted(), "anatomy", BRIGHT)
        found = values(measure_robustness(classifier, CorruptionSuite("one", 0, [row]), clean, LABELS))
        assert found["be_mean"] == found["be_brightness_up"]
        assert found["be_mean"] == pytest.approx(found["balanced_error_mean"] / 0.1465)
