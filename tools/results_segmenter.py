"""Tables of the anomaly segmenter, alone and times the memory, by one command: train, fill, evaluate.

    ROBUSTMED_DATA=... python tools/results_segmenter.py [--datasets ixi lgg] [--output out/...]

The first segmenter is trained on artificial anomalies in slices of IXI alone, as the memory with grey values
is filled with them; their product was chosen on lesions drawn into the 44 validation slices. The second has
seen IXI and OASIS with random scanners and more steps, and stands beside the shipped memory without its own
outline: the product is the same. A last one is no rival but a bound: it has been taught the very lesions that
the test draws, in the training slices. The tables are copied to ``bundles/feature_memory/docs/results``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.data.slice_dataset import identity_collate
from robustmed_monai.inferers import MemoryInferer
from robustmed_monai.metrics.feature_memory import load_memory
from robustmed_monai.metrics.ra import Detector, load_detector, measure_detector
from robustmed_monai.metrics.result import summarize
from robustmed_monai.networks import AnomalySegmenter
from robustmed_monai.transforms import RandLesion
from robustmed_monai.transforms.adapters import Batch, BatchTransform
from robustmed_monai.transforms.params import Params, Shape
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from tools.results_common import keep, log, options
from tools.results_maps import WEIGHTS, images_of
from tools.results_memory import fill, prepare, segmenter, segmenter_of_scanners

# The share that is left of the memory's map where the segmenter sees nothing, and the power of the sum.
FLOOR, POWER = 0.01, 0.25
TABLES = {"ixi": "segmenter", "lgg": "segmenter_lgg"}


class BatchDrawnLesions(BatchTransform):
    """Draws lesions as the test's into `image`, where they lie into `label`; a quarter stays healthy."""

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw a seed and a share for each image."""
        return {
            "seed": torch.randint(2**31, shape[:1], generator=generator),
            "share": torch.rand(shape[0], generator=generator),
        }

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with lesions; an image without a place for one stays healthy."""
        draw = RandLesion(prob=1.0)
        images, labels = [], []
        for image, seed, share in zip(batch["image"], params["seed"], params["share"], strict=True):
            drawn = (image, torch.zeros_like(image))
            draw.set_random_state(int(seed))
            if share > 0.25:
                with contextlib.suppress(DataError):
                    drawn = draw(image)
            images.append(drawn[0])
            labels.append(drawn[1])
        return {**batch, "image": torch.stack(images), "label": torch.stack(labels)}


def product(memory: Detector, segmenter: Detector) -> Detector:
    """The memory's map times a power of the segmenter's."""

    def detect(images: torch.Tensor) -> dict[str, torch.Tensor]:
        probability = segmenter(images)["anomaly_map"]
        return {"anomaly_map": memory(images)["anomaly_map"] * (probability + FLOOR) ** POWER}

    return detect


def detectors(data: dict[str, Path], output: Path) -> dict[str, Callable[[], Detector]]:
    """Train and fill; return what makes the detector of each row."""
    own = segmenter("ixi", [], data, output, max_epochs=16, val_interval=4)
    both = segmenter_of_scanners(data, output)
    drawn = {"anomalies#_target_": "tools.results_segmenter.BatchDrawnLesions"}
    taught = segmenter("ixi", [], data, output, "taught", max_epochs=120, val_interval=20, **drawn)
    grey = fill(data["ixi"], output, grey=True)[0]

    def alone(weights: str) -> Detector:
        return load_detector(weights, AnomalySegmenter(), MemoryInferer())

    def multiplied(memory: str, weights: str) -> Detector:
        return product(load_memory(memory, MemoryInferer(), outline=0.0), alone(weights))

    return {
        "segmenter": lambda: alone(own),
        "memory, IXI, grey values, times segmenter": lambda: multiplied(grey, own),
        "segmenter, IXI and OASIS": lambda: alone(both),
        "memory, both sides, times that": lambda: multiplied(WEIGHTS, both),
        "segmenter, taught the lesions of the test": lambda: alone(taught),
    }


def main() -> None:
    """Run all steps."""
    chosen = options("feature_memory", __doc__, list(TABLES))
    data = prepare(chosen.source, chosen.output, ("ixi", "frame", *chosen.datasets))
    rows = detectors(data, chosen.output)
    healthy, *tested = (
        DataLoader(images_of(data[name], section), batch_size=32, collate_fn=identity_collate)
        for name, section in (("ixi", "validation"), *((name, "test") for name in chosen.datasets))
    )
    for name, images in zip(chosen.datasets, tested, strict=True):
        made = []
        for row, detector in rows.items():
            made += summarize({row: [measure_detector(detector(), healthy, images)]})
            log.info("%s: %s", name, made[-1]["row"])
        digest = data_digest(sorted((data[name] / "images").glob("*.png")))
        head = provenance(data=[{"name": name, "sha256": digest, "split": "test"}])
        keep("feature_memory", write_results(chosen.output / "tables" / f"{TABLES[name]}.json", made, head))


if __name__ == "__main__":
    main()
