from __future__ import annotations

import torch
from monai.data import MetaTensor

from robustmed_monai.transforms import ThresholdMapd


def test_the_mask_is_where_the_map_reaches_the_threshold() -> None:
    found = MetaTensor(torch.tensor([[0.1, 0.25, 0.3]]), affine=torch.eye(4) * 2)
    out = ThresholdMapd("map", 0.25, "mask")({"map": found})
    assert out["mask"].tolist() == [[0.0, 1.0, 1.0]]
    assert torch.equal(out["mask"].affine, found.affine)
    assert out["map"].tolist() == found.tolist()


def test_without_a_threshold_there_is_no_mask() -> None:
    assert "anomaly_mask" not in ThresholdMapd("map", None)({"map": torch.rand(1, 2, 2)})
