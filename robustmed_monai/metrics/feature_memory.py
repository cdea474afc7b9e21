"""What the results table loads of a feature memory; it is measured as RA is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from robustmed_monai.metrics.ra import Detector
from robustmed_monai.networks.feature_memory import FeatureMemory, backbone
from robustmed_monai.utils.weights import load_info, load_into


def load_memory(weights: str, inferer: Callable[..., Any], device: Any = "cpu") -> Detector:
    """Images to the anomaly map of a memory, on the backbone that its info names.

    Args:
        weights: weights file.
        inferer: see ``MemoryInferer``.
        device: where it runs.

    Raises:
        WeightsError: when the file cannot be used, or its backbone needs an extra that is not installed.
    """
    network = FeatureMemory(backbone(str(load_info(weights).get("features"))))
    return partial(inferer, network=load_into(network.to(device), weights).eval())
