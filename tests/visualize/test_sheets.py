from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from monai.data.meta_tensor import MetaTensor

from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError
from robustmed_monai.visualize import anomaly_sheet, to_array


def cases(n: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, 1, 20, 12, generator=generator)
    maps = torch.rand(n, 1, 20, 12, generator=generator) * torch.tensor([0.1, 1.0, 5.0])[:n, None, None, None]
    masks = torch.zeros(n, 1, 20, 12)
    masks[1, 0, 3:9, 2:6] = 1
    return {"images": images, "pseudo_healthy": images * 0.9, "maps": maps, "masks": masks}


def shown(figure: Any, row: int, column: int, columns: int) -> Any:
    return figure.axes[row * columns + column].images[0]


def test_panels_hold_the_unscaled_images_transposed_for_display() -> None:
    given = cases()
    figure = anomaly_sheet(**given, vmax=2.0)
    for row in range(3):
        for column, name in enumerate(("images", "pseudo_healthy", "maps", "images")):
            array = shown(figure, row, column, 4).get_array()
            np.testing.assert_array_equal(array, given[name][row, 0].T.numpy())
            # Row 0, the anterior of a head, is at the top.
            assert figure.axes[row * 4 + column].yaxis_inverted()


@pytest.mark.parametrize("vmax", [None, 2.0])
def test_all_maps_share_one_colour_range_and_images_show_0_to_1(vmax: float | None) -> None:
    given = cases()
    figure = anomaly_sheet(**given, vmax=vmax)
    top = float(np.percentile(given["maps"].numpy(), 99.5)) if vmax is None else vmax
    for row in range(3):
        assert shown(figure, row, 2, 4).get_clim() == pytest.approx((0, top))
        assert {shown(figure, row, c, 4).get_clim() for c in (0, 1, 3)} == {(0, 1)}
    bar = figure.axes[-1]
    assert bar.get_ylim() == pytest.approx((0, top))


def test_a_row_looks_the_same_whatever_the_other_rows_are() -> None:
    given = {name: values[:2] for name, values in cases().items() if name != "masks"}
    first = anomaly_sheet(**given, vmax=1.0)
    given["maps"] = given["maps"] * torch.tensor([1.0, 100.0])[:, None, None, None]
    second = anomaly_sheet(**given, vmax=1.0)
    a, b = to_array(first), to_array(second)
    half = len(a) // 2
    bar = int(a.shape[1] * 0.85)
    np.testing.assert_array_equal(a[: half - 10, :bar], b[: half - 10, :bar])
    assert (a[half + 10 :, :bar] != b[half + 10 :, :bar]).any()


def test_the_fourth_column_comes_with_a_mask_or_a_threshold() -> None:
    given = cases()
    masks = given.pop("masks")
    assert len(anomaly_sheet(**given).axes) == 3 * 3 + 1
    assert len(anomaly_sheet(**given, threshold=0.5).axes) == 3 * 4 + 1
    assert len(anomaly_sheet(**given, masks=masks).axes) == 3 * 4 + 1


def test_outlines_enclose_the_mask_and_the_pixels_over_the_threshold() -> None:
    given = cases(2)
    given["maps"] = torch.zeros_like(given["maps"])
    given["maps"][1, 0, 15:, 8:] = 1
    figure = anomaly_sheet(**given, threshold=0.5)
    assert len(figure.axes[3].collections) == 0
    boxes = {}
    for lines in figure.axes[7].collections:
        box = lines.get_paths()[0].get_extents()
        (edge,) = np.asarray(lines.get_edgecolor())[:, :3]
        boxes[to_rgb(edge)] = box.bounds
    assert boxes[to_rgb("#00c8d7")] == pytest.approx((2.5, 1.5, 6, 4))
    assert boxes[to_rgb("#ff9500")] == pytest.approx((14.5, 7.5, 5, 4))


def test_lists_rgb_images_and_meta_tensors_are_shown() -> None:
    given = cases(2)
    rgb = given["images"].repeat(1, 3, 1, 1) * torch.tensor([1.0, 0.5, 0.0])[:, None, None]
    figure = anomaly_sheet(list(MetaTensor(rgb)), rgb, list(given["maps"]), titles=["one", "two"])
    np.testing.assert_array_equal(shown(figure, 0, 0, 3).get_array(), rgb[0].permute(2, 1, 0).numpy())
    assert figure.axes[3].get_ylabel() == "two"


@pytest.mark.parametrize("value", [0.0, 0.4])
def test_constant_maps_are_drawn(value: float) -> None:
    x = torch.zeros(1, 1, 8, 8)
    figure = anomaly_sheet(x, x, x + value, masks=x, threshold=0.2)
    assert shown(figure, 0, 2, 4).get_clim() == pytest.approx((0, value or 1.0))
    assert to_array(figure).std() > 0


def test_bad_input_is_refused() -> None:
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ImageShapeError, match="numbers of images"):
        anomaly_sheet(x, x[:1], x)
    with pytest.raises(ImageShapeError, match="at least one"):
        anomaly_sheet(x[:0], x[:0], x[:0])
    with pytest.raises(ImageShapeError, match="case 0: sizes"):
        anomaly_sheet(x, x, x[..., :5])
    with pytest.raises(ImageShapeError, match=r"Input: an image of shape \(1, 8, 8, 8\)"):
        anomaly_sheet(torch.zeros(1, 1, 8, 8, 8), x[:1], x[:1])
    with pytest.raises(ImageShapeError, match="Anomaly map"):
        anomaly_sheet(x, x, x.repeat(1, 3, 1, 1))
    with pytest.raises(ConfigError, match="titles: 1 for 2 images"):
        anomaly_sheet(x, x, x, titles=["one"])
    with pytest.raises(ConfigError, match="vmax=0"):
        anomaly_sheet(x, x, x, vmax=0)
    with pytest.raises(DataError, match="no map holds a finite value"):
        anomaly_sheet(x, x, x / 0)
