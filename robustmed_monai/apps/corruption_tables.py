"""The tables of unORANIC's bundle: reconstruction, revision, classification, detection and robustness."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustmed_monai.engines.corruption_study import (
    Classifier,
    Table,
    classification_table,
    detection_table,
    probed,
    reconstruct_all,
    reconstruction_figures,
    revision_table,
    robustness_table,
    supervised,
    table_rows,
)
from robustmed_monai.engines.probe import ProbeData, fit_probes
from robustmed_monai.engines.probe_study import digests
from robustmed_monai.transforms.corruption.suite import CorruptionSuite
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.files import atomic_path
from robustmed_monai.utils.provenance import provenance, read_results, write_results
from robustmed_monai.utils.tables import render_table
from robustmed_monai.utils.weights import load_into
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.grids import image_grid, severity_curves

Rows = Mapping[str, tuple[str, str]]
logger = logging.getLogger(__name__)


class CorruptionTables:
    """Evaluates trained networks with probes on their frozen features, beside nets trained with labels.

    Args:
        networks: method to a network of its architecture.
        runs: method to weights files, one per seed; methods without are left out.
        rows: task ("disease", "corruption") to row name to (method, kind of features).
        tasks: task to its images and labels; the disease's images are the clean ones.
        corrupted: one fixed corrupted copy of the clean test images.
        data: section to data set in memory, for the record.
        supervised_networks: task to a network that is trained on it as a whole.
        supervised_runs: task to weights files, one per seed.
        supervised_name: name of these rows.
        suites: robustness suites, by name of the table.
        device: where the networks run.

    Raises:
        ConfigError: when there is no run, or a run has no network.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        runs: Mapping[str, Sequence[str]],
        rows: Mapping[str, Rows],
        tasks: Mapping[str, ProbeData],
        corrupted: torch.Tensor,
        data: Mapping[str, Any],
        supervised_networks: Mapping[str, nn.Module] | None = None,
        supervised_runs: Mapping[str, Sequence[str]] | None = None,
        supervised_name: str = "ResNet-18, supervised",
        suites: Mapping[str, CorruptionSuite] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if not runs or set(runs) - set(networks):
            raise ConfigError(f"runs: found {sorted(runs)}; give weights of some of {sorted(networks)}.")
        self.networks = {
            method: [_loaded(networks[method], file, device) for file in files]
            for method, files in runs.items()
        }
        self.trained = {
            task: [_loaded((supervised_networks or {})[task], file, device) for file in files]
            for task, files in (supervised_runs or {}).items()
        }
        self.rows, self.tasks, self.corrupted, self.data = rows, tasks, corrupted, data
        self.supervised_name = supervised_name
        self.suites = dict(suites or {})
        self.device = device
        self.clean = tasks["disease"].images["test"]

    def run(self, output: str | os.PathLike[str], seeds: Sequence[int]) -> Path:
        """Evaluate and write one JSON per table, ``results.md`` and pictures.

        Args:
            output: folder to write into.
            seeds: seeds of the weights, for the record.

        Returns:
            The folder.
        """
        folder = Path(output)
        head = provenance(seeds=seeds, data=digests(self.data), device=str(self.device))
        twelve = CorruptionSuite.unoranic()
        classifiers = {task: self._classifiers(task) for task in self.tasks}
        disease, detection = self.tasks["disease"], self.tasks["corruption"]
        tables: dict[str, Table] = {
            "reconstruction": self._reconstruction(),
            "revision": revision_table(self.networks, twelve, self.clean, self.device),
            "classification": classification_table(
                classifiers["disease"], self.clean, disease.labels["test"]
            ),
            "detection": detection_table(
                classifiers["corruption"],
                detection.images["test"],
                detection.labels["test"],
                self.clean,
                twelve,
            ),
        }
        for name, suite in self.suites.items():
            tables[name] = robustness_table(classifiers["disease"], suite, self.clean, disease.labels["test"])
            figure = severity_curves(_curves(tables[name], tables["classification"], suite))
            save_png(figure, folder / f"{name}.png")
        for name, table in tables.items():
            write_results(folder / f"{name}.json", table_rows(table), head)
        self._pictures(folder, twelve)
        _write_markdown(folder, tables)
        logger.info(f"tables are in {folder}")
        return folder

    def _reconstruction(self) -> Table:
        return {
            method: [reconstruction_figures(n, self.clean, self.corrupted, self.device) for n in networks]
            for method, networks in self.networks.items()
        }

    def _classifiers(self, task: str) -> list[tuple[int, Classifier]]:
        """One per run: the probes of each method, and the nets that were trained on the task."""
        found: list[tuple[int, Classifier]] = []
        for method, networks in self.networks.items():
            rows = {row: kind for row, (owner, kind) in self.rows[task].items() if owner == method}
            for k, network in enumerate(networks if rows else ()):
                title = f"{method}, run {k}, {task}: {{}} features"
                probes = fit_probes(
                    network, self.tasks[task], sorted(set(rows.values())), self.device, title.format
                )
                named = {row: (kind, probes[kind]) for row, kind in rows.items()}
                found.append((k, probed(network, named, self.device)))
        for k, network in enumerate(self.trained.get(task, ())):
            found.append((k, supervised(self.supervised_name, network, self.device)))
        return found

    def _pictures(self, folder: Path, suite: CorruptionSuite, cases: int = 6) -> None:
        # Evenly spread over the test images, so that nobody picks the best.
        chosen = torch.arange(cases) * (len(self.clean) // cases) if len(self.clean) >= cases else slice(None)
        clean, corrupted = self.clean[chosen], self.corrupted[chosen]
        columns = {"clean": clean, "corrupted": corrupted}
        first = {method: networks[0] for method, networks in self.networks.items()}
        for method, network in first.items():
            anatomy, full = reconstruct_all(network, corrupted, self.device)
            columns |= {f"{method}\nanatomy": anatomy, f"{method}\nfull": full}
        save_png(image_grid(columns), folder / "reconstruction.png")
        one = self.clean[:1]
        given = torch.cat([suite.apply(one, case) for case in suite.cases])
        columns = {"clean": one.expand_as(given), "corrupted": given}
        for method, network in first.items():
            columns[f"{method}\nanatomy"] = reconstruct_all(network, given, self.device)[0]
        names = [case.name.replace("_", " ") for case in suite.cases]
        save_png(image_grid(columns, names), folder / "revision.png")


def _loaded(network: nn.Module, weights: str, device: torch.device | str) -> nn.Module:
    return load_into(copy.deepcopy(network), weights).to(device).eval()


def _curves(
    table: Table, clean: Table, suite: CorruptionSuite
) -> dict[str, dict[str, list[tuple[int, float, float]]]]:
    found = {(r["row"], r["column"]): (r["mean"], r["std"]) for r in table_rows(table)}
    start = {r["row"]: (r["mean"], r["std"]) for r in table_rows(clean) if r["column"] == "auc"}
    curves: dict[str, dict[str, list[tuple[int, float, float]]]] = {}
    for case in suite.cases:
        methods = curves.setdefault(case.name, {row: [(0, *start[row])] for row in table})
        for row in table:
            methods[row].append((case.severity or 0, *found[row, f"auc_{case.name}_{case.severity}"]))
    return curves


def _write_markdown(folder: Path, tables: Mapping[str, Table]) -> None:
    """All tables but the figures per severity, which the JSON files hold; wide ones by kind of figure."""
    parts = ["# Results"]
    for name, table in tables.items():
        columns = [c for c in next(iter(table.values()))[0] if not c[-1].isdigit()]
        content = read_results(folder / f"{name}.json")
        kinds = ("auc", "acc", "balanced_error", "be") if name.startswith("robustness") else ("",)
        parts.append(f"## {name.replace('_', ' ')}")
        for kind in kinds:
            chosen = [c for c in columns if c.startswith(f"{kind}_" if kind else "")]
            if chosen:
                parts.append(render_table(content, columns=chosen, digits=2 if name == "revision" else 3))
    with atomic_path(folder / "results.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
