"""LGG MRI (TCGA-LGG, Buda): T1 slices with tumour masks against tumour-free slices, matched by position.

Reads an npz with one row per axial slice: ``t1pre`` and ``mask`` (N, rows, columns) uint8, ``pre_is_flair``
(N,), ``case_index`` (N,), ``slice_number`` (N,) and ``cases`` (names). It is a test set: training and
validation are empty.

What is chosen, and why:

* cases without a T1 of their own (``pre_is_flair``) are dropped;
* intensities of a patient are divided by one percentile of all his slices, so healthy and tumour slices
  share a scale;
* the heads of a patient are cropped by one box and enlarged so that it fills ``head_height`` of the image, as
  heads do in MNI space, where the healthy slices (IXI) are (0 leaves the frame of the scanner);
* only slices at a relative position of 0.45 to 0.75 (0 = lowest, 1 = highest slice of the volume) are
  taken: there lie the lateral ventricles, as in the mid slices of IXI;
* only patients with a tumour slice and a tumour-free slice in that range are taken;
* each tumour slice (more than 10 mask pixels) is paired with at most one tumour-free slice (no mask pixel),
  both at the same relative position within ``caliper``, so that as many pairs as possible with the least
  difference are formed. The partner may be another patient's: pairs within a patient cannot be matched,
  since a tumour sits at one place.

The AUROC of the relative position and of its distance from the mean, tumour against tumour-free, are in the
report's notes; both should be 0.5. (On all slices position alone reaches .62 and its distance from the mean
.81.)
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source
from robustmed_monai.data_prep.pixels import percentile_scale
from robustmed_monai.transforms.load import read_npz_arrays
from robustmed_monai.utils.errors import ConfigError, DataError

SOURCE = Source(
    name="lgg",
    license="CC BY-NC-SA 4.0, LGG segmentation set (Buda et al. 2019), TCGA-LGG",
    description="Lower-grade glioma, T1 before contrast, mid axial slices with masks of the abnormality.",
)
ARRAYS = ("t1pre", "mask", "pre_is_flair", "case_index", "slice_number", "cases")
IMPOSSIBLE = 1e3

Indices = NDArray[np.intp]
Values = NDArray[np.float64]


def prepare(
    source: Path,
    output: Path,
    low: float = 0.45,
    high: float = 0.75,
    caliper: float = 0.01,
    percentile: float = 99.5,
    min_pixels: int = 10,
    head_height: float = 0.88,
    strict: bool = False,
) -> Path:
    """Prepare the LGG slices.

    Args:
        source: the npz.
        output: folder to write.
        low: lowest relative position, in [0, 1].
        high: highest relative position, in [0, 1].
        caliper: largest difference of relative position within a pair.
        percentile: percentile of a patient's volume that becomes 1.
        min_pixels: a slice with more mask pixels is a tumour slice, one with none tumour-free.
        head_height: share of the image's height that a patient's head box fills, in (0, 1]; 0 crops nothing.
        strict: refuse when anything is wrong (there is one file, so this only repeats the check).

    Returns:
        Path of ``datalist.json``.

    Raises:
        ConfigError: when the range is empty.
        DataError: when the file cannot be used or no pair is found.
    """
    if not 0 <= low < high <= 1:
        raise ConfigError(f"low, high: got {low}, {high}; give 0 <= low < high <= 1.")
    if not 0 <= head_height <= 1:
        raise ConfigError(f"head_height: got {head_height}; give a share in (0, 1], or 0 to crop nothing.")
    path = Path(source)
    data = read_npz_arrays(path, ARRAYS)
    if data["t1pre"].shape != data["mask"].shape or data["t1pre"].ndim != 3:
        raise DataError(
            f"{path}: t1pre {data['t1pre'].shape} and mask {data['mask'].shape} must be (N, rows, columns)."
        )
    settings = {"low": low, "high": high, "caliper": caliper, "percentile": percentile}
    settings |= {"min_pixels": min_pixels, "head_height": float(head_height)}
    out = Preparation(SOURCE, output, settings)
    patient = data["case_index"].astype(int)
    position = relative_position(patient, data["slice_number"].astype(float))
    area = (data["mask"] > 0).sum(axis=(1, 2))
    inside = ~data["pre_is_flair"] & (position >= low) & (position <= high)
    tumour, free = np.nonzero(inside & (area > min_pixels))[0], np.nonzero(inside & (area == 0))[0]
    both = np.intersect1d(patient[tumour], patient[free])
    tumour, free = tumour[np.isin(patient[tumour], both)], free[np.isin(patient[free], both)]
    tumour, free = pair(position, tumour, free, caliper)
    if not tumour.size:
        raise DataError(
            f"{path}: no tumour slice has a tumour-free partner; widen --low/--high or --caliper."
        )
    chosen = np.sort(np.r_[tumour, free])
    out.notes = balance(position, tumour, free) | {"patients": int(np.unique(patient[chosen]).size)}
    out.add_case("slices", "test", [path], partial(_items, out, data, chosen, percentile, head_height))
    return out.finish(strict)


def _items(
    out: Preparation, data: dict[str, NDArray[Any]], chosen: Indices, percentile: float, head_height: float
) -> list[Item]:
    patient = data["case_index"]
    own = {case: np.nonzero(patient == case)[0] for case in np.unique(patient[chosen])}
    scaled = {case: percentile_scale(data["t1pre"][rows], percentile) for case, rows in own.items()}
    items: list[Item] = []
    for index in out.progress(chosen):
        case, level = patient[index], int(data["slice_number"][index])
        subject = str(data["cases"][case])
        name = f"{subject}_{level:03d}"
        pixels, mask = scaled[case][own[case].searchsorted(index)], data["mask"][index]
        if head_height:
            taken = own[case].searchsorted(np.intersect1d(chosen, own[case]))
            box = head_box(scaled[case][taken])
            pixels, mask = fit(pixels, box, head_height, order=1), fit(mask > 0, box, head_height, order=0)
        item: dict[str, Any] = {"image": out.image(name, pixels.T), "healthy": not mask.any()}
        if mask.any():
            item |= {"mask": out.mask(name, mask.T), "kind": "glioma"}
        items.append({**item, "subject": subject, "level": level})
    return items


def head_box(slices: NDArray[Any]) -> tuple[float, float, float]:
    """Return centre row, centre column and height of the head's box in ``slices`` (S, rows, columns)."""
    head = (slices > 0.1).mean(axis=0) > 0.5
    rows, columns = np.nonzero(head.any(axis=1))[0], np.nonzero(head.any(axis=0))[0]
    if not rows.size:
        return (slices.shape[1] - 1) / 2, (slices.shape[2] - 1) / 2, float(slices.shape[1])
    return (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2, float(rows[-1] - rows[0] + 1)


def fit(
    pixels: NDArray[Any], box: tuple[float, float, float], head_height: float, order: int
) -> NDArray[np.float32]:
    """Move the box's centre to the image's and scale so that its height is ``head_height`` of the image's."""
    from scipy.ndimage import affine_transform

    row, column, height = box
    step = height / (head_height * pixels.shape[0])
    middle = [(side - 1) / 2 for side in pixels.shape]
    offset = [row - step * middle[0], column - step * middle[1]]
    moved = affine_transform(pixels.astype(np.float32), np.diag([step, step]), offset, order=order)
    fitted: NDArray[np.float32] = np.clip(moved, 0, 1).astype(np.float32)
    return fitted


def relative_position(patient: NDArray[np.int_], number: Values) -> Values:
    """Return the position of each slice in its volume: 0 for the lowest, 1 for the highest."""
    position = np.zeros(len(number))
    for case in np.unique(patient):
        own = patient == case
        span = number[own].max() - number[own].min()
        position[own] = (number[own] - number[own].min()) / max(span, 1)
    return position


def pair(position: Values, tumour: Indices, free: Indices, caliper: float) -> tuple[Indices, Indices]:
    """Pair tumour with tumour-free slices one to one: most pairs first, then the least sum of differences."""
    from scipy.optimize import linear_sum_assignment

    cost = np.abs(position[tumour][:, None] - position[free][None])
    cost[cost > caliper] = IMPOSSIBLE
    rows, columns = linear_sum_assignment(cost)
    near = cost[rows, columns] < IMPOSSIBLE
    return tumour[rows[near]], free[columns[near]]


def balance(position: Values, tumour: Indices, free: Indices) -> dict[str, Any]:
    """Return how well position tells tumour from tumour-free slices (AUROC; 0.5 = not at all)."""
    from sklearn.metrics import roc_auc_score

    chosen = position[np.r_[tumour, free]]
    truth = np.r_[np.ones(len(tumour)), np.zeros(len(free))]
    return {
        "pairs": len(tumour),
        "auroc_position": round(float(roc_auc_score(truth, chosen)), 4),
        "auroc_distance_from_mean": round(float(roc_auc_score(truth, np.abs(chosen - chosen.mean()))), 4),
    }


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
