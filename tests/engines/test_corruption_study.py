"""The figures behind unORANIC's tables, on networks and classifiers whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from robustmed_monai.engines.corruption_study import (
    classification_table,
    detection_table,
    pooled_psnr,
    probed,
    reconstruction_figures,
    revision_table,
    robustness_suites,
    robustness_table,
    supervised,
    table_rows,
)
from robustmed_monai.engines.probe import LinearProbe
from robustmed_monai.networks.unoranic import AutoEncoder
from robustmed_monai.transforms.corruption.suite import CorruptionSuite

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


LABELS = torch.arange(40) % 2
BRIGHT = LinearProbe(torch.tensor([[0.0], [100.0]]), torch.tensor([0.0, -7.5]))


def test_reconstruction_compares_each_image_with_what_it_should_be(clean: torch.Tensor) -> None:
    figures = reconstruction_figures(Shifted(), clean, clean + 0.2)
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


def test_revision_has_doing_nothing_beside_every_method(clean: torch.Tensor) -> None:
    torch.manual_seed(0)
    networks: dict[str, list[nn.Module]] = {
        "shifted": [Shifted(), Shifted()],
        "AE": [AutoEncoder(1, 28, (2, 2, 2, 2))],
    }
    table = revision_table(networks, TWELVE, clean)
    assert list(table) == ["corrupted input", "shifted, anatomy image", "shifted, full reconstruction", "AE"]
    inverted = TWELVE.apply(clean, TWELVE.cases[0])
    assert table["corrupted input"][0]["invert"] == pytest.approx(pooled_psnr(inverted, clean))
    assert len(table["shifted, anatomy image"]) == 2
    for run in table["shifted, full reconstruction"]:
        assert run["invert"] == pytest.approx(pooled_psnr(inverted + 0.01, clean), abs=1e-4)


class TestClassifiers:
    def test_probes_and_whole_nets(self, clean: torch.Tensor) -> None:
        probes = probed(Shifted(), {"mean": ("anatomy", BRIGHT), "spread": ("characteristics", BRIGHT)})
        layer = nn.Linear(1, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[0.0], [100.0]]))
            layer.bias.copy_(torch.tensor([0.0, -7.5]))
        net = nn.Sequential(nn.AvgPool2d(28), nn.Flatten(), layer)
        table = classification_table([(0, probes), (1, probes), (0, supervised("net", net))], clean, LABELS)
        assert list(table) == ["mean", "spread", "net"]
        assert [len(runs) for runs in table.values()] == [2, 2, 1]
        assert table["mean"][1] == table["net"][0] == {"auc": 1.0, "acc": 1.0, "balanced_error": 0.0}
        assert table["spread"][0]["acc"] == 0.5

    def test_detection_says_which_corruptions_are_seen(self, clean: torch.Tensor) -> None:
        detector = LinearProbe(torch.tensor([[0.0], [20.0]]), torch.tensor([0.0, -10.0]))
        images = torch.cat([clean, TWELVE.apply(clean, TWELVE.cases[0])])
        labels = torch.arange(80) // 40
        classifier = probed(Shifted(), {"mean": ("anatomy", detector)})
        (run,) = detection_table([(0, classifier)], images, labels, clean, TWELVE)["mean"]
        assert run["auc"] == run["acc"] == run["auc_invert"] == 1.0
        # A little noise hardly changes the mean: only what is clipped at black counts.
        assert 0.4 < run["auc_gaussian_noise"] < 0.8

    def test_robustness_averages_severities_then_corruptions(self, clean: torch.Tensor) -> None:
        names = ["brightness", "contrast"]
        suite = CorruptionSuite("two", 0, [{"family": "imagenet_c", "name": names, "severity": [1, 5]}])
        classifier = probed(Shifted(), {"mean": ("anatomy", BRIGHT)})
        (run,) = robustness_table([(0, classifier)], suite, clean, LABELS)["mean"]
        for figure in ("auc", "acc", "balanced_error"):
            for name in names:
                each = [run[f"{figure}_{name}_{s}"] for s in (1, 5)]
                assert run[f"{figure}_{name}"] == pytest.approx(sum(each) / 2)
            mean = (run[f"{figure}_brightness"] + run[f"{figure}_contrast"]) / 2
            assert run[f"{figure}_mean"] == pytest.approx(mean)
        # All images become bright, so all are taken for class 1.
        assert run["acc_brightness_5"] == run["balanced_error_brightness_5"] == 0.5
        assert not any(column.startswith("be_") for column in run)

    def test_medmnist_c_brings_the_relative_error(self, clean: torch.Tensor) -> None:
        row = {"family": "medmnist_c", "name": "brightness_up", "severity": [5], "dataset": "pneumoniamnist"}
        classifier = probed(Shifted(), {"mean": ("anatomy", BRIGHT)})
        (run,) = robustness_table([(0, classifier)], CorruptionSuite("one", 0, [row]), clean, LABELS)["mean"]
        assert run["be_mean"] == run["be_brightness_up"] == pytest.approx(run["balanced_error_mean"] / 0.1465)


def test_suites_of_a_data_set() -> None:
    assert list(robustness_suites(None)) == ["robustness_imagenet_c"]
    both = robustness_suites("pneumoniamnist", severities=[3])
    assert list(both) == ["robustness_imagenet_c", "robustness_medmnist_c"]
    assert [len(suite.cases) for suite in both.values()] == [14, 13]


def test_rows_have_mean_spread_and_number() -> None:
    rows = table_rows({"a": [{"x": 1.0, "y": 5.0}, {"x": 3.0}], "b": [{"x": 2.0}]})
    assert rows == [
        {"row": "a", "column": "x", "mean": 2.0, "std": pytest.approx(2**0.5), "n": 2},
        {"row": "a", "column": "y", "mean": 5.0, "std": 0.0, "n": 1},
        {"row": "b", "column": "x", "mean": 2.0, "std": 0.0, "n": 1},
    ]
