"""What a full training costs on one CPU core, before anybody starts one: time of a step, times the steps.

    python benchmarks/bench_training.py [--steps 20] [--cases pchVAE CIFL]

Each case is a bundle's ``train.json`` with its overlays, its trainer without handlers, on images of noise of
the right size; CIFL makes its own. A step is measured in time of the processor with one thread, median of
``--steps`` (3 at least in ``LONGEST`` seconds) after two that do not count, so that other work on the machine
shows less. Validation and reading are left out.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.timing import RESULTS
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.utils.provenance import CHECKOUT, provenance, write_results

WARM_UP, FEWEST = 2, 3
LONGEST = 40.0  # seconds of a case, once it has its fewest steps
MEDIUM = [16, 32, 64, 128, 128]  # RA with 2.4 million weights; the compact one has 0.8, the published 29
log = logging.getLogger("benchmark")


class Case(NamedTuple):
    """A training: bundle, its configs, shape of an image (None: none is read), steps, and what is set."""

    bundle: str
    configs: tuple[str, ...]
    shape: tuple[int, int, int] | None
    steps: int
    settings: Mapping[str, Any] = MappingProxyType({})


PCHVAE = (1, 64, 64)
CASES = {
    # 1,001 epochs of 16 and of 73 batches.
    "unORANIC as published, RetinaMNIST": Case(
        "unoranic", ("train", "paper"), (3, 28, 28), 1001 * 16, {"amp": True}
    ),
    "unORANIC as published, PneumoniaMNIST": Case(
        "unoranic", ("train", "paper"), (1, 28, 28), 1001 * 73, {"amp": True}
    ),
    # 10 epochs of 80,000 slices in batches of 64.
    "pchVAE as published": Case("pchvae", ("train", "paper"), PCHVAE, 12_500),
    "chVAE as published": Case("pchvae", ("train", "chvae", "paper"), PCHVAE, 12_500),
    "High VAE as published": Case("pchvae", ("train", "high_vae", "paper"), PCHVAE, 12_500),
    "Low VAE as published": Case("pchvae", ("train", "low_vae", "paper"), PCHVAE, 12_500),
    "VQVAE-2 as published": Case("pchvae", ("train", "vqvae2", "paper"), PCHVAE, 12_500),
    "CIFL, paper.json": Case("cifl", ("train", "paper"), None, 40_000),
    "CIFL as shipped, 50,000 steps": Case("cifl", ("train",), None, 50_000),
    # 420 slices of IXI, 52 batches of 8.
    "RA as published, 1,500 epochs": Case("ra", ("train", "paper"), (1, 128, 128), 1500 * 52),
    "RA, medium width, 300 epochs": Case(
        "ra", ("train", "paper"), (1, 128, 128), 300 * 52, {"channels": MEDIUM}
    ),
}


def trainer_of(case: Case, output: str) -> Engine:
    """The trainer of a case, without handlers, on as many images of noise as four batches take."""
    files = [str(CHECKOUT / "bundles" / case.bundle / "configs" / f"{name}.json") for name in case.configs]
    settings: dict[str, Any] = {"device": torch.device("cpu"), "train#handlers": [], **case.settings}
    if case.shape:
        noise = torch.rand(256, *case.shape, generator=torch.Generator().manual_seed(0))
        settings["train#dataset"] = TensorDataset({"image": noise})
    if case.bundle == "unoranic" and case.shape:
        settings["in_channels"] = case.shape[0]
    workflow = ConfigWorkflow(files, logging_file=False, workflow_type="train", output_dir=output, **settings)
    workflow.initialize()
    trainer: Engine = workflow.parser.get_parsed_content("train#trainer")
    return trainer


def seconds_per_step(trainer: Engine, steps: int) -> list[float]:
    """Processor's time of each of some steps, after those of the warm-up."""
    marks: list[float] = []

    def mark(engine: Engine) -> None:
        marks.append(time.process_time())
        enough = len(marks) >= WARM_UP + FEWEST and marks[-1] - marks[0] > LONGEST
        if len(marks) == WARM_UP + steps or enough:
            engine.terminate()

    trainer.add_event_handler(Events.ITERATION_COMPLETED, mark)
    trainer.run()
    return [later - sooner for sooner, later in zip(marks[WARM_UP - 1 :], marks[WARM_UP:], strict=False)]


def rows_of(name: str, case: Case, seconds: list[float]) -> list[dict[str, Any]]:
    """Rows of the results file."""
    step = statistics.median(seconds)
    hours = step * case.steps / 3600
    found = {"ms_per_step": 1000 * step, "measured": len(seconds), "steps": case.steps, "hours": hours}
    return [{"row": name, "column": key, "mean": value, "std": 0.0, "n": 1} for key, value in found.items()]


def main() -> None:
    """Measure all cases, or those whose name begins with one that was given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cases", nargs="+", default=[""])
    parser.add_argument("--output", type=Path, default=RESULTS / "training.json")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("ignite").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name, case in CASES.items():
        if name.startswith(tuple(chosen.cases)):
            with tempfile.TemporaryDirectory() as output:
                rows += rows_of(name, case, seconds_per_step(trainer_of(case, output), chosen.steps))
            log.info("%s: %.0f ms a step, %.1f hours", name, rows[-4]["mean"], rows[-1]["mean"])
    write_results(chosen.output, rows, provenance())


if __name__ == "__main__":
    main()
