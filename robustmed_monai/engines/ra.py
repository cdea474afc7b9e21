"""One iteration of evaluation of an anomaly detector, for MONAI's SupervisedEvaluator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys

from robustmed_monai.inferers.ra import image_score


def anomaly_iteration(engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
    """Use as ``iteration_update`` of a SupervisedEvaluator whose inferer is an AnomalyMapInferer.

    Args:
        engine: the evaluator.
        batchdata: dictionary with `image` (B, C, X, Y) and, where known, `mask` (B, 1, X, Y) in {0, 1}.

    Returns:
        The engine's output: `image`, `pred` (pseudo-healthy), `anomaly_map`, `score` (B,) and `mask` where
        given.
    """
    image = batchdata[Keys.IMAGE].to(engine.state.device, non_blocking=engine.non_blocking)
    engine.network.eval()
    with torch.no_grad():
        output: dict[str, Any] = {Keys.IMAGE: image, **engine.inferer(image, engine.network)}
    output["score"] = image_score(output["anomaly_map"])
    if "mask" in batchdata:
        output["mask"] = batchdata["mask"].to(engine.state.device)
    engine.state.output = output
    engine.fire_event(IterationEvents.FORWARD_COMPLETED)
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return output


def score_and_zero(output: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The images' scores (B,) and 0 for each: ignite's ``MeanAbsoluteError`` of the two is the mean score.

    Its ``Average`` would count a batch of one image as much as a full one.
    """
    return output["score"], torch.zeros_like(output["score"])
