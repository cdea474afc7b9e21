"""RA on a whole volume, from the input file to the written maps: the bundle's command, and inside a process.

    [ROBUSTMED_DATA=folder] python benchmarks/bench_volume.py [--rounds 5] [--device cpu] [--output FILE]

The volume is a virtual subject of 128 x 128 x 80 voxels and, where ROBUSTMED_DATA names the folder of the
real images, the T1 volume of the stroke patient in it (124 x 160 x 140). The weights are those of the bundle;
where it has none, random ones are calibrated and used, which takes the same time.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from monai.data.image_reader import NibabelReader
from monai.data.meta_tensor import MetaTensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.bench_anomaly_map import PEER, WEIGHTS, PerImageMap
from benchmarks.timing import (
    COMPACT,
    Row,
    Watched,
    Work,
    brain_slices,
    interleaved,
    memory_rows,
    options,
    peak_memory,
    row,
    same_numbers,
    save,
    watch,
)
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.data.virtual_subjects import AFFINE, virtual_subject
from robustmed_monai.inferers.ra import AnomalyMapInferer
from robustmed_monai.metrics.ra import calibrate_weights
from robustmed_monai.networks.ra import ReversedAutoEncoder
from robustmed_monai.transforms import training_statistics
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.utils.files import read_json
from robustmed_monai.utils.provenance import CHECKOUT, data_digest
from robustmed_monai.utils.weights import save_weights

INFERENCE = CHECKOUT / "bundles/ra/configs/inference.json"
LIMIT = 30.0  # seconds, for the stroke volume on two cores: the goal of the project's issue 2


def write_volume(path: Path, slices: int | None = None) -> Path:
    """Write a virtual subject, or some slices of it, as NIfTI in 8 bits."""
    image = virtual_subject(0, 0).image
    if slices is not None:
        image = image[:, :, 40 : 40 + slices]
    nib.save(nib.Nifti1Image(np.rint(image * 255).astype(np.uint8), AFFINE), path)
    return path


def ready_weights(folder: Path) -> Path:
    """The bundle's weights, or calibrated random ones in ``folder``."""
    if WEIGHTS.is_file():
        return WEIGHTS
    path = folder / "model.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ReversedAutoEncoder(**COMPACT)
    data = TensorDataset({"image": brain_slices(16)})
    statistics = training_statistics(data.tensors["image"])
    save_weights(network.state_dict(), path, {"training_statistics": statistics})
    calibrate_weights(network, str(path), AnomalyMapInferer(), [data.tensors])
    return path


def loading(volume: Path) -> dict[str, Work]:
    """The works 'read': our checked reader, and MONAI's reader alone."""
    reader = NibabelReader()

    def plain() -> None:
        values, meta = reader.get_data(reader.read(str(volume)))
        MetaTensor.ensure_torch_and_prune_meta(values.astype(np.float32), meta)

    return {"ours": partial(LoadCheckedImage(), str(volume)), "MONAI's reader": plain}


def apply(volume: Path, weights: Path, output: Path, device: str, per_image: bool) -> Work:
    """The work 'file to files' inside this process: read, reconstruct, compare, write; weights included."""
    layers: Any = AnomalyMapInferer().layers or range(len(COMPACT["channels"]))
    peer: dict[str, Any] = {"slicewise#inferer": PerImageMap(True, layers)} if per_image else {}
    # The weights are of other heads: slices that would be left out for it count as well.
    peer["postprocessing#transforms#0#refuse"] = False
    places = {"input": str(volume), "weights": str(weights), "output_dir": str(output)}
    settings: dict[str, Any] = {**places, **peer, "device": torch.device(device)}

    def work() -> None:
        # A result that is there already would be kept.
        shutil.rmtree(output, ignore_errors=True)
        workflow = ConfigWorkflow([str(INFERENCE)], logging_file=False, workflow_type="infer", **settings)
        workflow.initialize()
        workflow.run()
        workflow.finalize()

    return work


def command(volume: Path, weights: Path, output: Path, device: str) -> Watched:
    """The same by the command that a user types, in a new process."""
    places = ["--input", volume, "--weights", weights, "--output_dir", output]
    words = ["-m", "monai.bundle", "run", "--config_file", INFERENCE, *places]
    return watch([sys.executable, *map(str, words), "--device", f"$torch.device('{device}')"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results file."""
    chosen = options("volume", __doc__, 5, arguments)
    data = os.environ.get("ROBUSTMED_DATA")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = ready_weights(folder)
        volumes = {"virtual subject": write_volume(folder / "virtual.nii.gz", 4 if chosen.quick else None)}
        head: dict[str, Any] = {"weights": "shipped" if weights == WEIGHTS else "random"}
        if data and not chosen.quick:
            stroke = Path(data) / "stroke/T1.nii.gz"
            volumes["stroke T1"] = stroke
            head["data"] = [{"name": "stroke T1", "sha256": data_digest(stroke), "split": "shown"}]
        rows = []
        for title, volume in volumes.items():
            rows += _rows(title, volume, weights, folder / title.replace(" ", "-"), chosen)
    save(chosen, rows, seeds=[0], **head)


def _rows(title: str, volume: Path, weights: Path, output: Path, chosen: Any) -> list[Row]:
    device, rounds = chosen.device, chosen.rounds
    build = partial(apply, volume, weights)
    works = {
        "ours": build(output / "ours", device, False),
        PEER: build(output / "peer", device, True),
    }
    seconds = interleaved(works, rounds, device)
    score, expected = (_score(output / side) for side in ("ours", "peer"))
    same_numbers(f"score of {title}", score, expected, 0.01 * float(expected))
    rows = [row(f"{title}, in process", seconds["ours"], seconds[PEER], PEER, "s", 1.0)]
    if chosen.quick:
        return rows
    read = interleaved(loading(volume), 3 * rounds, "cpu")
    rows.append(row(f"{title}, read", read["ours"], read["MONAI's reader"], "MONAI's reader"))
    runs = [command(volume, weights, output / f"command-{i}", device) for i in range(rounds)]
    took, peaks = ([run[k] for run in runs] for k in (0, 1))
    imports = watch([sys.executable, "-c", "import monai.bundle, robustmed_monai.engines.file_evaluator"])
    ours, peer = (
        peak_memory(apply, volume, weights, output / "memory", device, side, device=device)
        for side in (False, True)
    )
    return [
        *rows,
        row(f"{title}, by command", took, [LIMIT], "limit on 2 cores", "s", 1.0),
        *memory_rows(f"{title}, in process", ours, peer, PEER),
        row(f"{title}, by command, peak memory", peaks, [imports.peak], "imports alone", "MiB", 1.0),
    ]


def _score(output: Path) -> torch.Tensor:
    return torch.tensor(read_json(output / "summary.json")["images"][0]["score"])


if __name__ == "__main__":
    main()
