"""Writes what unORANIC draws of an image: NIfTI or PNG on its grid, scores as JSON, a sheet of slices."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from robustmed_monai.data.volume_writer import write_like
from robustmed_monai.handlers.result_files import ResultFileWriter, is_picture
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.grids import image_grid


class RestorationFileWriter(ResultFileWriter):
    """Ignite handler for an evaluator that runs a RestorationFileIteration.

    For an image ``name.ext`` it writes into ``output_dir/name``: ``anatomy_image`` and
    ``full_reconstruction`` (NIfTI with the source's affine and shape, or PNG for pictures), ``scores.json``
    and ``slices.png``; and at the end ``summary.json``.

    Args:
        output_dir: folder to write into.
        shown: slices on the sheet.
        items: all images of the run, see ResultFileWriter.

    Raises:
        ImageError: at the end of the run, when some images could not be used; it names them. The results of
            the others are written by then.
    """

    kept = ("image", "corruption_score", "change", "warnings")

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        shown: int = 6,
        items: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(output_dir, items)
        self.shown = shown

    def save(self, output: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Write images and sheet of one image and return its scores."""
        picture = is_picture(output["path"], output["meta"])
        suffix, scale = (".png", output["full_scale"]) if picture else (".nii.gz", 1.0)
        write_like(output["pred"] / scale, output["meta"], folder / f"anatomy_image{suffix}")
        write_like(output["full"] / scale, output["meta"], folder / f"full_reconstruction{suffix}")
        self._sheet(output, folder / "slices.png")
        return _report(output)

    def _sheet(self, output: Mapping[str, Any], path: Path) -> None:
        index = output["slices"]["index"]
        if not len(index):
            return
        chosen = index[torch.linspace(0, len(index) - 1, min(self.shown, len(index))).round().long()]
        headings = {"image": "input", "pred": "anatomy image", "full": "full reconstruction"}
        columns = {heading: output["slices"][k][chosen] for k, heading in headings.items()}
        save_png(image_grid(columns, [f"slice {i}" for i in chosen.tolist()]), path)


def _report(output: Mapping[str, Any]) -> dict[str, Any]:
    scores, changes = output["scores"], output["changes"]
    index = output["slices"]["index"].tolist()
    slices = [
        {
            "slice": place,
            "corruption_score": None if scores is None else float(scores[k]),
            "change": float(changes[k]),
        }
        for k, place in enumerate(index)
    ]
    known = scores is not None and len(index) > 0
    return {
        "image": output["path"],
        "corruption_score": float(scores.mean()) if known else None,
        "change": float(changes.mean()) if index else 0.0,
        "warnings": output["warnings"],
        "slices": slices,
    }
