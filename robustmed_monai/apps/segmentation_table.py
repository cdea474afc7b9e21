"""The table of segmentation on contrasts never seen: networks trained on T1 alone, beside their rivals."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from robustmed_monai.engines.anomaly_study import summarize
from robustmed_monai.engines.segmentation_study import (
    SegmentationResult,
    evaluate_segmenter,
    paired_tests,
    segment,
    shown_contrasts,
)
from robustmed_monai.networks.on_features import OnFeatures, segmentation_unet
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from robustmed_monai.utils.weights import load_info, load_into
from robustmed_monai.visualize.figures import save_png
from robustmed_monai.visualize.grids import image_grid


class SegmentationTable:
    """Evaluates all rows for all seeds on every contrast of the test images.

    The weights say how their network is built, so rows may have features of different widths.

    Args:
        rows: row name to run name; rows whose run is not in ``runs`` are left out. A run that is no row's is
            a row by its own name.
        runs: run name to weights files, one per seed.
        test: test data with `image`, `label` and `subject` in ``tensors``.
        against: rows that the others are compared with in paired tests.
        num_classes: number of classes, the background among them.
        device: where the networks run.
        seed: seed of the contrasts that are drawn.
        amp: run the networks in bfloat16 autocast.

    Raises:
        ConfigError: when there is no run, or they have different numbers of seeds.
    """

    def __init__(
        self,
        rows: Mapping[str, str],
        runs: Mapping[str, Sequence[str]],
        test: Any,
        against: Sequence[str] = (),
        num_classes: int = 4,
        device: torch.device | str = "cpu",
        seed: int = 0,
        amp: bool = False,
    ) -> None:
        self.rows = rows_of_runs(rows, runs)
        self.runs = runs
        self.test = test
        self.against = against
        self.num_classes = num_classes
        self.device = device
        self.seed = seed
        self.amp = amp

    def run(self, output: str | os.PathLike[str], table: str, seeds: Sequence[int]) -> Path:
        """Evaluate and write ``<table>.json``, and ``<table>.png`` with one test image in every contrast.

        Args:
            output: folder to write into.
            table: name of the table.
            seeds: seeds of the weights, for the record.

        Returns:
            Path of the JSON. Its head holds ``paired_tests``.
        """
        folder, log = Path(output), logging.getLogger(__name__)
        images, labels = self.test.tensors["image"], self.test.tensors["label"]
        subjects = self.test.tensors["subject"]
        shown = shown_contrasts(images, labels, self.num_classes, self.seed)
        middle = len(images) // 2
        example = torch.cat([x[middle : middle + 1] for x in shown.values()])
        results: dict[str, list[SegmentationResult]] = {}
        repeated = labels[middle : middle + 1].expand(len(example), -1, -1, -1)
        columns = {"image": example, "labels": self._grey(repeated)}
        for row, run in self.rows.items():
            for number, file in enumerate(self.runs[run]):
                network = load_segmenter(file, self.num_classes).to(self.device)
                found = evaluate_segmenter(
                    network, shown, labels, subjects, self.num_classes, self.device, self.amp
                )
                results.setdefault(row, []).append(found)
                log.info(f"{table}, run {number + 1}, {row}: {_rounded(found.figures)}")
                if number == 0:
                    columns[row] = self._grey(segment(network, example, self.device))
        paths = sorted({item[key] for item in self.test.data for key in ("image", "label")})
        data = [{"name": table, "sha256": data_digest(paths), "split": "test"}]
        head = provenance(seeds=seeds, data=data, device=str(self.device))
        head["paired_tests"] = paired_tests(results, self.against)
        path = write_results(folder / f"{table}.json", summarize(cast(Any, results)), head)
        save_png(image_grid(columns, list(shown)), folder / f"{table}.png")
        log.info(f"results are in {path}")
        return path

    def _grey(self, classes: torch.Tensor) -> torch.Tensor:
        return classes.float() / (self.num_classes - 1)


def rows_of_runs(
    rows: Mapping[str, str], runs: Mapping[str, Sequence[str]], may_be_empty: bool = False
) -> dict[str, str]:
    """Rows of a table to their runs: the named rows that have one, then runs by names of the user's own.

    Args:
        rows: row name to run name.
        runs: run name to weights files, one per seed.
        may_be_empty: accept that there is no run.

    Raises:
        ConfigError: when there is no run, or they have different numbers of seeds.
    """
    counts = {name: len(files) for name, files in runs.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values() or not (counts or may_be_empty):
        raise ConfigError(
            f"runs: found {counts} weights; give as many, one per seed, for some of "
            f"{sorted(set(rows.values()))}, or for runs by names of your own."
        )
    found = {row: run for row, run in rows.items() if run in runs}
    return found | {run: run for run in runs if run not in rows.values()}


def load_segmenter(weights: str | os.PathLike[str], num_classes: int | None = None) -> OnFeatures:
    """Network of a weights file of ``bundles/cifl_segmentation``, built as its ``info`` says.

    Args:
        weights: the file.
        num_classes: expected number of classes; None takes what the file says.

    Raises:
        ConfigError: when it was trained with another number of classes.
        WeightsError: when the file is missing, altered or no segmentation network of this package.
    """
    info = load_info(weights)
    count = int(info.get("num_classes", 4))
    if num_classes not in (None, count):
        raise ConfigError(f"{weights}: trained with {count} classes, not {num_classes}; give --num_classes.")
    network = segmentation_unet(count, info.get("channels", (16, 32, 64, 128)), info.get("features"))
    load_into(network, weights)
    return network


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {column: round(value, 4) for column, value in figures.items()}
