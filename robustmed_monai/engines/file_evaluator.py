"""One evaluator for image files: read, apply, bring back, one file at a time; a bad file ends nothing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.data import Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys

from robustmed_monai.transforms.align_to_template import AlignmentWarning
from robustmed_monai.transforms.image_checks import GeometryWarning
from robustmed_monai.transforms.same_grid import placed_like
from robustmed_monai.transforms.scale_foreground import IntensityWarning
from robustmed_monai.utils.errors import ImageError, RobustMedError, original_error

Transform = Callable[[dict[str, Any]], dict[str, Any]]

_OF_THE_IMAGE = (AlignmentWarning, GeometryWarning, IntensityWarning)


class FileEvaluator(SupervisedEvaluator):
    """Applies a network to image files, each with the transforms of the config before and after.

    The output of an iteration is the file's dictionary after ``postprocessing``, with `path`, `warnings`
    (sentences) and `network_space`, what the network saw and returned, before it was brought back; or `path`
    and `error` where the file cannot be used: it is damaged, too large for the memory, or something
    unforeseen happened. Handlers (``ResultWriter``) write it.

    Args:
        device: where the network runs.
        dataset: its items are ``{"image": path}`` (one with `error` is passed on as it is; none is fine), its
            transform makes of an item a dictionary with `image` (C, ...), what the network takes.
        network: trained network.
        inferer: called with `image` (1, C, ...) and the network; returns a tensor, which becomes `pred`, or a
            dictionary of tensors, each with a first axis of 1.
        postprocessing: the dictionary with the inferer's tensors to what is written.
        val_handlers: handlers.

    A sentence of this package about an image (ImageError) is the file's `error`; one about a setting
    (ConfigError and others) ends the run, since no other file would change it.
    """

    def __init__(
        self,
        device: torch.device | str,
        dataset: Dataset,
        network: torch.nn.Module,
        inferer: Callable[..., Any],
        postprocessing: Transform | None = None,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(
            device=torch.device(device),
            val_data_loader=list(dataset.data),
            network=network,
            inferer=inferer,  # type: ignore[arg-type]
            val_handlers=val_handlers,
            decollate=False,
        )
        self.dataset = dataset
        self.after = postprocessing
        self.logger.addFilter(_about_images)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Work on all files; without any, only what happens at the end of a run happens."""
        if self.data_loader:
            super().run(global_epoch)
            return
        self.fire_event(Events.STARTED)
        self.fire_event(Events.COMPLETED)

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, Any]:
        # The previous volume goes before the next one comes.
        engine.state.output = None
        path = str(batchdata[Keys.IMAGE])
        try:
            output = self._apply(dict(batchdata))
        except Exception as error:
            # MONAI's Compose wraps what a transform raises.
            cause = original_error(error)
            if isinstance(cause, RobustMedError) and not isinstance(cause, ImageError):
                raise cause from None
            output = {"path": path, "error": _reason(path, cause)}
            if not isinstance(cause, ImageError) and not _is_memory(cause):
                engine.logger.exception(output["error"])
        engine.state.output = output
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _apply(self, item: dict[str, Any]) -> dict[str, Any]:
        path = str(item[Keys.IMAGE])
        if "error" in item:
            return {"path": path, "error": item["error"]}
        with warnings.catch_warnings(record=True) as caught:
            for category in _OF_THE_IMAGE:
                warnings.simplefilter("always", category)
            data = {**self.dataset.transform(item), "path": path}
            found = self._infer(data[Keys.IMAGE])
            data = {**data, **found, "network_space": {**_on_grid_of(data[Keys.IMAGE], data), **found}}
            output = data if self.after is None else self.after(data)
        said = [str(w.message) for w in caught if issubclass(w.category, _OF_THE_IMAGE)]
        for other in caught:
            if not issubclass(other.category, _OF_THE_IMAGE):
                warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        return {**output, "warnings": [*dict.fromkeys(said), *output.get("warnings", [])]}

    def _infer(self, image: Any) -> dict[str, Any]:
        self.network.eval()
        plain = torch.as_tensor(image).as_subclass(torch.Tensor)
        with torch.no_grad():
            result = self.inferer(plain[None].to(self.state.device), self.network)
        named = result if isinstance(result, Mapping) else {Keys.PRED: result}
        return {key: on_its_grid(value[0].cpu(), image) for key, value in named.items()}


def _about_images(record: logging.LogRecord) -> bool:
    """Not the engine's own lines: they count one epoch, and say the error that ends a run once more."""
    return not record.getMessage().startswith(("Engine run", "Epoch["))


def _on_grid_of(image: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a dictionary that lie on the grid of an image: the image itself, a mask."""
    shape = image.shape[1:]
    return {k: v for k, v in data.items() if isinstance(v, torch.Tensor) and v.shape[1:] == shape}


def on_its_grid(value: torch.Tensor, image: Any) -> torch.Tensor:
    """The value with the meta data of the image, where it lies on the image's grid."""
    if value.shape[1:] != image.shape[1:] or not isinstance(image, MetaTensor):
        return value
    return placed_like(value, image)


def _is_memory(error: BaseException) -> bool:
    # Torch's allocator for the CPU has no class of its own.
    named = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return named or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _reason(path: str, error: BaseException) -> str:
    if isinstance(error, ImageError):
        return str(error)
    reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if _is_memory(error):
        return f"{path}: needs more memory than there is ({reason}); run it alone, crop it or resample it."
    return (
        f"{path}: an error that this package did not foresee ({reason}); look at the image, and report it "
        "with the traceback of the log."
    )
