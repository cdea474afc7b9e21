"""The table of an anomaly bundle: methods and controls by figures, with provenance and pictures."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustmed_monai.engines.anomaly_study import FPRS, DetectorResult, evaluate_detector, summarize
from robustmed_monai.inferers.controls import AreaControl, IntensityControl, MeanImageControl, ZeroControl
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from robustmed_monai.utils.weights import load_into
from robustmed_monai.visualize.curves import roc_pr_curves, score_histogram
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.sheets import anomaly_sheet

Inferer = Callable[..., dict[str, torch.Tensor]]


class AnomalyTable:
    """Evaluates trained networks, each with one or more anomaly maps, beside controls that learn nothing.

    Args:
        network: network whose weights are exchanged; all runs share its architecture.
        rows: row name to (run name, anomaly map inferer); rows whose run is not in ``runs`` are left out.
        runs: run name to weights files, one per seed.
        training: loader of training images (a SliceDataset), for the mean image.
        validation: loader of healthy images to calibrate on.
        test: loader of test images, see ``evaluate_detector``.
        device: where the networks run.

    Raises:
        ConfigError: when no row has a run.
    """

    def __init__(
        self,
        network: nn.Module,
        rows: Mapping[str, tuple[str, Inferer]],
        runs: Mapping[str, Sequence[str]],
        training: Any,
        validation: Any,
        test: Any,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rows = {name: row for name, row in rows.items() if row[0] in runs}
        if not self.rows:
            raise ConfigError(
                f"runs: found {sorted(runs)}; give weights for one of "
                f"{sorted({r[0] for r in rows.values()})}."
            )
        self.network = network.to(device)
        self.runs = runs
        self.training, self.validation, self.test = training, validation, test
        self.device = device

    def run(self, output: str | os.PathLike[str], table: str, seeds: Sequence[int]) -> Path:
        """Evaluate all rows and write ``<table>.json``, ``<table>.png``, ``curves.png`` and ``scores.png``.

        Args:
            output: folder to write into.
            table: name of the table.
            seeds: seeds of the weights, for the record.

        Returns:
            Path of the JSON.
        """
        folder = Path(output)
        results: dict[str, list[DetectorResult]] = {
            name: self._evaluate(name, run, inferer) for name, (run, inferer) in self.rows.items()
        }
        controls = {
            "mean image": MeanImageControl(b["image"] for b in self.training),
            "intensity": IntensityControl(),
            "head area": AreaControl(),
            "zero": ZeroControl(),
        }
        for name, control in controls.items():
            results[name] = [evaluate_detector(control, self.validation, self.test, "cpu", name)]
        loaders = {"training": self.training, "validation": self.validation, "test": self.test}
        data = [{"name": table, "sha256": _digest(v.dataset.data), "split": k} for k, v in loaders.items()]
        head = provenance(seeds=seeds, data=data, device=str(self.device))
        path = write_results(folder / f"{table}.json", summarize(results), head)
        self._pictures(folder, table, {k: v[0] for k, v in results.items()})
        logging.getLogger(__name__).info(f"results are in {path}")
        return path

    def _evaluate(self, name: str, run: str, inferer: Inferer) -> list[DetectorResult]:
        found = []
        for weights in self.runs[run]:
            load_into(self.network, weights).eval()
            detector = partial(inferer, network=self.network)
            found.append(evaluate_detector(detector, self.validation, self.test, self.device, name))
        return found

    def _pictures(self, folder: Path, table: str, results: Mapping[str, DetectorResult]) -> None:
        first = next(iter(results.values()))
        if 0 < first.labels.sum() < len(first.labels):
            curves = {k: (r.scores, r.labels) for k, r in results.items()}
            save_png(roc_pr_curves(curves), folder / "curves.png")
            save_png(
                score_histogram(first.scores[first.labels == 0], first.scores[first.labels == 1]),
                folder / "scores.png",
            )
        threshold = first.calibration["thresholds"][str(FPRS[-1])]
        chosen = _spread_over(first.labels)
        titles = [
            f"{'abnormal' if first.labels[i] else 'healthy'}\nscore {first.scores[i]:.4f}" for i in chosen
        ]
        panels = {k: v[chosen] for k, v in first.cases.items()}
        sheet = anomaly_sheet(
            panels["image"],
            panels["pred"],
            panels["anomaly_map"],
            panels.get("mask"),
            titles=titles,
            vmax=4 * threshold,
            threshold=threshold,
        )
        save_png(sheet, folder / f"{table}.png")


def _spread_over(labels: Any, healthy: int = 2, abnormal: int = 6) -> list[int]:
    """Indices of a few healthy and abnormal cases, evenly spread over the data, so nobody picks the best."""
    chosen: list[int] = []
    for value, count in ((0, healthy), (1, abnormal)):
        places = [i for i, label in enumerate(labels) if label == value]
        step = max(1, len(places) // count)
        chosen += places[::step][:count]
    return chosen


def _digest(items: Iterable[Mapping[str, Any]]) -> str:
    return data_digest(sorted({item[k] for item in items for k in ("image", "mask") if k in item}))
