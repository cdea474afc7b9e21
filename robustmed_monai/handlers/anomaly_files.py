"""Writes what RA finds in an image: NIfTI or PNG on its grid, scores as JSON, a sheet of the worst slices."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustmed_monai.data.volume_writer import write_like
from robustmed_monai.handlers.result_files import ResultFileWriter, is_picture
from robustmed_monai.inferers.familiarity import in_distribution_slices
from robustmed_monai.metrics.calibration import threshold_at
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.sheets import anomaly_sheet


class AnomalyFileWriter(ResultFileWriter):
    """Ignite handler for an evaluator that runs a FileIteration.

    For an image ``name.ext`` it writes into ``output_dir/name``: ``pseudo_healthy``, ``anomaly_map`` and
    ``anomaly_mask`` (NIfTI with the source's affine and shape, or PNG for pictures), ``scores.json`` and
    ``worst_slices.png``; and at the end ``summary.json``. A PNG of the map shows 0 to ``vmax`` as black to
    white, the same for all images.

    Args:
        output_dir: folder to write into.
        calibration: thresholds from the weights' info (``calibrate_thresholds``).
        fpr: rate among healthy pixels at which the mask is cut; one of the calibrated ones. Slices unlike the
            training data stay out of the mask as long as others are like it.
        worst: slices on the sheet.
        vmax: upper end of the colours; None takes four times the threshold.
        items: all images of the run, see ResultFileWriter.

    Raises:
        ConfigError: when the weights carry no threshold for ``fpr``.
        ImageError: at the end of the run, when some images could not be used; it names them. The results of
            the others are written by then.
    """

    kept = ("image", "score", "warnings")

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        calibration: Mapping[str, Any] | None,
        fpr: float = 0.05,
        worst: int = 6,
        vmax: float | None = None,
        items: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.threshold = threshold_at(calibration, fpr)
        super().__init__(output_dir, items)
        self.fpr = fpr
        self.worst = worst
        self.vmax = vmax or 4 * self.threshold

    def save(self, output: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Write maps, mask and sheet of one image and return its scores."""
        picture = is_picture(output["path"], output["meta"])
        maps = output["anomaly_map"]
        suffix = ".png" if picture else ".nii.gz"
        shown = (maps / self.vmax).clamp(max=1) if picture else maps
        pred = output["pred"] / output["full_scale"] if picture else output["pred"]
        write_like(pred, output["meta"], folder / f"pseudo_healthy{suffix}")
        write_like(shown, output["meta"], folder / f"anomaly_map{suffix}")
        mask = write_anomaly_mask(output, self.threshold, self.fpr, folder)
        self._sheet(output, folder / "worst_slices.png")
        return self._report(output, mask)

    def _report(self, output: Mapping[str, Any], mask: Mapping[str, Any]) -> dict[str, Any]:
        strange, scores = output["unfamiliar"], output["scores"]
        judged = in_distribution_slices(strange)
        slices = [
            {"slice": i, "score": float(scores[i]), "warnings": strange.get(i, [])}
            for i in range(len(scores))
            if i in strange
        ]
        return {
            "image": output["path"],
            "score": float(scores[judged].mean()) if judged else 0.0,
            "score_of": f"{len(judged)} of {len(scores)} slices"
            + (", none like the training data" if any(strange[i] for i in judged) else ""),
            **mask,
            "warnings": output["warnings"],
            "slices": slices,
        }

    def _sheet(self, output: Mapping[str, Any], path: Path) -> None:
        slices, strange = output["slices"], output["unfamiliar"]
        worst = sorted(in_distribution_slices(strange), key=lambda i: -float(output["scores"][i]))[
            : self.worst
        ]
        if not worst:
            return
        titles = [f"slice {i}\nscore {float(output['scores'][i]):.4f}" for i in worst]
        image, pred, maps = (slices[k][worst] for k in ("image", "pred", "anomaly_map"))
        sheet = anomaly_sheet(image, pred, maps, titles=titles, vmax=self.vmax, threshold=self.threshold)
        save_png(sheet, path)


def write_anomaly_mask(
    output: Mapping[str, Any], threshold: float, fpr: float, folder: Path
) -> dict[str, Any]:
    """Cut the map of an image at a threshold and write ``anomaly_mask``.

    Args:
        output: `path`, `meta`, `anomaly_map` and `assessed` of a file iteration.
        threshold: lowest value that is an anomaly, in the unit of the map.
        fpr: rate among healthy pixels that the threshold stands for.
        folder: folder to write into.

    Returns:
        What the report of the image says of the mask.
    """
    picture = is_picture(output["path"], output["meta"])
    mask = ((output["anomaly_map"] >= threshold) & (output["assessed"] > 0)).to(torch.uint8)
    path = folder / f"anomaly_mask{'.png' if picture else '.nii.gz'}"
    write_like(mask.float() if picture else mask, output["meta"], path, np.uint8)
    return {"anomalous_voxels": int(mask.sum()), "threshold": threshold, "threshold_fpr": fpr}
