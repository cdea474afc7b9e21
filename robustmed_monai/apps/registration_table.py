"""The table of registration across contrasts: networks trained on T1 pairs, beside rivals and controls."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from monai.networks.utils import eval_mode

from robustmed_monai.apps.segmentation_table import rows_of_runs
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.engines.anomaly_study import summarize
from robustmed_monai.engines.registration_study import (
    SHOWN_PAIRS,
    Register,
    RegistrationResult,
    evaluate_registration,
)
from robustmed_monai.engines.segmentation_study import paired_tests, shown_contrasts
from robustmed_monai.networks.registration import load_registration_net
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.grids import image_grid


class RegistrationTable:
    """Evaluates all rows for all seeds on the same pairs, the fixed image in every contrast.

    The weights say how their network is built, so rows may differ in features and backbone.

    Args:
        rows: row name to run name; rows whose run is not in ``runs`` are left out. A run that is no row's is
            a row by its own name.
        runs: run name to weights files, one per seed.
        pairs: test pairs, see ``data.pairs.fixed_pairs``.
        methods: rows that need no training: name to (moving, fixed) to `ddf`.
        against: rows that the others are compared with in paired tests.
        num_classes: number of classes, the background among them.
        device: where the networks run.
        batch_size: pairs at once.
        seed: seed of the contrasts that are drawn.
        amp: run the networks in bfloat16 autocast.

    Raises:
        ConfigError: when there is no row, or the runs have different numbers of seeds.
    """

    def __init__(
        self,
        rows: Mapping[str, str],
        runs: Mapping[str, Sequence[str]],
        pairs: TensorDataset,
        methods: Mapping[str, Register] | None = None,
        against: Sequence[str] = (),
        num_classes: int = 4,
        device: torch.device | str = "cpu",
        batch_size: int = 16,
        seed: int = 0,
        amp: bool = False,
    ) -> None:
        self.rows = rows_of_runs(rows, runs, may_be_empty=bool(methods))
        self.runs = runs
        self.pairs = pairs
        self.methods = dict(methods or {})
        self.against = against
        self.num_classes = num_classes
        self.device = device
        self.batch_size = batch_size
        self.seed = seed
        self.amp = amp

    def run(self, output: str | os.PathLike[str], table: str, seeds: Sequence[int]) -> Path:
        """Evaluate and write ``<table>.json`` and ``<table>_<contrast>.png`` for each contrast.

        Args:
            output: folder to write into.
            table: name of the table.
            seeds: seeds of the weights, for the record.

        Returns:
            Path of the JSON. Its head holds ``paired_tests`` over the pairs.
        """
        folder, log = Path(output), logging.getLogger(__name__)
        tensors = self.pairs.tensors
        shown = shown_contrasts(tensors["fixed"], tensors["fixed_label"], self.num_classes, self.seed)
        results: dict[str, list[RegistrationResult]] = {}
        for row in (*self.methods, *self.rows):
            for number, register in enumerate(self._runs_of(row)):
                found = evaluate_registration(
                    register, tensors, shown, self.num_classes, self.device, self.batch_size, self.amp, row
                )
                results.setdefault(row, []).append(found)
                figures = {column: round(value, 4) for column, value in found.figures.items()}
                log.info(f"{table}, run {number + 1}, {row}: {figures}")
        paths = sorted({item[key] for item in self.pairs.data for key in ("image", "label")})
        data = [{"name": table, "sha256": data_digest(paths), "split": "test"}]
        head = provenance(seeds=seeds, data=data, device=str(self.device))
        head["pairs"] = len(self.pairs)
        head["paired_tests"] = paired_tests(cast(Any, results), self.against)
        path = write_results(folder / f"{table}.json", summarize(cast(Any, results)), head)
        for contrast, fixed in shown.items():
            moved = {row: runs[0].moved[contrast] for row, runs in results.items()}
            save_png(self._sheet(fixed, moved), folder / f"{table}_{contrast}.png")
        log.info(f"results are in {path}")
        return path

    def _runs_of(self, row: str) -> Iterator[Register]:
        if row in self.methods:
            yield self.methods[row]
        else:
            yield from (self._network(file) for file in self.runs[self.rows[row]])

    def _network(self, file: str) -> Register:
        network = load_registration_net(file).to(self.device)

        def register(moving: torch.Tensor, fixed: torch.Tensor) -> dict[str, torch.Tensor]:
            with eval_mode(network):
                found: dict[str, torch.Tensor] = network(moving, fixed, inverse=False)
            return found

        return register

    def _sheet(self, fixed: torch.Tensor, moved: Mapping[str, torch.Tensor]) -> Any:
        columns = {
            "moving": self.pairs.tensors["moving"][:SHOWN_PAIRS],
            "fixed": fixed[:SHOWN_PAIRS],
            **moved,
        }
        # Of volumes the middle slice.
        flat = {k: v if v.ndim == 4 else v[..., v.shape[-1] // 2] for k, v in columns.items()}
        return image_grid(flat)
