from __future__ import annotations

from typing import Any

import pytest
import torch

from robustmed_monai.utils.errors import ImageShapeError
from robustmed_monai.visualize.features import feature_sheet


def test_every_channel_of_every_image_is_drawn_once() -> None:
    images = {name: torch.rand(1, 12, 16) for name in ("T1", "T2")}
    features = {name: torch.randn(10, 12, 16) for name in images}
    figure = feature_sheet(images, features, per_row=4)
    drawn: list[Any] = [a.images[0].get_array() for a in figure.axes if a.images]
    # Three blocks of rows, each with the images again.
    assert len(drawn) == 2 * 3 + 2 * 10
    assert drawn[0].shape == (16, 12)
    shown = [a for a in drawn if torch.equal(torch.as_tensor(a.data), features["T2"][7].T)]
    assert len(shown) == 1


def test_titles_of_two_images_say_how_alike_a_channel_is() -> None:
    image, maps = torch.rand(1, 12, 12), torch.randn(3, 12, 12)
    figure = feature_sheet(
        {"a": image, "b": image}, {"a": maps, "b": torch.stack([maps[0], -maps[1], 2 * maps[2]])}
    )
    assert [a.get_title() for a in figure.axes if a.get_title()] == ["0: 1.00", "1: -1.00", "2: 1.00"]


def test_a_channel_has_one_scale_in_all_images() -> None:
    image, maps = torch.rand(1, 12, 12), torch.randn(2, 12, 12)
    figure = feature_sheet({"a": image, "b": image}, {"a": maps, "b": 3 * maps})
    limits = [a.images[0].get_clim() for a in figure.axes if a.images]
    assert limits[1:3] == limits[4:6]


def test_features_of_another_size_are_refused() -> None:
    with pytest.raises(ImageShapeError, match="features of its size"):
        feature_sheet({"a": torch.rand(1, 8, 8)}, {"a": torch.rand(4, 9, 8)})
