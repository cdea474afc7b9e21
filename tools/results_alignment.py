"""How well heads are aligned to the template: Dice of the outline of the brain.

    ROBUSTMED_DATA=... python tools/results_alignment.py

Data: ``heads_2mm`` (16 heads, T1, FLAIR, DLMUSE labels of the T1; label > 0 is the inside of the skull); the
thresholds of the method were chosen on six of them. Each head is aligned alone; its outline, carried into the
frame, is compared with that of the template's brain. The row "T1, stripped" holds the T1 without all that
lies outside of the outline. T1 and FLAIR of some people lie more than a centimetre apart in their common
world: "FLAIR" takes the outline after a rigid registration of both images, "FLAIR, as they lie" takes it as
it is. Seconds are processor time of one thread.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.metrics.bootstrap import bootstrap_mean
from robustmed_monai.transforms.alignment import resample_to
from robustmed_monai.transforms.head_alignment import align_head
from robustmed_monai.transforms.template_head import template_head
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from tools.results_common import keep, log, options
from tools.results_heads import rigid

# The template's brain ends this far outside of its surface, mm: sulci and a film of fluid.
OUTLINE = 1.0
Array = Any


def overlap(inside: Array, affine: Array, matrix: Array) -> float:
    """Dice of an outline, carried into the frame, and that of the template's brain."""
    head = template_head()
    carried = (
        resample_to(inside[None].astype(np.float32), affine, head.image.shape, head.affine, matrix)[0] > 0.5
    )
    brain = head.distance < OUTLINE
    return float(2 * (carried & brain).sum() / (carried.sum() + brain.sum()))


def measure(source: Path, name: str) -> dict[str, dict[str, float]]:
    """Dice, seconds and whether it was refused, of each row, of one person."""
    images = {c: nib.load(source / c / f"{name}.nii.gz") for c in ("t1", "flair", "dlmuse")}
    voxels = {key: np.asarray(image.dataobj, np.float32) for key, image in images.items()}
    inside, affine = voxels["dlmuse"] > 0, images["t1"].affine
    moved = rigid(images["flair"], images["t1"])
    heads = {
        "T1": (voxels["t1"], affine, np.eye(4)),
        "T1, stripped": (voxels["t1"] * inside, affine, np.eye(4)),
        "FLAIR": (voxels["flair"], images["flair"].affine, moved),
    }
    figures = {}
    for row, (values, where, onward) in heads.items():
        started = time.process_time()
        found = align_head(values, where)
        seconds = time.process_time() - started
        refused = float(found.doubt is not None)
        figures[row] = {
            "brain_dice": overlap(inside, images["dlmuse"].affine, onward @ found.matrix),
            "seconds": seconds,
            "refused": refused,
        }
        if row == "FLAIR":
            unmoved = overlap(inside, images["dlmuse"].affine, found.matrix)
            figures["FLAIR, as they lie"] = {**figures[row], "brain_dice": unmoved}
    return figures


def rows(people: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """The rows of the table: means over people with intervals, and the extremes."""
    made = []
    for row in next(iter(people.values())):
        entry = {"row": row, "std": 0.0, "n": 1}  # one run
        for column in ("brain_dice", "seconds", "refused"):
            values = np.array([figures[row][column] for figures in people.values()])
            mean = {"mean": float(values.mean()), "ci95": bootstrap_mean(values).ci95}
            made.append({**entry, "column": column, **mean})
            if column == "brain_dice":
                made.append({**entry, "column": "brain_dice_lowest", "mean": float(values.min())})
            if column == "seconds":
                made.append({**entry, "column": "seconds_longest", "mean": float(values.max())})
    return made


def main() -> None:
    """Align, measure, write ``alignment.json``."""
    chosen = options("ra", __doc__, ("heads_2mm",))
    source = chosen.source / "heads_2mm"
    head = template_head()
    align_head(head.image, head.affine)  # what is made once does not count
    people = {}
    for path in sorted((source / "t1").glob("*.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        people[name] = measure(source, name)
        log.info("%s %s", name, {row: round(v["brain_dice"], 3) for row, v in people[name].items()})
    data = [{"name": "heads_2mm", "sha256": data_digest(source), "split": "test"}]
    keep("ra", write_results(chosen.output / "alignment.json", rows(people), provenance(data=data)))


if __name__ == "__main__":
    main()
