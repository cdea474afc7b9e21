"""What a stress test costs: a 28-pixel classifier over MedMNIST-C at five severities, on PneumoniaMNIST.

    ROBUSTMED_DATA=... python benchmarks/bench_stress.py [--rounds 3] [--output FILE]

The 624 test images of PneumoniaMNIST, 13 corruptions at 5 severities, the classifier of ``bundles/risc``
(ResNet-18 of half width at 32 pixels), to report, card and JSON. The limit of 3 minutes on 2 cores is the
goal. The peer of the CPU time is the network alone, shown as many images. Without ``ROBUSTMED_DATA`` slices
of virtual heads take their place, which costs the same.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.timing import Work, brain_slices, interleaved, options, row, save
from robustmed_monai.apps.stress import Model, StressData, callable_model, make_suite, stress, tensor_data
from robustmed_monai.apps.stress.data import medmnist_data
from robustmed_monai.networks.risc import load_risc
from robustmed_monai.transforms.corruption.suite import CorruptionSuite
from robustmed_monai.transforms.rotation import to_square
from robustmed_monai.utils.bundle import bundle_root

COUNT, SIDE = 624, 28
LIMIT_S, CORES = 180.0, 2


def test_images(quick: bool) -> StressData:
    """PneumoniaMNIST's, or as many slices of virtual heads."""
    root = os.environ.get("ROBUSTMED_DATA")
    if root and not quick:
        return medmnist_data(Path(root) / "medmnist" / "pneumoniamnist.npz")
    images = brain_slices(8 if quick else COUNT, SIDE)
    return tensor_data(images, torch.arange(len(images)) % 2, "slices of virtual heads")


def classifier() -> Model:
    """The shipped one, as a function of 28-pixel images."""
    network = load_risc(Path(bundle_root("risc")) / "models" / "model.pt").classifier
    return callable_model(lambda images: network(to_square(images, 32)), "classifier")


def run(model: Model, data: StressData, suite: CorruptionSuite, folder: Path) -> None:
    """A whole stress test in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    stress(model, data, suite, folder)


def network_alone(model: Model, data: StressData, conditions: int) -> None:
    """The network on as many images, uncorrupted."""
    for _ in range(conditions):
        for views in data.batches(64):
            model.predict(views)


def counted(work: Work, spent: list[float]) -> Work:
    """A work that notes the CPU time of its process at each call."""

    def call() -> None:
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)

    return call


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results file."""
    chosen = options("stress", __doc__, 3, arguments)
    torch.set_num_threads(CORES)
    model, data = classifier(), test_images(chosen.quick)
    suite = make_suite(["medmnist_c:pneumoniamnist"], data, (5,) if chosen.quick else (1, 2, 3, 4, 5))
    conditions = len(suite.cases) + 1
    case = f"{data.name}, {len(data)} images, {conditions} conditions"
    cpu: dict[str, list[float]] = {"all": [], "network": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "stressed"
        works: dict[str, Work] = {
            "all": counted(partial(run, model, data, suite, folder), cpu["all"]),
            "network": counted(partial(network_alone, model, data, conditions), cpu["network"]),
        }
        seconds = interleaved(works, chosen.rounds)
        again = interleaved({"again": partial(stress, model, data, suite, folder)}, chosen.rounds)["again"]
    limit = [LIMIT_S] * chosen.rounds
    rows = [
        row(case, seconds["all"], limit, f"limit on {CORES} cores", "s", 1.0),
        row(f"{case}, CPU time", cpu["all"][1:], cpu["network"][1:], "network alone", "s", 1.0),
        row("run again, nothing left to measure", again, seconds["all"], "first run", "s", 1.0),
    ]
    save(chosen, rows, data=[{"name": data.name, "sha256": data.sha256, "split": data.split}])


if __name__ == "__main__":
    main()
