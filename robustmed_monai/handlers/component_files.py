"""Writes what pchVAE finds in an image: its components and anomaly map, scores per slice as JSON, a sheet."""

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
from robustmed_monai.visualize.grids import image_grid

FILES = {"high": "x_high", "low": "x_low", "pred": "x_sum", "anomaly_map": "anomaly_map"}


class ComponentFileWriter(ResultFileWriter):
    """Ignite handler for an evaluator that runs a ComponentFileIteration.

    For an image ``name.ext`` it writes into ``output_dir/name``: ``x_high``, ``x_low`` (signed), ``x_sum``
    and ``anomaly_map`` (NIfTI with the source's affine and shape; PNG for pictures, where x_low is shown
    around the middle grey and the map from 0 to ``vmax``), with calibrated weights ``anomaly_mask``, and
    ``scores.json`` and ``slices.png``; and at the end ``summary.json``.

    Args:
        output_dir: folder to write into.
        clip: bound of the z-scores, the ends of the greys of ``slices.png``.
        vmax: value of the anomaly map that a picture shows as white.
        shown: slices on the sheet, those with the highest scores.
        items: all images of the run, see ResultFileWriter.
        calibration: thresholds from the weights' info (``calibrate_weights``); None writes no mask.
        fpr: rate among healthy pixels of brains at which the mask is cut; one of the calibrated ones. Slices
            unlike the training data stay out of the mask as long as others are like it.

    Raises:
        ConfigError: when ``calibration`` has no threshold for ``fpr``.
        ImageError: at the end of the run, when some images could not be used; it names them. The results of
            the others are written by then.
    """

    kept = ("image", "scores", "warnings")

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        clip: float = 1.5,
        vmax: float = 1.0,
        shown: int = 6,
        items: Sequence[Mapping[str, Any]] | None = None,
        calibration: Mapping[str, Any] | None = None,
        fpr: float = 0.05,
    ) -> None:
        self.threshold = None if calibration is None else threshold_at(calibration, fpr)
        super().__init__(output_dir, items)
        self.fpr = fpr
        self.clip = clip
        self.vmax = vmax
        self.shown = shown

    def save(self, output: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Write components, map and sheet of one image and return its scores."""
        picture = is_picture(output["path"], output["meta"])
        for key, name in FILES.items():
            if key in output:
                values = self._pictured(key, output) if picture else output[key]
                write_like(values, output["meta"], folder / f"{name}{'.png' if picture else '.nii.gz'}")
        self._sheet(output, folder / "slices.png")
        if self.threshold is None:
            return _report(output)
        return _report(output) | write_anomaly_mask(output, self.threshold, self.fpr, folder)

    def _pictured(self, key: str, output: Mapping[str, Any]) -> torch.Tensor:
        values = torch.as_tensor(output[key])
        shown: torch.Tensor = {
            "low": 0.5 + values / (2 * output["full_scale"]),
            "anomaly_map": values / self.vmax,
        }.get(key, values / output["full_scale"])
        return shown.clamp(0, 1)

    def _sheet(self, output: Mapping[str, Any], path: Path) -> None:
        slices, scores = output["slices"], output["scores"]["elbo"]
        judged = _judged(output)
        places = judged[scores[judged].topk(min(self.shown, len(judged))).indices]
        index = slices["index"][places]
        columns = {"input": self._grey(slices["image"][index])}
        for key, name in FILES.items():
            if key in slices:
                part = slices[key][index]
                columns[name] = part / self.vmax if key == "anomaly_map" else self._grey(part)
        rows = [f"slice {i}\n{float(scores[k]):.0f}" for k, i in zip(places, index.tolist(), strict=True)]
        save_png(image_grid(columns, rows), path)

    def _grey(self, images: torch.Tensor) -> torch.Tensor:
        return (images + self.clip) / (2 * self.clip)


def _judged(output: Mapping[str, Any]) -> torch.Tensor:
    """Places in `index` of the slices that look like the training data, or of all where none does."""
    known = torch.tensor(in_distribution_slices(output["unfamiliar"]))
    return torch.nonzero(torch.isin(output["slices"]["index"], known)).flatten()


def _report(output: Mapping[str, Any]) -> dict[str, Any]:
    scores, strange, judged = output["scores"], output["unfamiliar"], _judged(output)
    index = output["slices"]["index"].tolist()
    slices = [
        {"slice": place, **{name: float(v[k]) for name, v in scores.items()}, "warnings": strange[place]}
        for k, place in enumerate(index)
    ]
    foreign = any(strange[index[k]] for k in judged.tolist())
    return {
        "image": output["path"],
        "scores": {name: float(values[judged].mean()) for name, values in scores.items()},
        "scores_of": f"{len(judged)} of {len(output['slices']['image'])} slices"
        + (", none like the training data" if foreign else ""),
        "warnings": output["warnings"],
        "slices": slices,
    }


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
