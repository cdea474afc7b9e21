from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from robustmed_monai.metrics import box_detection
from robustmed_monai.utils.errors import DataError, ImageShapeError


def by_hand(values: np.ndarray, box: list[int], threshold: float, healthy: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = box
    above = inside = total = outside = 0.0
    for x in range(values.shape[0]):
        for y in range(values.shape[1]):
            value = float(values[x, y]) if values[x, y] >= threshold else 0.0
            if x0 <= x < x1 and y0 <= y < y1:
                total += 1
                above += value > 0
                inside += value
            if healthy[x, y]:
                outside += value
    tp = float(above / total > 0.1)
    fp = float(math.floor(outside / max(inside, 1)))
    precision = tp / max(tp + fp, 1)
    return [tp, fp, precision, 2 * precision * tp / (precision + tp + 1e-8)]


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("own_mask", [False, True])
def test_equals_the_protocol_by_hand(rng: np.random.Generator, scale: float, own_mask: bool) -> None:
    values = rng.gamma(0.3, scale, (40, 30)).astype(np.float32)
    values[5:12, 5:25] *= 6
    boxes = [[5, 5, 12, 25], [20, 2, 24, 9], [30, 20, 40, 30]]
    if own_mask:
        healthy = rng.random(values.shape) < 0.3
    else:
        healthy = np.ones(values.shape, dtype=bool)
        for x0, y0, x1, y1 in boxes:
            healthy[x0:x1, y0:y1] = False
    expected = np.array([by_hand(values, box, 2 * scale, healthy) for box in boxes])
    given = torch.from_numpy(healthy)[None] if own_mask else None
    result = box_detection(torch.from_numpy(values)[None], boxes, 2 * scale, given)
    for i, key in enumerate(("recall", "false_positives", "precision", "f1")):
        np.testing.assert_allclose(result[key], expected[:, i], rtol=1e-12)
    assert len(set(expected[:, 0])) == 2


def test_boxes_are_x_then_y_and_their_end_is_outside() -> None:
    image = torch.zeros(1, 20, 10)
    image[0, 12, 3] = 1
    boxes = [[12, 3, 13, 4], [3, 12, 4, 13], [11, 3, 12, 4]]
    with pytest.raises(DataError, match="box 1"):
        box_detection(image, boxes, 0.5)
    np.testing.assert_array_equal(box_detection(image, boxes[::2], 0.5)["recall"], [1, 0])


def test_boxes_are_clipped_and_none_is_allowed() -> None:
    image = torch.ones(1, 8, 8)
    np.testing.assert_array_equal(box_detection(image, [[-5, -5, 99, 99]], 0.5)["f1"].round(6), [1])
    assert box_detection(image, [], 0.5)["recall"].shape == (0,)


def test_a_constant_map_of_zeros_finds_nothing() -> None:
    result = box_detection(torch.zeros(1, 8, 8), [[0, 0, 4, 4]], threshold=0.0)
    assert [float(v[0]) for v in result.values()] == [0, 0, 0, 0]


@pytest.mark.parametrize("box", [[4, 4, 4, 8], [9, 0, 12, 4], [0, 0, float("nan"), 4]])
def test_a_box_without_a_pixel_is_refused(box: list[float]) -> None:
    with pytest.raises(DataError, match=r"box 0: .* holds no pixel of the 8 x 8 image"):
        box_detection(torch.ones(1, 8, 8), [box], 0.5)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ImageShapeError, match="2-D map"):
        box_detection(torch.ones(1, 8, 8, 8), [[0, 0, 4, 4]], 0.5)
    with pytest.raises(ImageShapeError, match="healthy 0"):
        box_detection(torch.ones(1, 8, 8), [[0, 0, 4, 4]], 0.5, healthy=torch.ones(1, 8, 9))
