from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from robustmed_monai.transforms import ThresholdMapd
from robustmed_monai.utils.errors import ConfigError


def test_the_mask_is_where_the_map_reaches_the_threshold() -> None:
    found = MetaTensor(torch.tensor([[0.1, 0.25, 0.3]]), affine=torch.eye(4) * 2)
    out = ThresholdMapd("map", 0.25, "mask")({"map": found})
    assert out["mask"].tolist() == [[0.0, 1.0, 1.0]]
    assert torch.equal(out["mask"].affine, found.affine)
    assert out["map"].tolist() == found.tolist()


def test_without_a_threshold_there_is_no_mask() -> None:
    assert "anomaly_mask" not in ThresholdMapd("map", None)({"map": torch.rand(1, 2, 2)})


def test_warns_where_far_more_is_above_than_in_healthy_images() -> None:
    found = torch.linspace(0, 1, 100).reshape(1, 10, 10)
    counted = torch.ones(1, 10, 10)
    cut = ThresholdMapd("map", 0.805, fpr=0.05)
    (said,) = cut({"map": found, "in_distribution": counted})["warnings"]
    assert said.startswith("20 % of what was assessed is above the threshold, of healthy training images 5 %")
    assert "warnings" not in ThresholdMapd("map", 0.9, fpr=0.05)({"map": found, "in_distribution": counted})
    # What was not assessed does not count, and without a rate nothing is known.
    counted[0, 8:] = 0
    assert "warnings" not in cut({"map": found, "in_distribution": counted})
    assert "warnings" not in cut({"map": found, "in_distribution": 0 * counted})
    assert "warnings" not in ThresholdMapd("map", 0.1)({"map": found, "in_distribution": counted + 1})


@pytest.mark.parametrize("threshold", [-3, 0, float("nan"), float("inf")])
def test_a_threshold_that_cannot_cut_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="give a finite number above 0"):
        ThresholdMapd("map", threshold)
