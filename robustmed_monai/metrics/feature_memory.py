"""What the results table loads of a feature memory; it is measured as RA is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from robustmed_monai.metrics.ra import Detector
from robustmed_monai.networks.feature_memory import FeatureMemory, backbone
from robustmed_monai.utils.weights import load_info, load_into


def load_memory(
    weights: str, inferer: Callable[..., Any], device: Any = "cpu", other_side: float | None = None
) -> Detector:
    """Images to the anomaly map of a memory, on the backbone that its info names, with its grey values.

    Args:
        weights: weights file.
        inferer: see ``MemoryInferer``.
        device: where it runs.
        other_side: weight of the other side in place of that of the info.

    Raises:
        WeightsError: when the file cannot be used, or its backbone needs an extra that is not installed.
    """
    info = load_info(weights)
    sides = info.get("other_side", 0.0) if other_side is None else other_side
    network = FeatureMemory(
        backbone(str(info.get("features"))), intensity=info.get("intensity", 0.0), other_side=sides
    )
    return partial(inferer, network=load_into(network.to(device), weights).eval())
