"""Panels of input, pseudo-healthy image, anomaly map and mask for TensorBoard and as PNG."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.visualize.figures import save_png, to_array
from robustmed_monai.visualize.sheets import anomaly_sheet

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


_NEEDED = ("image", "pred", "anomaly_map")


class AnomalyImageHandler:
    """Draws the first cases of an evaluator's epoch as one sheet, with the same colours in every epoch.

    It reads `image`, `pred`, `anomaly_map` and, where there is one, `mask` from ``engine.state.output``, a
    dictionary of batches or a list of dictionaries of single images (decollated), and writes in the first
    process only.

    Args:
        vmax: upper end of the colours of the map, the same for all epochs; a few times the calibrated
            threshold shows most.
        output_dir: folder for ``<tag>_<epoch>.png``; None writes none.
        summary_writer: TensorBoard writer for the same picture; None writes none.
        max_cases: cases on the sheet, at least 1.
        threshold: outlined on the input; None outlines none.
        tag: name of the picture.
        global_epoch_transform: called with the evaluator's epoch, gives the epoch to write under, for example
            the trainer's, as in MONAI's TensorBoard handlers.

    Raises:
        ConfigError: at construction, when there is nowhere to write or ``max_cases`` is under 1; during the
            run, when the engine's output lacks a key.
    """

    def __init__(
        self,
        vmax: float,
        output_dir: str | os.PathLike[str] | None = None,
        summary_writer: SummaryWriter | None = None,
        max_cases: int = 4,
        threshold: float | None = None,
        tag: str = "anomaly",
        global_epoch_transform: Callable[[int], int] = lambda epoch: epoch,
    ) -> None:
        if output_dir is None and summary_writer is None:
            raise ConfigError(
                "AnomalyImageHandler: nowhere to write; give output_dir, summary_writer or both."
            )
        if max_cases < 1:
            raise ConfigError(f"AnomalyImageHandler: max_cases={max_cases}; choose at least 1.")
        self.vmax = vmax
        self.output_dir = output_dir
        self.summary_writer = summary_writer
        self.max_cases = max_cases
        self.threshold = threshold
        self.tag = tag
        self.global_epoch_transform = global_epoch_transform
        self._cases: list[dict[str, torch.Tensor]] = []

    def attach(self, engine: Engine) -> None:
        """Collect cases in the iterations of ``engine`` and write at the end of its epochs."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self._forget)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _forget(self, engine: Engine) -> None:
        self._cases = []

    def _collect(self, engine: Engine) -> None:
        wanted = self.max_cases - len(self._cases)
        if wanted > 0:
            self._cases += _split(engine.state.output)[:wanted]

    def _write(self, engine: Engine) -> None:
        if not self._cases:
            return
        masked = all("mask" in case for case in self._cases)
        figure = anomaly_sheet(
            [case["image"] for case in self._cases],
            [case["pred"] for case in self._cases],
            [case["anomaly_map"] for case in self._cases],
            masks=[case["mask"] for case in self._cases] if masked else None,
            vmax=self.vmax,
            threshold=self.threshold,
        )
        epoch = self.global_epoch_transform(engine.state.epoch)
        if self.output_dir is not None:
            save_png(figure, Path(self.output_dir) / f"{self.tag}_{epoch:04d}.png")
        if self.summary_writer is not None:
            self.summary_writer.add_image(self.tag, to_array(figure), epoch, dataformats="HWC")
        self._cases = []


def _split(output: Any) -> list[dict[str, torch.Tensor]]:
    """The output of an iteration as one dictionary of (C, X, Y) images on the CPU per case."""
    items: list[Mapping[str, Any]]
    if isinstance(output, Mapping):
        found = {key: output[key] for key in (*_NEEDED, "mask") if output.get(key) is not None}
        _check_keys(found)
        items = [dict(zip(found, images, strict=True)) for images in zip(*found.values(), strict=True)]
    else:
        items = [{k: v for k, v in item.items() if v is not None} for item in output]
        for item in items:
            _check_keys(item)
    return [{key: item[key].detach().cpu() for key in (*_NEEDED, "mask") if key in item} for item in items]


def _check_keys(found: Mapping[str, Any]) -> None:
    missing = [key for key in _NEEDED if key not in found]
    if missing:
        raise ConfigError(
            f"AnomalyImageHandler: the engine's output has no {', '.join(missing)}, only {sorted(found)}; "
            "add the anomaly map to the output, for example in a postprocessing transform."
        )
