from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robustmed_monai.engines.anomaly_study import (
    DetectorResult,
    calibrate_weights,
    evaluate_detector,
    summarize,
)
from robustmed_monai.inferers.ra import AnomalyMapInferer
from robustmed_monai.metrics import calibrate_thresholds
from robustmed_monai.networks.ra import ReversedAutoEncoder
from robustmed_monai.transforms.slice_selection import training_statistics
from robustmed_monai.utils.errors import DataError, WeightsError
from robustmed_monai.utils.weights import load_info, save_weights

Batch = dict[str, Tensor]


@pytest.fixture
def images() -> Tensor:
    return 0.2 + 0.3 * torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def validation(images: Tensor) -> list[Batch]:
    return [
        {"image": part, "healthy": torch.ones(len(part), dtype=torch.bool)}
        for part in images.flip(3).split(3)
    ]


@pytest.fixture
def test_set(images: Tensor) -> list[Batch]:
    """Eight images in batches of three, of which every second has a bright square."""
    image, mask = images.clone(), torch.zeros_like(images)
    mask[1::2, :, 4:12, 6:14] = 1
    image[mask > 0] = 1.0
    whole = {"image": image, "mask": mask, "healthy": torch.arange(8) % 2 == 0}
    return [
        dict(zip(whole, parts, strict=True))
        for parts in zip(*(v.split(3) for v in whole.values()), strict=True)
    ]


def _brightness(image: Tensor) -> Batch:
    return {"pred": image.clamp(max=0.5), "anomaly_map": image - image.clamp(max=0.5)}


def _nothing(image: Tensor) -> Batch:
    return {"pred": image, "anomaly_map": torch.zeros_like(image)}


class TestEvaluateDetector:
    def test_a_perfect_detector_has_perfect_figures(
        self, validation: list[Batch], test_set: list[Batch]
    ) -> None:
        result = evaluate_detector(_brightness, validation, test_set)
        perfect = ("image_auroc", "image_ap", "image_auroc_top", "image_auroc_max", "pixel_auroc", "pixel_ap")
        for name in (*perfect, "pixel_best_dice", "calibrated_dice"):
            assert result.figures[name] == pytest.approx(1.0), name
        assert result.figures["image_fpr95"] == 0
        assert result.figures["healthy_l1"] == 0
        assert result.figures["healthy_ssim"] == pytest.approx(1.0)
        assert [v for k, v in result.figures.items() if k.startswith("recall_")] == [1.0]
        assert result.intervals["image_auroc"] == [1.0, 1.0]
        assert result.labels.tolist() == [0, 1] * 4

    def test_a_blind_one_has_those_of_chance(self, validation: list[Batch], test_set: list[Batch]) -> None:
        figures = evaluate_detector(_nothing, validation, test_set).figures
        assert figures["image_auroc"] == figures["pixel_auroc"] == 0.5
        assert figures["image_ap"] == 0.5
        assert figures["pixel_ap"] == pytest.approx(4 * 64 / (8 * 32 * 32))
        assert figures["calibrated_dice"] == 0
        assert figures["calibrated_fpr"] == 0

    def test_thresholds_come_from_the_validation_images_alone(
        self, validation: list[Batch], test_set: list[Batch]
    ) -> None:
        def detector(image: Tensor) -> Batch:
            return {"pred": image, "anomaly_map": image}

        result = evaluate_detector(detector, validation, test_set)
        expected = calibrate_thresholds(torch.cat([b["image"] for b in validation]), (0.01, 0.02, 0.05))
        assert result.calibration == expected

    def test_batches_do_not_matter(self, validation: list[Batch], test_set: list[Batch]) -> None:
        whole = {k: torch.cat([b[k] for b in test_set]) for k in test_set[0]}
        parts = evaluate_detector(_brightness, validation, test_set)
        once = evaluate_detector(_brightness, validation, [whole])
        assert parts.figures == pytest.approx(once.figures)
        assert np.array_equal(parts.scores, once.scores)
        assert torch.equal(parts.cases["anomaly_map"], once.cases["anomaly_map"])

    def test_without_masks_there_are_no_pixel_figures(
        self, validation: list[Batch], test_set: list[Batch]
    ) -> None:
        plain = [{k: v for k, v in batch.items() if k != "mask"} for batch in test_set]
        result = evaluate_detector(_brightness, validation, plain)
        assert result.figures["image_auroc"] == pytest.approx(1.0)
        assert not [k for k in result.figures if k.startswith(("pixel_", "recall_", "calibrated_"))]
        assert "mask" not in result.cases

    @pytest.mark.parametrize("healthy", [True, False])
    def test_what_needs_both_kinds_is_left_out(
        self, validation: list[Batch], test_set: list[Batch], healthy: bool
    ) -> None:
        kind = [{k: v[b["healthy"] == healthy] for k, v in b.items()} for b in test_set]
        figures = evaluate_detector(_brightness, validation, kind).figures
        assert not [k for k in figures if k.startswith("image_")]
        assert ("healthy_l1" in figures) == healthy
        assert ("pixel_ap" in figures) != healthy
        assert all(np.isfinite(v) for v in figures.values())

    @pytest.mark.parametrize("empty", ["validation", "test"])
    def test_an_empty_section_is_named(
        self, validation: list[Batch], test_set: list[Batch], empty: str
    ) -> None:
        sections = {"validation": validation, "test": test_set} | {empty: []}
        with pytest.raises(DataError, match=f"{empty}: no images"):
            evaluate_detector(_brightness, sections["validation"], sections["test"])


