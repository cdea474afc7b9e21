"""BraTS 2020/2021: axial slices of one sequence with tumour masks, against tumour-free slices.

Reads the official layout ``BraTS2021_00000/BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz`` (2020:
``BraTS20_Training_001/BraTS20_Training_001_{t1,...,seg}.nii[.gz]``), at any folder depth. The mask is the
whole tumour (every label above 0). Subjects are disjoint between the sections; training and validation hold
tumour-free slices only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Preparation, Source, Splits, require_folder
from robustmed_monai.data_prep.volume_slices import SIZE, SPACING_MM, VolumeSlices, add_lesion_cases
from robustmed_monai.utils.errors import DataError

SOURCE = Source(
    name="brats",
    license="Terms of the BraTS challenge (research use); cite Menze 2015, Bakas 2017, Baid 2021.",
    description="Glioma, brain-extracted MRI in the SRI24 space, axial slices with whole-tumour masks.",
)
SPLITS: Splits = (0.6, 0.1, 0.3)
CASE = re.compile(r"BraTS(20\d\d|20)_\w*\d+$")


def prepare(
    source: Path,
    output: Path,
    sequence: Literal["t1", "t1ce", "t2", "flair"] = "t1",
    slices: int = 5,
    gap_mm: float = 5.0,
    percentile: float = 99.5,
    size: int = SIZE,
    spacing_mm: float = SPACING_MM,
    min_pixels: int = 10,
    seed: int = 0,
    splits: Sequence[float] = SPLITS,
    strict: bool = False,
) -> Path:
    """Prepare BraTS.

    Args:
        source: folder with one folder per case, at any depth.
        output: folder to write.
        sequence: which of the four.
        slices: slices of each subject, spread around the middle one.
        gap_mm: distance between them in mm.
        percentile: percentile of the volume's foreground that becomes 1, 99.5 as at inference.
        size: side of the slices in pixels.
        spacing_mm: side of a pixel in mm.
        min_pixels: a slice with more mask pixels is abnormal, one with none healthy, the rest is left out.
        seed: seed of the split.
        splits: fractions of training, validation and test subjects; ``0 0 1`` makes a pure test set.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        DataError: when no case is found or nothing can be used.
    """
    cases = sorted(
        path for path in require_folder(source).rglob("BraTS*") if path.is_dir() and CASE.match(path.name)
    )
    if not cases:
        raise DataError(
            f"{source}: no folder like BraTS2021_00000 in it; give the unpacked official download."
        )
    cut = VolumeSlices(slices, gap_mm, percentile, size, spacing_mm, min_pixels)
    settings = {"sequence": sequence, **vars(cut), "seed": seed}
    out = Preparation(SOURCE, output, {**settings, "splits": list(splits)})
    found = []
    for case in cases:
        image, mask = (_nifti(case / f"{case.name}_{part}") for part in (sequence, "seg"))
        found.append((case.name, case.name, image, mask))
    add_lesion_cases(out, found, "glioma", cut, seed, splits)
    return out.finish(strict)


def _nifti(stem: Path) -> Path:
    plain = stem.with_name(f"{stem.name}.nii")
    return plain if plain.is_file() else stem.with_name(f"{stem.name}.nii.gz")


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
