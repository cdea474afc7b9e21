from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robustmed_monai.inferers.ra import AnomalyMapInferer
from robustmed_monai.metrics import calibrate_thresholds
from robustmed_monai.metrics.bootstrap import Estimate
from robustmed_monai.metrics.ra import anomaly_pictures, calibrate_weights, measure_detector
from robustmed_monai.metrics.result import Result
from robustmed_monai.networks.ra import ReversedAutoEncoder
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


def _figures(result: Result) -> dict[str, float]:
    return {k: v.value if isinstance(v, Estimate) else v for k, v in result.figures.items()}


def _brightness(image: Tensor) -> Batch:
    return {"pred": image.clamp(max=0.5), "anomaly_map": image - image.clamp(max=0.5)}


def _nothing(image: Tensor) -> Batch:
    return {"anomaly_map": torch.zeros_like(image)}


class TestMeasureDetector:
    def test_a_perfect_detector_has_perfect_figures(
        self, validation: list[Batch], test_set: list[Batch]
    ) -> None:
        result = measure_detector(_brightness, validation, test_set)
        figures = _figures(result)
        perfect = ("image_auroc", "image_ap", "image_auroc_top", "image_auroc_max", "pixel_auroc", "pixel_ap")
        for name in (*perfect, "pixel_best_dice", "calibrated_dice"):
            assert figures[name] == pytest.approx(1.0), name
        assert figures["image_fpr95"] == 0
        assert figures["healthy_l1"] == 0
        assert figures["healthy_ssim"] == pytest.approx(1.0)
        assert [v for k, v in figures.items() if k.startswith("recall_") and v == v] == [1.0] * 4
        auroc = result.figures["image_auroc"]
        assert isinstance(auroc, Estimate)
        assert auroc.ci95 == [1.0, 1.0]
        assert result.shown["labels"].tolist() == [0, 1] * 4

    def test_a_blind_one_has_those_of_chance(self, validation: list[Batch], test_set: list[Batch]) -> None:
        figures = _figures(measure_detector(_nothing, validation, test_set))
        assert not [k for k in figures if k.startswith("healthy_")], "it reconstructs nothing"
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

        result = measure_detector(detector, validation, test_set)
        expected = calibrate_thresholds(torch.cat([b["image"] for b in validation]), (0.01, 0.02, 0.05))
        assert result.shown["threshold"] == expected["thresholds"]["0.05"]
        at_one = measure_detector(detector, validation, test_set, fprs=(0.01,))
        assert at_one.shown["threshold"] == expected["thresholds"]["0.01"]

    def test_batches_do_not_matter(self, validation: list[Batch], test_set: list[Batch]) -> None:
        whole = {k: torch.cat([b[k] for b in test_set]) for k in test_set[0]}
        parts = measure_detector(_brightness, validation, test_set)
        once = measure_detector(_brightness, validation, [whole])
        assert _figures(parts) == pytest.approx(_figures(once), nan_ok=True)
        assert np.array_equal(parts.shown["scores"], once.shown["scores"])
        assert torch.equal(parts.shown["panels"]["anomaly_map"], once.shown["panels"]["anomaly_map"])

    def test_without_masks_there_are_no_pixel_figures(
        self, validation: list[Batch], test_set: list[Batch]
    ) -> None:
        plain = [{k: v for k, v in batch.items() if k != "mask"} for batch in test_set]
        result = measure_detector(_brightness, validation, plain)
        assert _figures(result)["image_auroc"] == pytest.approx(1.0)
        assert not [k for k in result.figures if k.startswith(("pixel_", "recall_", "calibrated_"))]
        assert "mask" not in result.shown["panels"]

    @pytest.mark.parametrize("healthy", [True, False])
    def test_what_needs_both_kinds_is_left_out(
        self, validation: list[Batch], test_set: list[Batch], healthy: bool
    ) -> None:
        kind = [{k: v[b["healthy"] == healthy] for k, v in b.items()} for b in test_set]
        result = measure_detector(_brightness, validation, kind)
        figures = {k: v for k, v in _figures(result).items() if np.isfinite(v)}
        assert not [k for k in figures if k.startswith("image_")]
        assert ("curves" in anomaly_pictures({"a": [result]})) is False
        assert ("healthy_l1" in figures) == healthy
        assert ("pixel_ap" in figures) != healthy

    def test_intervals_resample_the_subjects(self, validation: list[Batch], test_set: list[Batch]) -> None:
        def detector(image: Tensor) -> Batch:
            return {"anomaly_map": image}

        def width(batches: list[Batch]) -> float:
            auroc = measure_detector(detector, validation, batches).figures["image_auroc_max"]
            assert isinstance(auroc, Estimate)
            return auroc.ci95[1] - auroc.ci95[0]

        # The same images again, as further images of the same subjects, tell nothing new.
        numbers = torch.arange(8).split(3)
        once = [{**b, "image": 1 - b["image"], "subject": n} for b, n in zip(test_set, numbers, strict=True)]
        assert width(once + once) == pytest.approx(width(once))
        alone = [{k: v for k, v in b.items() if k != "subject"} for b in once + once]
        assert width(alone) < width(once)

    @pytest.mark.parametrize("empty", ["validation", "test"])
    def test_an_empty_section_is_named(
        self, validation: list[Batch], test_set: list[Batch], empty: str
    ) -> None:
        sections = {"validation": validation, "test": test_set} | {empty: []}
        with pytest.raises(DataError, match=f"{empty}: no images"):
            measure_detector(_brightness, sections["validation"], sections["test"])


class TestCalibrateWeights:
    @pytest.fixture
    def network(self) -> ReversedAutoEncoder:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return ReversedAutoEncoder(1, 32, (4, 8), 8, "batch")

    def test_adds_what_applying_needs_and_keeps_the_rest(
        self, network: ReversedAutoEncoder, validation: list[Batch], tmp_path: Path
    ) -> None:
        path = tmp_path / "model.pt"
        digest = save_weights(network.state_dict(), path, {"metric": "val_l1", "value": 0.25})
        inferer = AnomalyMapInferer(equalize=False, perceptual="none")
        # The network at hand may have been trained on since: the weights in the file count.
        other = ReversedAutoEncoder(1, 32, (4, 8), 8, "batch")
        info = calibrate_weights(other, str(path), inferer, validation)
        assert load_info(path) == info
        assert (info["metric"], info["value"]) == ("val_l1", 0.25)
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
        self, network: ReversedAutoEncoder, validation: list[Batch], tmp_path: Path
    ) -> None:
        with pytest.raises(WeightsError, match=r"model.pt: no such file; train first"):
            calibrate_weights(network, str(tmp_path / "model.pt"), AnomalyMapInferer(), validation)
