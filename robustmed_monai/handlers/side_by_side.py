"""One sheet of the features of several images of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from robustmed_monai.data.image_list import name_results
from robustmed_monai.inferers.cifl import middle_slice
from robustmed_monai.visualize.features import feature_sheet
from robustmed_monai.visualize.figures import save_png


class SideBySide:
    """Ignite handler for a FileEvaluator: ``side_by_side.png``, one slice of several images and its channels.

    Args:
        output_dir: folder to write into.
        most: images on the sheet, the first of the run.
    """

    def __init__(self, output_dir: str | os.PathLike[str], most: int = 6) -> None:
        self.output_dir = Path(output_dir)
        self.most = most
        self._images: dict[str, torch.Tensor] = {}
        self._features: dict[str, torch.Tensor] = {}
        self._place: tuple[int, int] | None = None

    def attach(self, engine: Engine) -> None:
        """Collect after every image, and draw at the end."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _collect(self, engine: Any) -> None:
        output: Any = engine.state.output
        if "error" in output or len(self._images) >= self.most:
            return
        path = str(output["path"])
        stacks = [
            torch.as_tensor(output["network_space"][k]).as_subclass(torch.Tensor) for k in ("image", "pred")
        ]
        shown = middle_slice(stacks[0])
        # Images with as many slices as the first show the same one.
        if self._place is None:
            self._place = (stacks[0].shape[-1], shown)
        if self._place[0] == stacks[0].shape[-1]:
            shown = self._place[1]
        self._images[path], self._features[path] = (stack[..., shown].clone() for stack in stacks)

    def _draw(self, engine: Any) -> None:
        if len(self._images) > 1:
            names = name_results(list(self._images))
            images, features = (
                {names[path]: values for path, values in found.items()}
                for found in (self._images, self._features)
            )
            save_png(feature_sheet(images, features), self.output_dir / "side_by_side.png")
