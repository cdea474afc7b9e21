"""Writes what RISC finds in an image: class, angle and confidence as JSON, the corrected image, heat maps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from robustmed_monai.data.volume_writer import write_like
from robustmed_monai.handlers.result_files import ResultFileWriter, is_picture
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.risc import Panel, heatmap_sheet


class RotationFileWriter(ResultFileWriter):
    """Ignite handler for an evaluator that runs a RotationFileIteration.

    For an image ``name.ext`` it writes into ``output_dir/name``: ``prediction.json``, ``corrected`` (PNG for
    pictures; NIfTI for volumes, padded to squares, with an affine that says where the slices were),
    ``heatmap`` (on the grid of the file) and ``heatmaps.png``; and at the end ``summary.json``.

    Args:
        output_dir: folder to write into.
        class_names: names of the classes; None numbers them.
        layers: names of the layers of the heat maps, for the sheet.
        max_slices: slices of a volume on the sheet.
        items: all images of the run, see ResultFileWriter.

    Raises:
        ImageError: at the end of the run, when some images could not be used; it names them. The results of
            the others are written by then.
    """

    report_name = "prediction.json"
    kept = ("image", "prediction", "probabilities", "angle", "confidence", "abstained", "warnings")

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        class_names: Sequence[str] | None = None,
        layers: Sequence[str] | None = None,
        max_slices: int = 6,
        items: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(output_dir, items)
        self.class_names = class_names
        self.layers = list(layers or ())
        self.max_slices = max_slices

    def save(self, output: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Write the corrected image and the heat maps of one image and return its class and angle."""
        suffix = ".png" if is_picture(output["path"], output["meta"]) else ".nii.gz"
        corrected = output["corrected"]
        meta = {"spatial_shape": corrected.shape[1:], "original_affine": output["affine"].numpy()}
        write_like(corrected, meta, folder / f"corrected{suffix}")
        if "heatmap" in output:
            write_like(output["heatmap"], output["meta"], folder / f"heatmap{suffix}")
            save_png(self._sheet(output["slices"]), folder / "heatmaps.png")
        return self._report(output)

    def _report(self, output: Mapping[str, Any]) -> dict[str, Any]:
        names = self.class_names or [f"class {i}" for i in range(len(output["pred"]))]
        step = 360 / len(output["posterior"])
        slices = [
            {"slice": int(i), "probabilities": _rounded(p)}
            for i, p in zip(output["slices"]["index"], output["slices"]["pred"], strict=True)
        ]
        return {
            "image": output["path"],
            "prediction": names[int(output["pred"].argmax())],
            "probabilities": dict(zip(names, _rounded(output["pred"]), strict=True)),
            "angle": output["angle"],
            "confidence": round(output["confidence"], 6),
            "abstained": output["abstained"],
            "angles": {f"{k * step:g}": p for k, p in enumerate(_rounded(output["posterior"]))},
            "warnings": output["warnings"],
            **({"slices": slices} if len(slices) > 1 else {}),
        }

    def _sheet(self, slices: Mapping[str, torch.Tensor]) -> Any:
        count = len(slices["index"])
        chosen = list(range(0, count, -(-count // self.max_slices)))
        headings = ["image", "RotNet", "corrected"]
        headings += [f"classifier, {name}" for name in self.layers] + ["turned back"]
        rows = []
        for i in chosen:
            image, corrected = slices["image"][i], slices["corrected"][i]
            rotnet = slices["heat_rotnet"][i] if "heat_rotnet" in slices else None
            rows.append(
                [
                    Panel(image),
                    Panel(image, rotnet),
                    Panel(corrected),
                    *(Panel(corrected, maps[i]) for maps in slices["heat"]),
                    Panel(image, slices["heat_turned"][-1, i]),
                ]
            )
        return heatmap_sheet(rows, headings, [f"slice {int(slices['index'][i])}" for i in chosen])


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(float(v), 6) for v in values]
