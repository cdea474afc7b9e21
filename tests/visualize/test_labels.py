"""The sheet of labels: its legend lies within the picture, however long the names of the classes."""

from __future__ import annotations

import pytest
import torch

from robustmed_monai.visualize.labels import label_sheet


@pytest.mark.parametrize(
    "names",
    [
        ["background", "CSF", "grey matter", "white matter"],
        [
            "background",
            "CSF around the brain",
            "cerebral grey matter",
            "cerebral white matter",
            "ventricles",
            "cerebellar grey matter",
            "cerebellar white matter",
            "brainstem",
        ],
    ],
)
def test_the_legend_lies_within_the_picture(names: list[str]) -> None:
    labels = torch.arange(len(names)).repeat(9)[:36].view(1, 1, 6, 6)
    figure = label_sheet(torch.rand(1, 1, 6, 6), labels, names, ["slice 0"])
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
