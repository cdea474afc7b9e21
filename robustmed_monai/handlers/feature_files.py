"""Writes the features of images as NIfTI with one volume per channel, and sheets of the channels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from robustmed_monai.data.volume_writer import write_like
from robustmed_monai.handlers.result_files import ResultFileWriter
from robustmed_monai.visualize.features import feature_sheet
from robustmed_monai.visualize.figures import save_png

# More rows than this do not fit on a sheet.
_MOST_ROWS = 6


class FeatureFileWriter(ResultFileWriter):
    """Ignite handler for an evaluator that runs a FeatureFileIteration.

    For an image ``name.ext`` it writes into ``output_dir/name``: ``features.nii.gz`` (float32, channels along
    the fourth axis, the source's affine and shape), ``features.png`` and ``features.json``; at the end
    ``summary.json`` and, where a run makes several images, ``side_by_side.png``: the same slice of the first
    six, channel under channel.

    Args:
        output_dir: folder to write into.
        items: all images of the run, see ResultFileWriter.

    Raises:
        ImageError: at the end of the run, when some images could not be used; it names them. The results of
            the others are written by then.
    """

    report_name = "features.json"
    kept = ("image", "channels", "slice_shown", "warnings")

    def __init__(
        self, output_dir: str | os.PathLike[str], items: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        super().__init__(output_dir, items)
        self._images: dict[str, torch.Tensor] = {}
        self._features: dict[str, torch.Tensor] = {}
        self._place: tuple[int, int] | None = None

    def save(self, output: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Write features and sheet of one image and return its report."""
        write_like(output["pred"], output["meta"], folder / "features.nii.gz")
        shown = self._shown(output["slices"]["image"])
        image, features = output["slices"]["image"][shown], output["slices"]["pred"][shown]
        save_png(feature_sheet({folder.name: image}, {folder.name: features}), folder / "features.png")
        if len(self._images) < _MOST_ROWS:
            self._images[folder.name], self._features[folder.name] = image.clone(), features.clone()
        return {"channels": len(features), "slice_shown": shown, "warnings": output["warnings"]}

    def _finish(self, engine: Any) -> None:
        if len(self._images) > 1:
            save_png(feature_sheet(self._images, self._features), self.output_dir / "side_by_side.png")
        super()._finish(engine)

    def _shown(self, stack: torch.Tensor) -> int:
        """The fullest slice of the first image, and the same of those that have as many slices."""
        fullest = int((stack > 0).flatten(1).sum(1).argmax())
        if self._place is None:
            self._place = (len(stack), fullest)
        return self._place[1] if self._place[0] == len(stack) else fullest
