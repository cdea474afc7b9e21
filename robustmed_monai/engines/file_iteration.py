"""What iterations over image files share, so that one bad file does not end a folder's run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.engines.utils import IterationEvents

from robustmed_monai.utils.errors import ImageError


def white_of(source: torch.Tensor) -> float:
    """White of a picture whose largest value is that of ``source``: 255 or 65535."""
    return 255.0 if float(source.max()) <= 255 else 65535.0


def file_iteration(
    engine: Any, item: Mapping[str, Any], infer: Callable[[Any, str], dict[str, Any]]
) -> dict[str, Any]:
    """Run one image file through an evaluator whose loader yields single items (``batch_size=None``).

    Args:
        engine: the evaluator.
        item: ``{"image": path}``.
        infer: function of (engine, path) that returns the output for a file.

    Returns:
        What ``infer`` returns, or `path` and `error` when the file cannot be used.
    """
    try:
        output = infer(engine, str(item["image"]))
    except ImageError as error:
        output = {"path": str(item["image"]), "error": str(error)}
    engine.state.output = output
    engine.fire_event(IterationEvents.FORWARD_COMPLETED)
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return output
