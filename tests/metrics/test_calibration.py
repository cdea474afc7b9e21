from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from robustmed_monai.metrics import PixelAnomalyMetric, calibrate_thresholds
from robustmed_monai.metrics.calibration import map_threshold, threshold_at
from robustmed_monai.utils.errors import ConfigError, DataError


def healthy(rng: np.random.Generator) -> torch.Tensor:
    maps = torch.from_numpy(rng.gamma(0.5, 0.01, (20, 1, 64, 64))).float()
    maps[..., :10] = 0
    return maps


def test_thresholds_let_the_given_share_of_pixels_through_at_most(rng: np.random.Generator) -> None:
    maps = healthy(rng)
    result = calibrate_thresholds(maps)
    for rate in ("0.01", "0.02", "0.05"):
        share = float((maps >= result["thresholds"][rate]).double().mean())
        assert share == pytest.approx(result["fpr"][rate], abs=1e-12)
        assert 0.99 * float(rate) < share <= float(rate)
    assert result["pixels"] == maps.numel()


def test_thresholds_are_the_quantiles_of_the_pixels(rng: np.random.Generator) -> None:
    maps = healthy(rng)
    result = calibrate_thresholds(maps, fprs=(0.05, 0.3))
    for rate in ("0.05", "0.3"):
        assert result["thresholds"][rate] == pytest.approx(
            np.quantile(maps.numpy(), 1 - float(rate)), rel=1e-3
        )


def test_head_leaves_the_background_out(rng: np.random.Generator) -> None:
    maps = healthy(rng)
    head = torch.ones_like(maps)
    head[..., :10] = 0
    inside = calibrate_thresholds(maps, head=head)
    assert inside == calibrate_thresholds(maps[..., 10:])
    assert inside["thresholds"]["0.05"] > calibrate_thresholds(maps)["thresholds"]["0.05"]


def test_a_metric_that_saw_the_maps_gives_the_same_and_uses_its_healthy_pixels_only(
    rng: np.random.Generator,
) -> None:
    maps = healthy(rng)
    metric = PixelAnomalyMetric()
    metric(maps[:7])
    metric(list(maps[7:]))
    metric(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8))
    assert calibrate_thresholds(metric) == calibrate_thresholds(maps)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_constant_maps_get_a_threshold_just_above_them(value: float) -> None:
    maps = torch.full((2, 1, 8, 8), value)
    result = calibrate_thresholds(maps)
    for threshold in result["thresholds"].values():
        assert value < threshold <= value * (1 + 2**-12) + 1e-30
        assert not (maps >= threshold).any()


def test_the_result_survives_json(rng: np.random.Generator) -> None:
    result = calibrate_thresholds(healthy(rng))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_bad_input_is_refused() -> None:
    maps = torch.rand(1, 1, 4, 4)
    with pytest.raises(ConfigError, match=r"5 is not a rate between 0 and 1; for 5 % write 0\.05"):
        calibrate_thresholds(maps, fprs=(5,))
    with pytest.raises(ConfigError, match="ignore = 1 - head"):
        calibrate_thresholds(PixelAnomalyMetric(), head=maps.round())
    with pytest.raises(DataError, match="no healthy pixel was seen"):
        calibrate_thresholds(PixelAnomalyMetric())
    with pytest.raises(DataError, match="no healthy pixel was seen"):
        calibrate_thresholds(maps, head=torch.zeros_like(maps))


def test_a_threshold_belongs_to_its_map() -> None:
    info = {"calibration": {"thresholds": {"0.05": 0.25}}, "anomaly_map": "low"}
    assert map_threshold(info, "low", 0.05) == 0.25
    assert map_threshold(info, "residual", 0.05) is None
    assert map_threshold({}, "residual", 0.05) is None
    with pytest.raises(ConfigError, match=r"the weights carry no thresholds .* take those that train\.json"):
        threshold_at(None, 0.05)
    with pytest.raises(ConfigError, match="calibrated at"):
        map_threshold(info, "low", 0.01)
