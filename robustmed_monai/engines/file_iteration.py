"""What iterations over image files share, so that one bad file does not end a folder's run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.engines.utils import IterationEvents

from robustmed_monai.transforms.image_checks import GeometryWarning
from robustmed_monai.utils.errors import ImageError, RobustMedError


def file_iteration(
    engine: Any, item: Mapping[str, Any], infer: Callable[[Any, str], dict[str, Any]]
) -> dict[str, Any]:
    """Run one image file through an evaluator whose loader yields single items (``batch_size=None``).

    Args:
        engine: the evaluator.
        item: ``{"image": path}``; one with `done`, put there by a ResultFileWriter that has the result
            already, is handed on as it is.
        infer: function of (engine, path) that returns the output for a file.

    Returns:
        What ``infer`` returns, doubts about the geometry among its `warnings`, or `path` and `error` when the
        file cannot be used: it is at fault, or too large for the memory, or something unforeseen happened.

    Raises:
        RobustMedError: when not the file but a setting is at fault, which no other file would change.
    """
    # The previous volume goes before the next one comes.
    engine.state.output = None
    path = str(item["image"])
    if "done" in item:
        return {"path": path, "done": item["done"]}
    try:
        output = _inferred(engine, path, infer)
    except ImageError as error:
        output = {"path": path, "error": str(error)}
    except RobustMedError:
        raise
    except Exception as error:
        output = {"path": path, "error": _unforeseen(path, error)}
        if not _is_memory(error):
            engine.logger.exception(output["error"])
    engine.state.output = output
    engine.fire_event(IterationEvents.FORWARD_COMPLETED)
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return output


def _inferred(engine: Any, path: str, infer: Callable[[Any, str], dict[str, Any]]) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GeometryWarning)
        output = infer(engine, path)
    doubts = [str(w.message) for w in caught if issubclass(w.category, GeometryWarning)]
    for other in caught:
        if not issubclass(other.category, GeometryWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return {**output, "warnings": [*output.get("warnings", []), *dict.fromkeys(doubts)]}


def _is_memory(error: Exception) -> bool:
    # Torch's allocator for the CPU has no class of its own.
    named = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return named or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _unforeseen(path: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if _is_memory(error):
        return f"{path}: needs more memory than there is ({reason}); run it alone, crop it or resample it."
    return (
        f"{path}: an error that this package did not foresee ({reason}); look at the image, and report it "
        "with the traceback of the log."
    )
