"""The table of whole heads: T1 and FLAIR of the same people, segmented file to file.

    ROBUSTMED_DATA=... python tools/results_heads.py [--datasets mixture network]

Data: ``heads_2mm`` (16 heads, T1, FLAIR, DLMUSE labels of the T1); nothing was trained on it. The settings
of the mixture were chosen with the heads in ``SEEN`` at hand: the second row of the table leaves them out.
DLMUSE's regions become CSF, grey and white matter; the brain is all of them. Ventricles, cerebellum and
brainstem are parts of these, with columns of their own. T1 and FLAIR of some people lie more than a
centimetre apart in their common world, so the labels are carried to the FLAIR by a rigid registration of
the two images; the columns ``flair_..._unmoved`` take them as they lie.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from robustmed_monai.metrics.bootstrap import bootstrap_mean
from robustmed_monai.transforms.alignment import affine_matrix, resample_to, to_itk
from robustmed_monai.utils.provenance import data_digest, provenance, write_results
from tools.results_common import bundle, keep, log, options

ROWS = {"mixture": ["inference", "whole_head"], "network": ["inference"]}
NAMES = {"mixture": "mixture with U-Net", "network": "CIFL network by slices"}
SEEN = ("sub-01", "sub-05", "sub-09", "sub-13")
TISSUES = {"csf": 1, "grey": 2, "white": 3}
# Classes of TissueMixture beyond the tissues, and DLMUSE's regions of them: without cerebellum and brainstem,
# all that is neither fluid nor white matter is the cerebrum's grey matter.
PARTS = {"ventricles": (4,), "cerebellum": (5, 6), "brainstem": (7,)}
REGIONS = {
    1: (1, 46),
    3: (69, *range(81, 96)),
    4: (4, 11, 49, 50, 51, 52),
    5: (38, 39, 71, 72, 73),
    6: (40, 41),
    7: (35,),
}
# The tissue of each class.
_TISSUE = np.array([0, 1, 2, 3, 1, 2, 3, 3])
Array = Any


def classes(regions: Array) -> Array:
    """Classes of DLMUSE's regions, numbered as those of ``TissueMixture``; 0 is beyond the skull."""
    found = np.where(regions > 0, TISSUES["grey"], 0)
    for number, of_class in REGIONS.items():
        found[np.isin(regions, of_class)] = number
    return found


def tissues(of_classes: Array) -> Array:
    """0 beyond the skull, 1 CSF, 2 grey, 3 white matter of the classes of ``TissueMixture``."""
    found: Array = _TISSUE[np.asarray(of_classes, np.int64)]
    return found


def dice(found: Array, true: Array) -> dict[str, float]:
    """Dice of the brain (any class), of each tissue, and of the parts that are found."""
    pairs = {"brain": (found > 0, true > 0)}
    for name, numbers in PARTS.items():
        if np.isin(found, numbers).any():
            pairs[name] = (np.isin(found, numbers), np.isin(true, numbers))
    found, true = tissues(found), tissues(true)
    pairs |= {name: (found == number, true == number) for name, number in TISSUES.items()}
    return {k: float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1)) for k, (a, b) in pairs.items()}


def rigid(fixed: Any, moving: Any) -> Array:
    """4x4 matrix from world points of one NIfTI image to those of another, by mutual information."""
    import SimpleITK

    start = SimpleITK.Euler3DTransform()
    method = SimpleITK.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.05, 1)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 60)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, True)
    method.Execute(*(to_itk(np.asarray(i.dataobj), i.affine) for i in (fixed, moving)))
    return affine_matrix(start, 3)


def shift(matrix: Array) -> float:
    """How far a 4x4 matrix of world points moves the middle of the brain, mm."""
    middle = np.array([0, -18, 10, 1])
    return float(np.linalg.norm((matrix @ middle - middle)[:3]))


def measure(source: Path, results: Path, name: str) -> dict[str, float]:
    """Dice of one person's T1 and FLAIR."""
    regions: Any = nib.load(source / "dlmuse" / f"{name}.nii.gz")
    true = classes(np.asarray(regions.dataobj))[None].astype(np.float32)
    images: dict[str, Any] = {c: nib.load(source / c / f"{name}.nii.gz") for c in ("t1", "flair")}
    moved = rigid(images["flair"], images["t1"])
    figures = {}
    for column, contrast, matrix in (("t1", "t1", None), ("flair", "flair", moved), ("", "flair", None)):
        labels: Any = nib.load(results / contrast / name / "labels.nii.gz")
        carried = resample_to(true, regions.affine, labels.shape, labels.affine, matrix, order=0)[0]
        for key, value in dice(np.asarray(labels.dataobj), carried).items():
            figures[f"{column}_{key}" if column else f"flair_{key}_unmoved"] = value
    figures["flair_shift"] = shift(moved)
    return figures


def rows(row: str, people: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The rows of the table: mean over people, its interval, and the lowest brain."""
    made = []
    for column in next(iter(people.values())):
        values = np.array([figures[column] for figures in people.values()])
        entry = {"row": row, "column": column, "std": 0.0, "n": 1}  # one run
        made.append({**entry, "mean": float(values.mean()), "ci95": bootstrap_mean(values).ci95})
        if column.endswith("brain"):
            made.append({**entry, "column": f"{column}_lowest", "mean": float(values.min())})
    return made


def main() -> None:
    """Segment, measure, write ``heads.json``."""
    chosen = options("cifl_segmentation", __doc__, tuple(ROWS))
    source = chosen.source / "heads_2mm"
    names = sorted(path.name.removesuffix(".nii.gz") for path in (source / "t1").glob("*.nii.gz"))
    table: list[dict[str, Any]] = []
    for row in chosen.datasets:
        results = chosen.output / "heads" / row
        for contrast in ("t1", "flair"):
            bundle("cifl_segmentation", ROWS[row], input=source / contrast, output_dir=results / contrast)
        people = {name: measure(source, results, name) for name in names}
        for name, figures in people.items():
            log.info("%s %s %s", row, name, {k: round(v, 3) for k, v in figures.items()})
        table += rows(NAMES[row], people)
        table += rows(f"{NAMES[row]} (12 unseen heads)", {k: v for k, v in people.items() if k not in SEEN})
    data = [{"name": "heads_2mm", "sha256": data_digest(source), "split": "test"}]
    path = write_results(chosen.output / "heads.json", table, provenance(data=data))
    keep("cifl_segmentation", path)


if __name__ == "__main__":
    main()
