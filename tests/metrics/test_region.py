from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.handlers.ignite_metric import IgniteMetricHandler
from skimage.measure import label, regionprops

from robustmed_monai.metrics import LesionMetric
from robustmed_monai.utils.errors import ConfigError, ImageShapeError


def drawn(rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    masks = np.zeros((8, size, size))
    for i in range(7):
        for _ in range(4):
            cx, cy = rng.integers(0, size, 2)
            masks[i][(x - cx) ** 2 + (y - cy) ** 2 <= (size * rng.choice([0.02, 0.06, 0.13])) ** 2] = 1
    maps = rng.gamma(0.4, 0.2, masks.shape) * np.where(masks > 0, rng.random((8, size, 1)) * 2, 1)
    return torch.from_numpy(maps[:, None]).float(), torch.from_numpy(masks[:, None]).float()


@pytest.mark.parametrize("size", [64, 128])
def test_equals_a_loop_over_cases_and_regions(rng: np.random.Generator, size: int) -> None:
    maps, masks = drawn(rng, size)
    metric = LesionMetric(threshold=0.25)
    metric(maps[:3], masks[:3])
    metric(list(maps[3:]), list(masks[3:]))
    result = metric.aggregate()

    found, truth = maps[:, 0].numpy() >= 0.25, masks[:, 0].numpy().astype(bool)
    dice = [2 * (f & m).sum() / (f.sum() + m.sum()) for f, m in zip(found, truth, strict=True) if m.any()]
    assert result["calibrated_dice"] == pytest.approx(np.mean(dice))
    assert metric.dice()[~np.isnan(metric.dice())] == pytest.approx(dice)
    assert result["cases"] == 7
    assert result["calibrated_fpr"] == pytest.approx(found[~truth].mean())

    limits = {"small": (0, 71), "medium": (71, 570.01), "large": (570.01, 1e9)}
    lesions = [
        (p.area * (128 / size) ** 2, p.coords, i) for i, m in enumerate(truth) for p in regionprops(label(m))
    ]
    for name, (low, high) in limits.items():
        shares = [(found[i][tuple(c.T)].mean(), len(c)) for area, c, i in lesions if low <= area < high]
        assert shares, name
        assert result[f"lesions_{name}"] == len(shares)
        assert result[f"recall_{name}"] == pytest.approx(np.mean([s > 0.1 for s, _ in shares]))
        pixel_recall = np.average([s for s, _ in shares], weights=[n for _, n in shares])
        assert result[f"pixel_recall_{name}"] == pytest.approx(pixel_recall)


@pytest.mark.parametrize(("pixels", "size"), [(70, "small"), (71, "medium"), (570, "medium"), (571, "large")])
def test_size_limits_are_where_the_docstring_says(pixels: int, size: str) -> None:
    mask = torch.zeros(1, 1, 128 * 128)
    mask[..., :pixels] = 1
    metric = LesionMetric(threshold=0.5)
    metric(mask.reshape(1, 1, 128, 128), mask.reshape(1, 1, 128, 128))
    assert metric.aggregate()[f"lesions_{size}"] == 1


@pytest.mark.parametrize(("found", "recall"), [(10, 0.0), (11, 1.0)])
def test_a_lesion_is_detected_above_ten_percent(found: int, recall: float) -> None:
    maps, masks = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    masks[0, 0, 10:20, 10:20] = 1
    region = torch.zeros(100)
    region[:found] = 1
    maps[0, 0, 10:20, 10:20] = region.reshape(10, 10)
    metric = LesionMetric(threshold=1.0)
    metric(maps, masks)
    assert metric.aggregate()["recall_medium"] == recall


def test_healthy_cases_and_nothing_at_all_give_nan_without_a_warning() -> None:
    metric = LesionMetric(threshold=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = metric.aggregate()
        metric(torch.full((2, 1, 8, 8), 0.5))
        result = metric.aggregate()
    assert np.isnan(empty["calibrated_fpr"])
    assert (result["cases"], result["calibrated_fpr"], result["lesions_small"]) == (0, 1, 0)
    assert np.isnan([result[k] for k in ("calibrated_dice", "recall_small")]).all()


def test_all_anomalous_and_constant_maps() -> None:
    ones = torch.ones(1, 1, 16, 16)
    for value, dice in ((0.2, 0.0), (0.7, 1.0)):
        metric = LesionMetric(threshold=0.5)
        metric(ones * value, ones)
        result = metric.aggregate()
        assert (result["calibrated_dice"], result["recall_large"]) == (dice, dice)
        assert np.isnan(result["calibrated_fpr"])


def test_runs_in_an_ignite_engine_with_details_per_case(rng: np.random.Generator) -> None:
    maps, masks = drawn(rng, 64)
    engine = Engine(lambda engine, batch: batch)
    IgniteMetricHandler(LesionMetric(threshold=0.25)).attach(engine, "lesions")
    state = engine.run([(maps[:5], masks[:5]), (maps[5:], masks[5:])])
    metric = LesionMetric(threshold=0.25)
    metric(maps, masks)
    assert state.metrics["lesions"] == pytest.approx(metric.aggregate(), nan_ok=True)
    assert getattr(state, "metric_details")["lesions"].shape == (8, 15)  # noqa: B009


@pytest.mark.parametrize(
    "arguments",
    [
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"threshold": 1.0, "size_limits": (5.0, 2.0)},
        {"threshold": 1.0, "detected_share": 1.0},
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=list(arguments)[-1]):
        LesionMetric(**arguments)


def test_volumes_are_refused() -> None:
    with pytest.raises(ImageShapeError, match="2-D"):
        LesionMetric(threshold=0.5)(torch.ones(1, 1, 4, 4, 4), torch.ones(1, 1, 4, 4, 4))