class TestCalibrateWeights:
    @pytest.fixture
    def network(self) -> ReversedAutoEncoder:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return ReversedAutoEncoder(1, 32, (4, 8), 8, "batch")

    @pytest.fixture
    def training(self, images: Tensor) -> Any:
        return SimpleNamespace(tensors={"image": images})

    def test_adds_what_applying_needs_and_keeps_the_rest(
        self, network: ReversedAutoEncoder, validation: list[Batch], training: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "model.pt"
        digest = save_weights(network.state_dict(), path, {"metric": "val_l1", "value": 0.25})
        inferer = AnomalyMapInferer(equalize=False, perceptual="none")
        # The network at hand may have been trained on since: the weights in the file count.
        other = ReversedAutoEncoder(1, 32, (4, 8), 8, "batch")
        info = calibrate_weights(other, str(path), inferer, training, validation)
        assert load_info(path) == info
        assert (info["metric"], info["value"]) == ("val_l1", 0.25)
        assert info["training_statistics"] == training_statistics(training.tensors["image"])
        image = torch.cat([b["image"] for b in validation])
        with torch.no_grad():
            maps = (network.eval()(image) - image).abs()
        assert (
            info["calibration"]["thresholds"] == calibrate_thresholds(maps, (0.01, 0.02, 0.05))["thresholds"]
        )
        assert save_weights(other.state_dict(), tmp_path / "again.pt") == digest, (
            "the weights stay what they are"
        )

    def test_without_weights_is_refused(
        self, network: ReversedAutoEncoder, validation: list[Batch], training: Any, tmp_path: Path
    ) -> None:
        with pytest.raises(WeightsError, match=r"model.pt: no such file; train first"):
            calibrate_weights(network, str(tmp_path / "model.pt"), AnomalyMapInferer(), training, validation)


class TestSummarize:
    def _result(self, **figures: float) -> DetectorResult:
        intervals = {"image_auroc": [figures["image_auroc"] - 0.1, figures["image_auroc"] + 0.1]}
        return DetectorResult(figures, intervals, {}, np.zeros(1), np.zeros(1), {})

    def test_seeds_give_mean_and_spread(self) -> None:
        runs = [self._result(image_auroc=v, pixel_ap=2 * v) for v in (0.5, 0.6, 0.7)]
        rows = {(row["row"], row["column"]): row for row in summarize({"RA": runs, "zero": runs[:1]})}
        assert len(rows) == 4
        auroc = rows["RA", "image_auroc"]
        assert (auroc["mean"], auroc["std"], auroc["n"]) == (pytest.approx(0.6), pytest.approx(0.1), 3)
        assert auroc["ci95"] == pytest.approx([0.5, 0.7])
        assert rows["RA", "pixel_ap"]["std"] == pytest.approx(0.2)
        assert "ci95" not in rows["RA", "pixel_ap"]
        assert (rows["zero", "pixel_ap"]["std"], rows["zero", "pixel_ap"]["n"]) == (0.0, 1)

    def test_an_interval_that_is_not_finite_is_left_out(self) -> None:
        result = self._result(image_auroc=0.5)
        result.intervals["image_auroc"][0] = float("nan")
        (row,) = summarize({"RA": [result]})
        assert "ci95" not in row
