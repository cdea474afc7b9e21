from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.risc import Panel, accuracy_by_angle, confusion_figure, heatmap_sheet


def test_sheet_shows_images_as_pictures_and_heat_by_its_strength() -> None:
    image = torch.zeros(1, 6, 4)
    image[0, 5, 0] = 1  # top right
    heat = torch.zeros(1, 6, 4)
    heat[0, 0, 3] = 0.5  # bottom left
    figure = heatmap_sheet([[Panel(image), Panel(image, heat)]], ["image", "heat"], ["case"], strength=0.8)
    plain, covered = figure.axes
    assert len(plain.images) == 1
    shown = np.asarray(plain.images[0].get_array())
    assert shown.shape == (4, 6)
    assert shown[0, 5] == 1
    alpha = np.asarray(covered.images[1].get_alpha())
    assert alpha[3, 0] == pytest.approx(0.4)
    assert np.count_nonzero(alpha) == 1


def test_colour_images_and_the_same_bytes_again(tmp_path: Path) -> None:
    panel = Panel(torch.rand(3, 8, 8), torch.rand(1, 8, 8))
    paths = [save_png(heatmap_sheet([[panel]], ["a"], ["b"]), tmp_path / f"{i}.png") for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_uneven_sheets_are_refused() -> None:
    panel = Panel(torch.rand(1, 8, 8))
    with pytest.raises(ConfigError, match="as many headings as panels"):
        heatmap_sheet([[panel], [panel, panel]], ["a"], ["b", "c"])


def test_curves_are_drawn_over_the_angle() -> None:
    axis = accuracy_by_angle({"RISC": {90.0: 0.8, 0.0: 0.9}, "plain": {0.0: 0.9, 90.0: 0.6}}).axes[0]
    assert np.asarray(axis.lines[0].get_ydata()).tolist() == [0.9, 0.8]
    assert [line.get_label() for line in axis.lines] == ["RISC", "plain"]


def test_confusion_shows_shares_of_the_true_rotation() -> None:
    axis = confusion_figure(torch.tensor([[3, 1, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0], [2, 0, 0, 2]])).axes[0]
    texts = [text.get_text() for text in axis.texts]
    assert texts[:2] == ["0.75", "0.25"]
    assert texts[12] == "0.50"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0°", "90°", "180°", "270°"]


def test_a_long_note_has_room_above_a_single_picture(tmp_path: Path) -> None:
    note = "; ".join(["layout and texture are 4.4 standard deviations from the training images"] * 4)
    figure = heatmap_sheet([[Panel(torch.zeros(1, 8, 8))]], ["slice 0"], ["image"], note=note)
    # Warnings are errors here: matplotlib warns where the picture is left no room.
    save_png(figure, tmp_path / "sheet.png")
    assert figure.axes[0].get_position().height > 0.3
