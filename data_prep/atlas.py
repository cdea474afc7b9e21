"""ATLAS v2.0 (R2.0): chronic stroke, T1 slices with lesion masks, against lesion-free slices.

Reads the official BIDS layout, at any folder depth:
``sub-r001s001/ses-1/anat/sub-r001s001_ses-1_space-MNI152NLin2009aSym_T1w.nii.gz`` and, beside it,
``..._label-L_desc-T1lesion_mask.nii.gz``. The hidden test set of the release has no masks and is left out.
Subjects are disjoint between the sections; training and validation hold lesion-free slices only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Preparation, Source, Splits, require_folder
from robustmed_monai.data_prep.volume_slices import SIZE, SPACING_MM, VolumeSlices, add_lesion_cases
from robustmed_monai.utils.errors import DataError

SOURCE = Source(
    name="atlas",
    license="Terms of ATLAS R2.0 (registration, research use); cite Liew et al. 2022.",
    description="Chronic stroke, T1 in MNI space with skull, axial slices with expert lesion masks.",
)
SPLITS: Splits = (0.6, 0.1, 0.3)
IMAGE = "_T1w.nii.gz"
MASK = "_label-L_desc-T1lesion_mask.nii.gz"
HIDDEN_TEST = "Testing"


def prepare(
    source: Path,
    output: Path,
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
    """Prepare ATLAS v2.0.

    Args:
        source: folder of the unpacked release.
        output: folder to write.
        slices: slices of each subject, spread around the middle one (z = +16 mm).
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
        DataError: when no image is found or nothing can be used.
    """
    images = sorted(require_folder(source).rglob(f"sub-*/ses-*/anat/sub-*{IMAGE}"))
    if not images:
        raise DataError(
            f"{source}: no sub-*/ses-1/anat/*{IMAGE} in it; unpack the (encrypted) archive of ATLAS first."
        )
    cut = VolumeSlices(slices, gap_mm, percentile, size, spacing_mm, min_pixels)
    settings = {**vars(cut), "seed": seed, "splits": list(splits)}
    out = Preparation(SOURCE, output, settings)
    shown = [image for image in images if HIDDEN_TEST not in image.relative_to(source).parts]
    out.skipped.update({"hidden test set without masks": len(images) - len(shown)})
    cases = [
        (image.name, image.name.split("_")[0], image, image.with_name(image.name.removesuffix(IMAGE) + MASK))
        for image in shown
    ]
    add_lesion_cases(out, cases, "stroke", cut, seed, splits)
    return out.finish(strict)


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
