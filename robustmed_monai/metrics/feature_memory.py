"""What the results table loads of a feature memory; it is measured as RA is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from robustmed_monai.metrics.ra import Detector
from robustmed_monai.networks.feature_memory import FeatureMemory, memory_network
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.weights import load_info, load_into


def load_memory(
    weights: str,
    inferer: Callable[..., Any],
    device: Any = "cpu",
    other_side: float | None = None,
    outline: float | None = None,
) -> Detector:
    """Images to the anomaly map of a memory, on the backbone and with the settings that its info names.

    Args:
        weights: weights file.
        inferer: see ``MemoryInferer``.
        device: where it runs.
        other_side: weight of the other side in place of that of the info.
        outline: weight of the outline in place of that of the info; 0 leaves it out.

    Raises:
        ConfigError: for an outline of weights without a segmenter.
        WeightsError: when the file cannot be used, or its backbone needs an extra that is not installed.
    """
    network = cast(FeatureMemory, load_into(memory_network(load_info(weights)).to(device), weights).eval())
    if outline and network.segmenter is None:
        raise ConfigError(f"outline={outline}: {weights} has no segmenter; leave the outline out.")
    network.other_side = network.other_side if other_side is None else other_side
    network.outline = network.outline if outline is None else outline
    return partial(inferer, network=network)
