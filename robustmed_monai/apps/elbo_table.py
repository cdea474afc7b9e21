"""The table of pchVAE's bundle: five models and three controls, by reconstruction and by detection."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.engines.anomaly_study import DetectorResult, summarize
from robustmed_monai.engines.elbo_study import (
    Found,
    Judge,
    control_judges,
    judge_all,
    measure,
    network_judge,
    reconstruction_error,
)
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from robustmed_monai.utils.weights import load_into
from robustmed_monai.visualize.curves import roc_pr_curves
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.grids import image_grid
from robustmed_monai.visualize.latents import latent_pictures


class ElboTable:
    """Evaluates trained models and controls on healthy slices and on test sets that hold both kinds.

    Args:
        networks: row name to network of that architecture.
        runs: row name to weights files, one per seed; rows without any are left out.
        inferer: an ElboInferer.
        healthy: data whose healthy slices give the reconstruction error.
        tests: name to test set.
        clip: bound of the z-scores.
        device: where the networks run.

    Raises:
        ConfigError: when a run has no network, or there is none.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        runs: Mapping[str, Sequence[str]],
        inferer: Any,
        healthy: TensorDataset,
        tests: Mapping[str, TensorDataset],
        clip: float = 1.5,
        device: torch.device | str = "cpu",
    ) -> None:
        unknown = sorted(set(runs) - set(networks))
        if unknown or not runs:
            raise ConfigError(f"runs: found {sorted(runs)}; give weights of some of {sorted(networks)}.")
        self.networks = networks
        self.runs = runs
        self.inferer = inferer
        self.healthy = healthy
        self.tests = tests
        self.clip = clip
        self.device = device

    def run(self, output: str | os.PathLike[str], table: str, seeds: Sequence[int]) -> Path:
        """Evaluate and write ``<table>.json``, and pictures of curves, components and codes.

        Args:
            output: folder to write into.
            table: name of the table.
            seeds: seeds of the weights, for the record.

        Returns:
            Path of the JSON.
        """
        folder, log = Path(output), logging.getLogger(__name__)
        results: dict[str, list[DetectorResult]] = {}
        scored: dict[str, dict[str, Found]] = {}
        for name, files in self.runs.items():
            network = self.networks[name].to(self.device)
            for place, weights in enumerate(files):
                load_into(network, weights).eval()
                result, found = self._judged(network_judge(network, self.inferer, self.device))
                results.setdefault(name, []).append(result)
                shown = {k: round(result.figures[k], 4) for k in ("mse", "mean_auroc", "mean_ap")}
                log.info(f"{table}, run {place + 1}, {name}: {shown}")
                if not place:
                    scored[name] = found
                    self._codes(network, name, folder)
        for name, judge in control_judges(self.clip).items():
            result, scored[name] = self._judged(judge)
            results[name] = [result]
        sets = {"healthy": self.healthy, **self.tests}
        data = [{"name": table, "sha256": _digest(v), "split": k} for k, v in sets.items()]
        head = provenance(seeds=seeds, data=data, device=str(self.device))
        path = write_results(folder / f"{table}.json", summarize(results), head)
        self._pictures(folder, scored)
        log.info(f"results are in {path}")
        return path

    def _judged(self, judge: Judge) -> tuple[DetectorResult, dict[str, Found]]:
        """Figures of one judge, and what it said of each test set."""
        figures: dict[str, float] = {}
        intervals: dict[str, list[float]] = {}
        found = {name: judge_all(judge, data) for name, data in self.tests.items()}
        known = judge_all(judge, self.healthy)
        if "pred" in known:
            figures["mse"] = reconstruction_error(known, self.healthy)
        for name, data in self.tests.items():
            some, bounds = measure(found[name], data, name)
            figures |= some
            intervals |= bounds
        for curve in ("auroc", "ap"):
            figures[f"mean_{curve}"] = float(np.mean([figures[f"{name}_{curve}"] for name in self.tests]))
        nothing: Any = np.zeros(0)
        return DetectorResult(figures, intervals, {}, nothing, nothing, {}), found

    def _pictures(self, folder: Path, scored: Mapping[str, Mapping[str, Found]]) -> None:
        for name, data in self.tests.items():
            labels = (~data.tensors["healthy"]).numpy().astype(int)
            curves = {row: (found[name]["score_elbo"].numpy(), labels) for row, found in scored.items()}
            save_png(roc_pr_curves(curves), folder / f"{name}_curves.png")
            chosen = torch.nonzero(torch.from_numpy(labels)).flatten()
            chosen = chosen[torch.linspace(0, len(chosen) - 1, min(6, len(chosen))).round().long()]
            columns = {"input": _column(data.tensors["image"][chosen], self.clip)}
            for row in self.runs:
                seen = scored[row][name]
                columns[row] = _column(seen["pred"][chosen], self.clip)
                if "high" in seen and "low" in seen:
                    columns[f"{row}: high"] = _column(seen["high"][chosen], self.clip)
                    columns[f"{row}: low"] = _column(seen["low"][chosen], self.clip)
            columns["mask"] = _column(data.tensors["mask"][chosen] * 2 - 1, 1.0)
            save_png(image_grid(columns), folder / f"{name}_components.png")

    def _codes(self, network: nn.Module, name: str, folder: Path) -> None:
        image = self.healthy.tensors["image"][:1].to(self.device)
        for title, columns in latent_pictures(network, image).items():
            shown = {heading: _column(images.cpu(), self.clip) for heading, images in columns.items()}
            stem = name.lower().replace(" ", "_")
            save_png(image_grid(shown), folder / f"{title}_{stem}.png")


def _column(images: torch.Tensor, clip: float) -> torch.Tensor:
    """Images (N, C, X, Y) one below the other, (1, C, X, N Y) in [0, 1]; matplotlib is slow with panels."""
    return ((torch.cat(list(images), dim=2) + clip) / (2 * clip)).clamp(0, 1)[None]


def _digest(data: TensorDataset) -> str:
    return data_digest(sorted({item[k] for item in data.data for k in ("image", "mask") if k in item}))
