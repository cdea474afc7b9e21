"""The networks of the bundles on onnxruntime and as torch.export programs, beside torch, on one CPU thread.

    python benchmarks/bench_export.py [--rounds 15] [--output results.json]

A row is one batch through the graph image -> pred of a bundle (RISC: its classifier, half of its work), with
shipped weights where there are some, else those of the start, on which time does not depend. Times are CPU
times of the process, because the machine may be shared; the peer is torch in the same rounds. onnxruntime's
sessions are opened with one thread too: its other threads would wait by spinning, at the cost of CPU time.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.timing import Row, Work, options, row, same_numbers, save
from robustmed_monai.export import ExportedNetwork, example_inputs, export_network
from robustmed_monai.utils.weights import load_into

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
NAMES = ("ra", "unoranic", "risc", "pchvae")
TOLERANCE = 1e-4
log = logging.getLogger("benchmark")


def bundle_network(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Network of a bundle and an example input."""
    from monai.bundle import ConfigParser

    configs = BUNDLES / name / "configs"
    parser = ConfigParser()
    # RISC's inference.json takes the network's size from the weights; train.json names it.
    parser.read_config(configs / ("train.json" if name == "risc" else "inference.json"))
    parser.read_meta(configs / "metadata.json")
    network: nn.Module = parser.get_parsed_content("network_def")
    if name == "risc":
        # The corrected view is one pass through each of two such networks.
        network = network.classifier  # type: ignore[assignment]
    elif Path(weights := parser.get_parsed_content("weights")).is_file():
        load_into(network, weights)
    return network.eval(), example_inputs(parser["_meta_"])


def works(name: str, folder: Path, batch: int) -> dict[str, Work]:
    """One batch through torch and onnxruntime."""
    network, inputs = bundle_network(name)
    export_network(network, inputs, folder)
    images = [torch.rand(batch, *x.shape[1:]) for x in inputs.values()]
    graph = ExportedNetwork(folder)

    def in_torch() -> torch.Tensor:
        with torch.no_grad():
            answer: torch.Tensor = network(*images)
        return answer

    same_numbers(f"{name}, onnx", graph(*images), in_torch(), TOLERANCE)
    return {"torch": in_torch, "onnx": lambda: graph(*images)}


def cpu_seconds(sides: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of the process for each call, the sides in turn, after one call that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            start = time.process_time()
            sides[name]()
            if turn:
                seconds[name].append(time.process_time() - start)
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all cases and write the results file."""
    chosen = options("export", __doc__, 15, arguments)
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in NAMES[:1] if chosen.quick else NAMES:
        for batch in (1,) if chosen.quick else (1, 16):
            with tempfile.TemporaryDirectory() as folder:
                seconds = cpu_seconds(works(name, Path(folder), batch), chosen.rounds)
            rows.append(
                row(f"{name}, batch {batch}, onnxruntime", seconds["onnx"], seconds["torch"], "torch")
            )
    note: dict[str, Any] = {
        "time": "CPU time of the process; one thread of torch, one intra-op thread of onnxruntime"
    }
    save(chosen, rows, **note)


if __name__ == "__main__":
    main()
