"""Writes label maps on the grid of their images, the volume of each class, and a sheet of slices."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustmed_monai.data.volume_writer import write_like
from robustmed_monai.handlers.result_files import ResultFileWriter, is_picture
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.files import atomic_path
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.grids import image_grid

TISSUES = ("background", "CSF", "grey matter", "white matter")


class SegmentationFileWriter(ResultFileWriter):
    """Ignite handler for an evaluator that runs a SegmentationFileIteration.

    For an image ``name.ext`` it writes into ``output_dir/name``: ``labels`` (NIfTI with the source's affine
    and shape, or for pictures PNG, whose grey values are the class numbers), ``volumes.csv`` and
    ``volumes.json`` (voxels and ml of each class; a picture has no ml), and ``slices.png``; and at the end
    ``summary.json`` with the volumes of all.

    Args:
        output_dir: folder to write into.
        class_names: name of each class, the background first; None numbers them, or takes the tissues when
            there are four.
        shown: slices on the sheet.
        items: all images of the run, see ResultFileWriter.

    Raises:
        ConfigError: when the names are not as many as the classes.
        ImageError: at the end of the run, when some images could not be used; it names them. The results of
            the others are written by then.
    """

    report_name = "volumes.json"
    kept = ("image", "volumes", "warnings")

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        class_names: Sequence[str] | None = None,
        shown: int = 6,
        items: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(output_dir, items)
        self.class_names = class_names
        self.shown = shown

    def save(self, output: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Write the files of one image and return its volumes."""
        names = self._names(len(output["counts"]))
        classes = output["pred"]
        if is_picture(output["path"], output["meta"]):
            write_like(classes.float() / 255, output["meta"], folder / "labels.png")
        else:
            write_like(classes.to(torch.uint8), output["meta"], folder / "labels.nii.gz", np.uint8)
        voxel = output["voxel_ml"]
        volumes = {
            name: {"voxels": int(count), "ml": None if voxel is None else round(int(count) * voxel, 3)}
            for name, count in zip(names, output["counts"], strict=True)
        }
        with atomic_path(folder / "volumes.csv") as temporary:
            _write_table(temporary, volumes)
        self._sheet(output["slices"], len(names), folder / "slices.png")
        return {"volumes": volumes, "warnings": output["warnings"]}

    def _names(self, count: int) -> list[str]:
        if self.class_names is None:
            return list(TISSUES) if count == len(TISSUES) else [f"class {i}" for i in range(count)]
        if len(self.class_names) != count:
            raise ConfigError(f"class_names={list(self.class_names)} for {count} classes; name each once.")
        return list(self.class_names)

    def _sheet(self, slices: Mapping[str, torch.Tensor], count: int, path: Path) -> None:
        index = slices["index"]
        if not len(index):
            return
        chosen = index[torch.linspace(0, len(index) - 1, min(self.shown, len(index))).round().long()]
        columns = {"image": slices["image"][chosen], "classes": slices["pred"][chosen].float() / (count - 1)}
        save_png(image_grid(columns, [f"slice {i}" for i in chosen.tolist()]), path)


def _write_table(path: Path, volumes: Mapping[str, Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["class", "voxels", "ml"])
        for name, volume in volumes.items():
            writer.writerow([name, volume["voxels"], "" if volume["ml"] is None else volume["ml"]])
