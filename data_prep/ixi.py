"""IXI: healthy T1 volumes to mid axial slices.

Reads the official ``IXI-T1.tar``, its extracted folder (``IXI002-Guys-0828-T1.nii.gz``) or a folder of your
own affine-registered variants (any name with ``IXI<number>`` and ``T1``).

As in the preprocessing of RA, one mid axial slice of each subject becomes an 8-bit PNG: the volume is
scaled and cut as at inference, and the slice ``depth_mm`` below the top of the head is taken (the native
scans reach down the neck, so their own middle lies too low): 60 mm is about +20 mm of MNI152, near the
slices of the RA authors, and differs by head; ``AlignToTemplated`` at inference knows the height.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from robustmed_monai.data.split import split_subjects
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source, Splits
from robustmed_monai.data_prep.downloads import DownloadFile
from robustmed_monai.data_prep.pixels import read_volume, voxel_spacing
from robustmed_monai.data_prep.volume_slices import SIZE, SPACING_MM, VolumeSlices
from robustmed_monai.utils.errors import DataError

SOURCE = Source(
    name="ixi",
    license="CC BY-SA 3.0, IXI dataset of the Biomedical Image Analysis Group, Imperial College London",
    description="Healthy adults, T1, mid axial slices with skull.",
)
SPLITS: Splits = (0.8, 0.1, 0.1)
NAME = re.compile(r"(IXI\d+)[^/]*T1[^/]*\.nii(\.gz)?$")
# A slice belongs to the head when so much of it is brighter than this fraction of the scaled range.
HEAD_MM2 = 460.0
HEAD_LEVEL = 0.15


def prepare(
    source: Path,
    output: Path,
    slices: int = 1,
    gap_mm: float = 5.0,
    depth_mm: float = 60.0,
    percentile: float = 99.5,
    size: int = SIZE,
    spacing_mm: float = SPACING_MM,
    seed: int = 0,
    splits: Sequence[float] = SPLITS,
    strict: bool = False,
) -> Path:
    """Prepare IXI.

    Args:
        source: ``IXI-T1.tar`` or a folder of NIfTI files.
        output: folder to write.
        slices: slices of each subject, spread around the middle one.
        gap_mm: distance between them in mm.
        depth_mm: depth of the middle slice below the top of the head in mm.
        percentile: percentile of the volume's foreground that becomes 1, 99.5 as at inference. In the slices
            of the RA authors 1 to 8 % of the pixels are saturated, as 90 makes them.
        size: side of the slices in pixels.
        spacing_mm: side of a pixel in mm.
        seed: seed of the split.
        splits: fractions of training, validation and test subjects.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        DataError: when the source is missing or nothing of it can be used.
    """
    cut = VolumeSlices(slices, gap_mm, percentile, size, spacing_mm)
    settings = {**vars(cut), "depth_mm": depth_mm, "seed": seed, "splits": list(splits)}
    out = Preparation(SOURCE, output, settings)
    files = out.download(source).files
    subjects = {name: match[1] for name in files if (match := NAME.search(name))}
    out.skipped.update({"no IXI T1 file": len(files) - len(subjects)})
    sections = split_subjects(subjects.values(), splits, seed)

    def make(file: DownloadFile, subject: str) -> list[Item]:
        with file.on_disk() as path:
            stacks = cut.cut({"image": read_volume(path)})
        middle = mid_level(stacks["image"], depth_mm)
        stem = Path(file.name).name.split(".")[0]
        return cut.write(out, stem, stacks, {"subject": subject}, middle)

    for name, subject in out.progress(subjects.items()):
        out.add_case(name, sections[subject], [files[name]], partial(make, files[name], subject))
    return out.finish(strict)


def mid_level(stack: MetaTensor, depth_mm: float) -> int:
    """Return the number of the slice that lies ``depth_mm`` below the top of the head.

    Args:
        stack: (1, size, size, slices) in [0, 1], upwards; how much air the file held makes no difference.
        depth_mm: depth in mm.
    """
    width, height, distance = voxel_spacing(stack)
    bright = (np.asarray(stack[0]) > HEAD_LEVEL).sum(axis=(0, 1))
    occupied = np.nonzero(bright * width * height > HEAD_MM2)[0]
    if occupied.size == 0:
        raise DataError("no head was found in the volume; look at the file.")
    return max(0, int(occupied[-1]) - round(depth_mm / distance))


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
