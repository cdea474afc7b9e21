"""LGG MRI (TCGA-LGG, Buda): FLAIR volumes, tumour-free slices of some patients to train on, others to test.

Reads the npz of ``data_prep.lgg`` (here ``flair`` in place of ``t1pre``). Every patient becomes one NIfTI
volume and one of masks (no spacing is known: 1 mm each way). An item names the `slices` that it stands for:

* training and validation: the tumour-free slices (no mask pixel) of the first ``training`` and the next
  ``validation`` patients, in the order of the sha256 of seed and name;
* test: of all other patients, tumour slices (more than ``min_pixels`` mask pixels) and tumour-free ones;
  those in between are dropped;
* of each volume only the relative positions ``low`` to ``high`` (0 lowest, 1 highest slice), edges off.

``matched.json`` beside ``datalist.json`` is the same with a test section of pairs: each tumour slice with at
most one tumour-free slice at the same relative position within ``caliper``, as in ``data_prep.lgg``. The
notes of the report hold the AUROC of the position on both; on all slices position alone tells much.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robustmed_monai.data.split import rank_subjects
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source, write_if_different
from robustmed_monai.data_prep.lgg import balance, pair, relative_position
from robustmed_monai.transforms.load import read_npz_arrays
from robustmed_monai.utils.errors import ConfigError, DataError

SOURCE = Source(
    name="lgg_volumes",
    license="CC BY-NC-SA 4.0, LGG segmentation set (Buda et al. 2019), TCGA-LGG",
    description="Lower-grade glioma, FLAIR, volumes with masks of the abnormality; patients disjoint.",
)
ARRAYS = ("mask", "case_index", "slice_number", "cases")
MATCHED = "matched.json"

Array = NDArray[Any]


def prepare(
    source: Path,
    output: Path,
    sequence: Literal["flair", "t1pre"] = "flair",
    training: int = 45,
    validation: int = 5,
    low: float = 0.1,
    high: float = 0.9,
    caliper: float = 0.01,
    min_pixels: int = 10,
    seed: int = 0,
    strict: bool = False,
) -> Path:
    """Prepare the LGG volumes.

    Args:
        source: the npz.
        output: folder to write.
        sequence: flair, or t1pre (patients without one of their own are left out).
        training: patients to train on.
        validation: patients held back for validation; together the 50 of the issue's protocol.
        low: lowest relative position, in [0, 1].
        high: highest relative position, in [0, 1].
        caliper: largest difference of relative position within a pair of ``matched.json``.
        min_pixels: a slice with more mask pixels is a tumour slice, one with none tumour-free.
        seed: another seed, another split.
        strict: refuse when anything is wrong (there is one file, so this only repeats the check).

    Returns:
        Path of ``datalist.json``.

    Raises:
        ConfigError: when the range is empty, or no patient is left to test on.
        DataError: when the file cannot be used or no pair is found.
    """
    if not 0 <= low < high <= 1:
        raise ConfigError(f"low, high: got {low}, {high}; give 0 <= low < high <= 1.")
    path = Path(source)
    data = read_npz_arrays(path, (*ARRAYS, sequence, "pre_is_flair"))
    if data[sequence].shape != data["mask"].shape or data["mask"].ndim != 3:
        raise DataError(f"{path}: {sequence} {data[sequence].shape} and mask {data['mask'].shape} differ.")
    own = ~data["pre_is_flair"] if sequence == "t1pre" else np.ones(len(data["mask"]), dtype=bool)
    data = {k: v if k == "cases" else v[own] for k, v in data.items()}
    sections = _sections(data, training, validation, seed)
    chosen, matched, notes = _choose(data, sections, low, high, caliper, min_pixels)
    settings: dict[str, Any] = {"sequence": sequence, "training": training, "validation": validation}
    settings |= {"low": low, "high": high, "caliper": caliper, "min_pixels": min_pixels, "seed": seed}
    out = Preparation(SOURCE, output, settings)
    out.notes = notes
    for case, section in out.progress(sections.items()):
        rows = _rows(data, case)
        name = str(data["cases"][case])
        numbers = np.nonzero(chosen[rows])[0].tolist()
        if numbers:
            healthy = section != "test" or not data["mask"][rows][numbers].any()
            make = partial(_items, out, data[sequence][rows], data["mask"][rows], name, healthy, numbers)
            out.add_case(name, section, [path], make)
    datalist = out.finish(strict)
    _write_matched(datalist, data, matched)
    return datalist


def _sections(data: Mapping[str, Array], training: int, validation: int, seed: int) -> dict[int, str]:
    cases = {str(data["cases"][case]): case for case in np.unique(data["case_index"]).tolist()}
    order = [cases[name] for name in rank_subjects(cases, seed)]
    if min(training, validation) < 1 or training + validation >= len(order):
        raise ConfigError(
            f"training={training}, validation={validation} of {len(order)} patients; leave some to test on."
        )
    ends = (training, training + validation)
    return {
        case: "training" if place < ends[0] else "validation" if place < ends[1] else "test"
        for place, case in enumerate(order)
    }


def _choose(
    data: Mapping[str, Array],
    sections: Mapping[int, str],
    low: float,
    high: float,
    caliper: float,
    min_pixels: int,
) -> tuple[Array, Array, dict[str, Any]]:
    """Rows to take, rows of the matched test set, and notes on both."""
    patient = data["case_index"].astype(int)
    position = relative_position(patient, data["slice_number"].astype(float))
    area = (data["mask"] > 0).sum(axis=(1, 2))
    test = np.asarray([sections[case] == "test" for case in patient])
    inside = (position >= low) & (position <= high)
    chosen = inside & ((area == 0) | (test & (area > min_pixels)))
    tumour, free = np.nonzero(chosen & test & (area > 0))[0], np.nonzero(chosen & test & (area == 0))[0]
    paired = pair(position, tumour, free, caliper) if tumour.size and free.size else (tumour, free)
    if not paired[0].size:
        raise DataError("no tumour slice has a tumour-free partner; widen low and high or the caliper.")
    matched = np.zeros_like(chosen)
    matched[np.r_[paired]] = True
    notes = {"all": balance(position, tumour, free), "matched": balance(position, *paired)}
    notes["all"] = {k: v for k, v in notes["all"].items() if k != "pairs"}
    notes["test_slices"] = {"tumour": int(tumour.size), "tumour_free": int(free.size)}
    return chosen, matched, notes


def _rows(data: Mapping[str, Array], case: int) -> Array:
    rows = np.nonzero(data["case_index"] == case)[0]
    ordered: Array = rows[np.argsort(data["slice_number"][rows], kind="stable")]
    return ordered


def _items(
    out: Preparation, image: Array, mask: Array, name: str, healthy: bool, numbers: list[int]
) -> list[Item]:
    item: dict[str, Any] = {"image": _volume(out, f"images/{name}.nii.gz", image), "subject": name}
    item |= {"healthy": healthy, "slices": numbers}
    if not healthy:
        item |= {"mask": _volume(out, f"masks/{name}.nii.gz", (mask > 0).astype(np.uint8)), "kind": "glioma"}
    return [item]


def _volume(out: Preparation, name: str, slices: Array) -> str:
    """Write slices (S, rows, columns) as a volume in axcodes "RPS" and note its digest."""
    # Columns run to the patient's right, rows to the back, slices up.
    affine = np.diag([1.0, -1.0, 1.0, 1.0])
    return out.volume(name, slices.transpose(2, 1, 0), affine)


def _write_matched(datalist: Path, data: Mapping[str, Array], matched: Array) -> None:
    content = json.loads(datalist.read_text(encoding="utf-8"))
    cases = {str(name): case for case, name in enumerate(data["cases"])}
    test = []
    for item in content["test"]:
        numbers = np.nonzero(matched[_rows(data, cases[item["subject"]])])[0].tolist()
        if numbers:
            test.append({**item, "slices": numbers})
    write_if_different(datalist.parent / MATCHED, {**content, "name": "lgg_volumes_matched", "test": test})


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
