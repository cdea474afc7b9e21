from __future__ import annotations

import numpy as np
import pytest
import torch

from robustmed_monai.metrics.risc import (
    angle_error,
    expected_accuracy,
    rotation_accuracy,
    rotation_confusion,
)
from robustmed_monai.utils.errors import ConfigError, DataError


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
