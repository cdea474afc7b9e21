from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from robustmed_monai.utils.errors import ImageShapeError
from robustmed_monai.visualize.figures import to_array
from robustmed_monai.visualize.grids import image_grid, severity_curves


class TestGrid:
    def test_shows_x_to_the_right_and_one_scale(self) -> None:
        image = torch.zeros(1, 1, 4, 3)
        image[0, 0, 3, 0] = 2.0
        figure = image_grid({"input": image, "output": image / 4}, ["case"])
        assert [axis.get_title() for axis in figure.axes] == ["input", "output"]
        assert figure.axes[0].get_ylabel() == "case"
        shown: Any = figure.axes[0].images[0]
        other: Any = figure.axes[1].images[0]
        assert shown.get_array().shape == (3, 4)
        assert (shown.get_array()[0, 3], shown.get_clim()) == (1.0, (0, 1))
        assert other.get_array()[0, 3] == 0.5

    def test_long_headings_do_not_run_into_each_other(self) -> None:
        image = torch.rand(1, 1, 8, 8)
        figure = image_grid({"CIFL features": image, "CIFL features, compared too": image, "MIND-SSC": image})
        to_array(figure)
        boxes = [axis.title.get_window_extent() for axis in figure.axes]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))

    def test_colour(self) -> None:
        figure = image_grid({"input": torch.rand(2, 3, 5, 5)})
        shown: Any = figure.axes[1].images[0]
        assert shown.get_array().shape == (5, 5, 3)
        assert to_array(figure).std() > 0

    @pytest.mark.parametrize("other", [(2, 1, 4, 5), (1, 1, 4, 4), (2, 2, 4, 4)])
    def test_images_that_do_not_fit_are_refused(self, other: tuple[int, ...]) -> None:
        columns = {"a": torch.zeros(other if other[1] == 2 else (2, 1, 4, 4)), "b": torch.zeros(other)}
        with pytest.raises(ImageShapeError, match="give the same"):
            image_grid(columns)


def test_curves_have_one_plot_per_corruption_and_one_line_per_method() -> None:
    lines: dict[str, list[tuple[int, float, float]]] = {
        "ours": [(0, 0.9, 0.01), (2, 0.8, 0.02), (5, 0.5, 0.1)],
        "theirs": [(0, 0.9, 0), (2, 0.7, 0), (5, 0.6, 0)],
    }
    figure = severity_curves({f"noise_{i}": lines for i in range(7)})
    plots = [axis for axis in figure.axes if axis.lines]
    assert [axis.get_title() for axis in plots] == [f"noise {i}" for i in range(7)]
    first: Any = plots[0].lines
    assert [line.get_label() for line in first] == ["ours", "theirs"]
    assert first[0].get_xdata().tolist() == [0, 2, 5]
    assert first[0].get_ydata().tolist() == [0.9, 0.8, 0.5]
    assert len({line.get_color() for line in first}) == 2
    assert to_array(figure).std() > 0
