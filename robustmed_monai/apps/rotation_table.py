"""The table of RISC: classifiers with and without correction at every rotation, beside controls."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from robustmed_monai.engines.anomaly_study import summarize
from robustmed_monai.engines.rotation_study import RotationResult, evaluate_classifier, evaluate_rotnet
from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.metrics.risc import expected_accuracy, rotation_confusion
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from robustmed_monai.utils.weight_parts import load_part, part_info
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.rotation_figures import accuracy_by_angle, confusion_figure

ROTNET = "RotNet"
UNCORRECTED = "no correction"

Results = dict[str, list[RotationResult]]


class RotationTable:
    """Evaluates all rows for all seeds, exhaustively over the rotations of the test images.

    Args:
        networks: run name to the classifier whose weights are exchanged, and ``rotnet`` to RotNet. Runs of
            the same architecture may share one.
        rows: row name to (run name, inferer); rows whose run, or whose RotNet, is not in ``runs`` are left
            out. A row named "oracle" gets the true rotation undone.
        runs: run name (``rotnet``, ``classifier``, ...) to weights files, one per seed. RISC in one file may
            be given for both.
        test: test data with `image` and `label` in ``tensors``.
        device: where the networks run.

    Raises:
        ConfigError: when no row has its runs, or the runs have different numbers of seeds.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        rows: Mapping[str, tuple[str, RotationCorrectionInferer]],
        runs: Mapping[str, Sequence[str]],
        test: Any,
        device: torch.device | str = "cpu",
    ) -> None:
        unknown = sorted(set(runs) - set(networks))
        if unknown or not runs:
            raise ConfigError(f"runs: found {sorted(runs)}; give weights for some of {sorted(networks)}.")
        if len({len(files) for files in runs.values()}) > 1:
            found = {k: len(v) for k, v in runs.items()}
            raise ConfigError(f"runs: {found} weights; give as many, one per seed, for each.")
        self.rows = {
            name: (run, inferer)
            for name, (run, inferer) in rows.items()
            if run in runs and (inferer.rotnet is None or "rotnet" in runs)
        }
        self.networks = {k: v.to(device) for k, v in networks.items()}
        self.runs = runs
        self.test = test
        self.device = device

    def run(self, output: str | os.PathLike[str], table: str, seeds: Sequence[int]) -> Path:
        """Evaluate and write ``<table>.json``, ``<table>_angles.png`` and ``<table>_confusion.png``.

        Args:
            output: folder to write into.
            table: name of the table.
            seeds: seeds of the weights, for the record.

        Returns:
            Path of the JSON.
        """
        folder, log = Path(output), logging.getLogger(__name__)
        results: Results = {}
        for number in range(len(next(iter(self.runs.values())))):
            for name, result in self._evaluate(number).items():
                results.setdefault(name, []).append(result)
                shown = {k: round(result.figures[k], 4) for k in ("upright", "rotated", "worst")}
                log.info(f"{table}, run {number + 1}, {name}: {shown}")
        paths = sorted({item["image"] for item in self.test.data})
        data = [{"name": table, "sha256": data_digest(paths), "split": "test"}]
        head = provenance(seeds=seeds, data=data, device=str(self.device))
        if ROTNET in results:
            confusion = torch.stack([rotation_confusion(r.found) for r in results[ROTNET]]).sum(0)
            head["confusion"] = confusion.tolist()
            save_png(confusion_figure(confusion), folder / f"{table}_confusion.png")
        rows = summarize(cast(Any, results))
        path = write_results(folder / f"{table}.json", rows, head)
        save_png(accuracy_by_angle(_by_angle(rows)), folder / f"{table}_angles.png")
        log.info(f"results are in {path}")
        return path

    def _evaluate(self, number: int) -> dict[str, RotationResult]:
        temperature = 1.0
        if "rotnet" in self.runs:
            weights = self.runs["rotnet"][number]
            load_part(self.networks["rotnet"], weights, "rotnet")
            temperature = float(cast(float, part_info(weights, "rotnet").get("temperature", 1.0)))
        images, labels = self.test.tensors["image"], self.test.tensors["label"]
        results: dict[str, RotationResult] = {}
        for name, inferer in self._rotnet_rows(temperature).items():
            results[name] = evaluate_rotnet(inferer, images, self.device)
        for name, (run, inferer) in self.rows.items():
            # Here, not before: two runs of one architecture may share the network.
            load_part(self.networks[run], self.runs[run][number], "classifier")
            results[name] = evaluate_classifier(
                inferer, self.networks[run], images, labels, self.device, oracle=name == "oracle"
            )
            self._add_expectation(name, results)
        return results

    def _rotnet_rows(self, temperature: float) -> dict[str, RotationCorrectionInferer]:
        """One row per way in which the inferers ask RotNet; sets the temperature of each."""
        asked: dict[str, RotationCorrectionInferer] = {}
        for _, inferer in self.rows.values():
            if inferer.rotnet is not None:
                inferer.temperature = temperature
                asked.setdefault(f"{ROTNET}, rotation set" if inferer.rotation_set else ROTNET, inferer)
        return dict(sorted(asked.items()))

    def _add_expectation(self, name: str, results: dict[str, RotationResult]) -> None:
        """What the identity of the fact sheet expects of a row with hard correction."""
        run, inferer = self.rows[name]
        plain = results.get(UNCORRECTED)
        finder = results.get(f"{ROTNET}, rotation set" if inferer.rotation_set else ROTNET)
        same = UNCORRECTED in self.rows and self.rows[UNCORRECTED][0] == run
        if (
            inferer.correction != "hard"
            or inferer.rotnet is None
            or plain is None
            or finder is None
            or not same
        ):
            return
        upright, rotated = plain.figures["upright"], plain.figures["rotated"]
        count = inferer.num_rotations
        results[name].figures["expected"] = expected_accuracy(
            upright, rotated, finder.figures["rotated"], count
        )


def _by_angle(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[float, float]]:
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        if row["column"].startswith("angle_") and row["column"] != "angle_error":
            found.setdefault(row["row"], {})[float(row["column"].removeprefix("angle_"))] = row["mean"]
    return {name: points for name, points in found.items() if not name.startswith(ROTNET)}
