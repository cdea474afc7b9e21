"""Writes what registration finds: the moved image, fields for SimpleITK and ANTs, and a picture to check."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustmed_monai.data.volume_writer import write_like
from robustmed_monai.handlers.result_files import ResultFileWriter, is_picture
from robustmed_monai.transforms.field_files import write_world_field
from robustmed_monai.utils.fingerprint import input_stamp
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.grids import image_grid

# Fields of a checkerboard along the shorter side.
_CHECKERS = 6


class RegistrationFileWriter(ResultFileWriter):
    """Ignite handler for an evaluator that runs a RegistrationFileIteration.

    For a moving image ``name.ext`` it writes into ``output_dir/name``: ``moved`` (on the fixed image's grid,
    with the moving image's intensities), ``field.nii.gz`` and ``inverse_field.nii.gz`` (ITK's displacement
    fields, alignment included: the first on the fixed grid resamples the moving image, the second on the
    moving grid the fixed one), ``registration.json`` and ``checkerboard.png``; and at the end
    ``summary.json``. The picture shows slices of the fixed, the moving and the moved image, straight lines
    moved by the field, and the two images in turn on a checkerboard, before and after.

    Args:
        output_dir: folder to write into.
        shown: slices on the picture.
        items: all pairs of the run, see ``list_pairs``.

    Raises:
        ImageError: at the end of the run, when some images could not be used; it names them. The results of
            the others are written by then.
    """

    report_name = "registration.json"
    kept = ("image", "fixed", "mean_displacement_mm", "folds", "warnings")

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        shown: int = 4,
        items: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(output_dir, items)
        self.shown = shown
        self._fixed = {str(item["moving"]): str(item["fixed"]) for item in items or ()}

    def save(self, output: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Write the files of one pair."""
        moved, meta = torch.from_numpy(output["moved"]), output["meta"]
        picture = is_picture(output["fixed"], meta)
        if picture:
            moved = moved / output["full_scale"]
        write_like(moved, meta, folder / ("moved.png" if picture else "moved.nii.gz"))
        write_world_field(output["field"], output["affine"], folder / "field.nii.gz")
        write_world_field(output["inverse_field"], output["moving_affine"], folder / "inverse_field.nii.gz")
        save_png(image_grid(_sheet(output["slices"], self.shown)), folder / "checkerboard.png")
        length = np.linalg.norm(output["field"], axis=0)
        matrix = output["matrix"]
        return {
            "fixed": output["fixed"],
            "mean_displacement_mm": round(float(length.mean()), 4),
            "largest_displacement_mm": round(float(length.max()), 4),
            "folds": output["folds"],
            "alignment": None if matrix is None else np.round(matrix, 6).tolist(),
            "warnings": output["warnings"],
        }

    def _made_from(self, path: str) -> dict[str, Any]:
        fixed = self._fixed.get(path)
        if fixed is None or not Path(fixed).exists():
            return super()._made_from(path)
        return {**super()._made_from(path), "fixed": {"path": fixed, **input_stamp(fixed)}}


def checkerboard(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Fields of two images (N, 1, X, Y) in turn: borders run on where they lie on each other."""
    width, height = first.shape[2:]
    size = max(1, min(width, height) // _CHECKERS)
    x, y = torch.arange(width)[:, None] // size, torch.arange(height)[None] // size
    return torch.where((x + y) % 2 == 0, first, second)


def _sheet(slices: Mapping[str, torch.Tensor], shown: int) -> dict[str, torch.Tensor]:
    fixed = slices["fixed"]
    filled = torch.nonzero(fixed.flatten(1).any(1)).flatten()
    # From the middle half, where there is most to see.
    places = torch.linspace(0.25, 0.75, min(shown, len(filled))) if len(filled) > 1 else torch.zeros(1)
    chosen = filled[(places * (len(filled) - 1)).round().long()] if len(filled) else torch.zeros(1).long()
    fixed, moving, moved, field = (slices[k][chosen] for k in ("fixed", "moving", "moved", "field"))
    return {
        "fixed": fixed,
        "moving": moving,
        "moved": moved,
        "field": field,
        "before": checkerboard(moving, fixed),
        "after": checkerboard(moved, fixed),
    }
