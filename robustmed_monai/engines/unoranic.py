"""One iteration of evaluation of a network that undoes corruptions, for MONAI's SupervisedEvaluator."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys


def restoration_iteration(engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
    """Use as ``iteration_update`` with UNORANIC or another network that has ``reconstruct``.

    Args:
        engine: the evaluator.
        batchdata: `image` (B, C, X, Y) and `corrupted`, a corrupted copy of it.

    Returns:
        The engine's output: `image`, `corrupted`, `pred` (the anatomy image made from the corrupted one) and
        `full` (its full reconstruction).
    """
    image, corrupted = (
        batchdata[k].to(engine.state.device, non_blocking=engine.non_blocking)
        for k in (Keys.IMAGE, "corrupted")
    )
    engine.network.eval()
    with torch.no_grad():
        output = {
            Keys.IMAGE: image,
            "corrupted": corrupted,
            Keys.PRED: engine.inferer(corrupted, engine.network),
            "full": engine.network.reconstruct(corrupted),
        }
    engine.state.output = output
    engine.fire_event(IterationEvents.FORWARD_COMPLETED)
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return output
