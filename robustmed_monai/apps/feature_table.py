"""The table of features: how far they follow the anatomy and not the contrast, beside hand-made controls."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from monai.engines import SupervisedEvaluator
from torch import nn

from robustmed_monai.apps.segmentation_table import rows_of_runs
from robustmed_monai.engines.anomaly_study import summarize
from robustmed_monai.engines.views import StackViews
from robustmed_monai.handlers.cifl import InvarianceHandler
from robustmed_monai.networks.cifl import CIFL
from robustmed_monai.networks.on_features import feature_settings
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from robustmed_monai.utils.weights import load_info, load_into


class FeatureResult(NamedTuple):
    """Figures by column; the interval of none is known, as the images of a batch depend on each other."""

    figures: dict[str, float]
    intervals: dict[str, list[float]]


class FeatureTable:
    """Measures all rows on the same views, by the figures that a training logs.

    The weights say how their network is built, so rows may differ in width and depth.

    Args:
        rows: row name to run name; rows whose run is not in ``runs`` are left out. A run that is no row's is
            a row by its own name.
        runs: run name to weights files of ``bundles/cifl``, one per seed.
        batches: views to measure on, see ``data.invariance_views``.
        items: items of the data that the views come from, for the digest.
        controls: rows that need no training: name to module, image (B, 1, *spatial) to features.
        crop: voxels left out at each border, the same for all rows.
        device: where the networks run.

    Raises:
        ConfigError: when there is no run, or they have different numbers of seeds.
    """

    def __init__(
        self,
        rows: Mapping[str, str],
        runs: Mapping[str, Sequence[str]],
        batches: Sequence[Mapping[str, Any]],
        items: Sequence[Mapping[str, Any]],
        controls: Mapping[str, nn.Module] | None = None,
        crop: int = 8,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rows = rows_of_runs(rows, runs)
        self.runs = runs
        self.batches = batches
        self.items = items
        self.controls = dict(controls or {})
        self.crop = crop
        self.device = torch.device(device)

    def run(self, output: str | os.PathLike[str], table: str, seeds: Sequence[int]) -> Path:
        """Measure and write ``<table>.json``.

        Args:
            output: folder to write into.
            table: name of the table.
            seeds: seeds of the weights, for the record.

        Returns:
            Path of the JSON. Its columns are those of ``InvarianceHandler``; one channel has no overlap.
        """
        log = logging.getLogger(__name__)
        results: dict[str, list[FeatureResult]] = {}
        for row in (*self.controls, *self.rows):
            for number, network in enumerate(self._networks_of(row)):
                found = self._measure(network)
                results.setdefault(row, []).append(found)
                figures = {column: round(value, 4) for column, value in found.figures.items()}
                log.info(f"{table}, run {number + 1}, {row}: {figures}")
        paths = sorted({item[key] for item in self.items for key in ("image", "label") if key in item})
        data = [{"name": table, "sha256": data_digest(paths), "split": "test"}]
        head = provenance(seeds=seeds, data=data, device=str(self.device))
        path = write_results(Path(output) / f"{table}.json", summarize(cast(Any, results)), head)
        log.info(f"results are in {path}")
        return path

    def _networks_of(self, row: str) -> Iterator[nn.Module]:
        if row in self.controls:
            yield self.controls[row]
        else:
            yield from (load_feature_net(file) for file in self.runs[self.rows[row]])

    def _measure(self, network: nn.Module) -> FeatureResult:
        evaluator = SupervisedEvaluator(
            device=self.device,
            val_data_loader=cast(Any, self.batches),
            network=network.to(self.device),
            prepare_batch=StackViews(("image", "image_2", "inverted")),
            val_handlers=[InvarianceHandler(self.crop)],
            decollate=False,
        )
        evaluator.run()
        metrics = {k: float(v) for k, v in evaluator.state.metrics.items()}
        return FeatureResult({k: v for k, v in metrics.items() if math.isfinite(v)}, {})


def load_feature_net(weights: str | os.PathLike[str]) -> CIFL:
    """Network of a weights file of ``bundles/cifl``, built as its ``info`` says.

    Raises:
        WeightsError: when the file is missing, altered or no CIFL network.
    """
    spatial_dims = int(load_info(weights).get("spatial_dims", 2))
    network = CIFL(spatial_dims=spatial_dims, **feature_settings(weights) or {})
    load_into(network, weights)
    return network
