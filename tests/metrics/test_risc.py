from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.metrics.bootstrap import Estimate
from robustmed_monai.metrics.result import Result
from robustmed_monai.metrics.risc import (
    Corrected,
    angle_error,
    expected_accuracy,
    load_corrected,
    measure_corrected,
    rotation_accuracy,
    rotation_confusion,
    rotation_pictures,
)
from robustmed_monai.networks.risc import RotNet
from robustmed_monai.utils.errors import ConfigError, DataError

COUNT = 160


class Marks(nn.Module):
    """RotNet: the brightest of the four corners, which some images lie about."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 30 * torch.stack(
            [image[:, 0, 0, 0], image[:, 0, 0, -1], image[:, 0, -1, -1], image[:, 0, -1, 0]], 1
        )


class Reads(nn.Module):
    """Classifier: the pixel right of the upright corner, 1 or 0."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.stack([0.5 - image[:, 0, 1, 0], image[:, 0, 1, 0] - 0.5], 1) * 20


@pytest.fixture
def case() -> TensorDataset:
    """Images whose upright corner is bright in ten of eleven; the label stands beside it, noise elsewhere."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(COUNT) % 2
    images = torch.rand(COUNT, 1, 8, 8, generator=generator) * 0.6
    images[:, 0, 1, 0] = labels.float()
    images[:, 0, 0, 0] = (torch.arange(COUNT) % 11 != 0).float()
    return TensorDataset({"image": images, "label": labels})


class TestAccuracy:
    def test_figures_are_means_of_rows(self, rng: np.random.Generator) -> None:
        correct = rng.random((8, 50)) < np.linspace(0.9, 0.4, 8)[:, None]
        found = {k: v.value for k, v in rotation_accuracy(correct).items()}
        assert found["upright"] == found["angle_0"] == correct[0].mean()
        assert found["rotated"] == pytest.approx(correct.mean())
        assert found["worst"] == correct.mean(1).min()
        assert found["angle_315"] == correct[7].mean()
        assert len(found) == 11

    def test_intervals_hold_the_value_and_shrink_with_the_data(self, rng: np.random.Generator) -> None:
        correct = rng.random((4, 400)) < 0.7
        large, small = rotation_accuracy(correct), rotation_accuracy(correct[:, :100])
        for estimate in large.values():
            low, high = estimate.ci95
            assert low <= estimate.value <= high
        widths = [np.diff(found["rotated"].ci95)[0] for found in (large, small)]
        assert widths[0] < widths[1]

    def test_images_are_drawn_with_all_their_rotations(self, rng: np.random.Generator) -> None:
        """Four copies of one answer are one image, so the interval is that of one rotation."""
        row = rng.random((1, 300)) < 0.7
        found = rotation_accuracy(np.repeat(row, 4, 0))
        assert found["rotated"].ci95 == pytest.approx(found["upright"].ci95)

    @pytest.mark.parametrize(
        ("shape", "error"), [((4, 0), DataError), ((4,), DataError), ((3, 5), ConfigError)]
    )
    def test_other_shapes_are_refused(self, shape: tuple[int, ...], error: type[Exception]) -> None:
        with pytest.raises(error):
            rotation_accuracy(np.ones(shape, dtype=bool))


class TestIdentity:
    """Section 2 of the fact sheet."""

    @pytest.mark.parametrize(
        ("upright", "rotated", "rotnet", "count", "reported"),
        [(0.93, 0.53, 0.66, 4, 0.75), (0.88, 0.70, 0.99, 4, 0.87), (0.51, 0.48, 0.73, 8, 0.50)],
        ids=["OrganA", "Pneumonia", "Retina"],
    )
    def test_the_paper_obeys_it(
        self, upright: float, rotated: float, rotnet: float, count: int, reported: float
    ) -> None:
        assert expected_accuracy(upright, rotated, rotnet, count) == pytest.approx(reported, abs=0.01)

    @pytest.mark.parametrize("count", [4, 8])
    def test_a_simulation_obeys_it(self, rng: np.random.Generator, count: int) -> None:
        """Images with a known answer at every remaining rotation, and a RotNet that errs alike everywhere."""
        images, rotnet = 40000, 0.7
        correct = rng.random((count, images)) < np.array([0.9] + [0.5] * (count - 1))[:, None]
        right = rng.random((count, images)) < rotnet
        wrong = rng.integers(1, count, (count, images))
        remaining = np.where(right, 0, wrong)
        measured = np.take_along_axis(correct, remaining, 0).mean()
        expected = expected_accuracy(correct[0].mean(), correct.mean(), right.mean(), count)
        assert measured == pytest.approx(expected, abs=0.006)

    def test_a_guessing_rotnet_gains_nothing_and_a_perfect_one_everything(self) -> None:
        assert expected_accuracy(0.9, 0.6, 1 / 4, 4) == pytest.approx(0.6)
        assert expected_accuracy(0.9, 0.6, 1.0, 4) == pytest.approx(0.9)


def test_confusion_counts_every_view_once() -> None:
    predicted = torch.tensor([[0, 1], [1, 1], [0, 2], [3, 3]])
    matrix = rotation_confusion(predicted)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 2]]


def test_angle_error_goes_the_short_way_round() -> None:
    assert angle_error(torch.arange(8)[:, None]) == 0
    assert angle_error((torch.arange(8)[:, None] + 7) % 8) == 45
    assert angle_error((torch.arange(4)[:, None] + 2) % 4) == 180


class TestMeasure:
    def test_hard_correction_does_what_the_identity_expects(self, case: TensorDataset) -> None:
        plain = RotationCorrectionInferer(correction="none", num_rotations=4, outputs="logits")
        inferer = RotationCorrectionInferer(Marks(), axes="XY", outputs="logits")
        alone = values(measure_corrected(Corrected(plain, Reads()), case))
        rotnet = values(measure_corrected(Corrected(inferer), case))
        risc = values(measure_corrected(Corrected(inferer, Reads()), case))
        assert alone["upright"] == 1
        assert 0.4 < alone["worst"] < 0.6
        assert 0.9 <= rotnet["rotated"] < 0.95
        expected = expected_accuracy(alone["upright"], alone["rotated"], rotnet["rotated"], 4)
        assert risc["expected"] == pytest.approx(expected)
        assert risc["rotated"] == pytest.approx(expected, abs=0.02)

    def test_the_oracle_is_upright_everywhere(self, case: TensorDataset) -> None:
        inferer = RotationCorrectionInferer(correction="none", outputs="logits")
        found = values(measure_corrected(Corrected(inferer, Reads(), oracle=True), case))
        assert found["worst"] == found["upright"] == found["auc"] == 1

    def test_abstention_is_counted(self, case: TensorDataset) -> None:
        inferer = RotationCorrectionInferer(Marks(), min_confidence=0.999, axes="XY", outputs="logits")
        assert 0.05 < values(measure_corrected(Corrected(inferer, Reads()), case))["abstained"] <= 0.1

    def test_pictures_show_classifiers_by_angle_and_rotnets_confusion(self, case: TensorDataset) -> None:
        inferer = RotationCorrectionInferer(Marks(), axes="XY", outputs="logits")
        rows = {"RotNet": Corrected(inferer), "RISC": Corrected(inferer, Reads())}
        results = {name: [measure_corrected(model, case)] for name, model in rows.items()}
        confusion = results["RotNet"][0].shown["confusion"]
        assert confusion.sum(1).tolist() == [COUNT] * 4
        assert confusion.diagonal().sum() / (4 * COUNT) == values(results["RotNet"][0])["rotated"]
        pictures = rotation_pictures(results)
        assert [line.get_label() for line in pictures["angles"].axes[0].lines] == ["RISC"]
        assert "confusion" in pictures

    def test_a_row_names_one_checkpoint_for_each_network(self) -> None:
        inferer = RotationCorrectionInferer(RotNet(4, width=0.125))
        with pytest.raises(ConfigError, match=r"1 checkpoints for \['classifier', 'rotnet'\]"):
            load_corrected("model.pt", inferer=inferer, classifier=Reads())


def values(result: Result) -> dict[str, float]:
    return {k: v.value if isinstance(v, Estimate) else float(v) for k, v in result.figures.items()}
