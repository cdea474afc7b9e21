"""IXI: T1 and T2 slices of the same healthy subjects on one grid.

``--source`` is a folder that holds ``IXI-T1.tar`` and ``IXI-T2.tar``, or the folders ``IXI-T1`` and
``IXI-T2`` they were unpacked to. Subjects that have both are taken.

The T1 volume is resampled to cubic voxels, the T2 volume to its grid by the affines of the two files (they
were scanned in one session; nothing is registered). From both the same axial slices are written, the middle
one ``depth_mm`` below the top of the head as ``data_prep.ixi`` takes it. Every slice is an item of its own
with ``contrast`` T1 or T2; a pair has the same ``subject`` and ``level``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

from monai.data import MetaTensor
from monai.transforms import ResampleToMatch, Spacing

from robustmed_monai.data.split import split_subjects
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source, Splits
from robustmed_monai.data_prep.downloads import Download, DownloadFile
from robustmed_monai.data_prep.ixi import mid_level
from robustmed_monai.data_prep.pixels import read_volume
from robustmed_monai.data_prep.volume_slices import SIZE, SPACING_MM, VolumeSlices
from robustmed_monai.utils.errors import DataError

SOURCE = Source(
    name="ixi_pairs",
    license="CC BY-SA 3.0, IXI dataset of the Biomedical Image Analysis Group, Imperial College London",
    description="Healthy adults, T1 and T2 of each on one grid, mid axial slices with skull.",
)
SPLITS: Splits = (0.8, 0.1, 0.1)
CONTRASTS = ("T1", "T2")


def prepare(
    source: Path,
    output: Path,
    slices: int = 1,
    gap_mm: float = 5.0,
    depth_mm: float = 60.0,
    spacing_mm: float = SPACING_MM,
    size: int = SIZE,
    percentile: float = 99.5,
    seed: int = 0,
    splits: Sequence[float] = SPLITS,
    strict: bool = False,
) -> Path:
    """Prepare pairs of T1 and T2 slices.

    Args:
        source: folder with the tars or folders of both contrasts.
        output: folder to write.
        slices: slices of each subject, spread around the middle one.
        gap_mm: distance between them in mm.
        depth_mm: depth of the middle slice below the top of the head in mm.
        spacing_mm: side of the voxels that both volumes are resampled to, and of a pixel, in mm.
        size: side of the slices in pixels.
        percentile: percentile of a volume's foreground that becomes 1, 99.5 as at inference.
        seed: seed of the split.
        splits: fractions of training, validation and test subjects.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        ConfigError: when a setting is out of range.
        DataError: when a contrast is missing or nothing can be used.
    """
    cut = VolumeSlices(slices, gap_mm, percentile, size, spacing_mm)
    settings = {**vars(cut), "depth_mm": depth_mm, "seed": seed, "splits": list(splits)}
    out = Preparation(SOURCE, output, settings)
    first, second = (_subjects(out.download(_place(Path(source), name)), name) for name in CONTRASTS)
    out.skipped.update({"subject with one contrast only": len(first.keys() ^ second.keys())})

    def make(subject: str) -> list[Item]:
        stacks = cut.cut(_on_one_grid(first[subject], second[subject], spacing_mm))
        middle = mid_level(stacks[CONTRASTS[0]], depth_mm)
        items = [
            cut.write(
                out, f"{subject}_{name}", {"image": one}, {"subject": subject, "contrast": name}, middle
            )
            for name, one in stacks.items()
        ]
        return [item for pair in zip(*items, strict=True) for item in pair]

    both = sorted(first.keys() & second.keys())
    sections = split_subjects(both, splits, seed)
    for subject in out.progress(both):
        files = [first[subject], second[subject]]
        out.add_case(subject, sections[subject], files, partial(make, subject))
    return out.finish(strict)


def _place(source: Path, contrast: str) -> Path:
    places = [source / f"IXI-{contrast}.tar", source / f"IXI-{contrast}"]
    found = [place for place in places if place.exists()]
    if not found:
        raise DataError(f"{source}: holds neither {places[0].name} nor {places[1].name}; put both there.")
    return found[0]


def _subjects(download: Download, contrast: str) -> dict[str, DownloadFile]:
    pattern = re.compile(rf"(?:.*/)?(IXI\d+)[^/]*{contrast}[^/]*\.nii(\.gz)?$")
    found = {match[1]: file for name, file in download.files.items() if (match := pattern.fullmatch(name))}
    if not found:
        raise DataError(f"{download.source}: holds no IXI<n>-...-{contrast}.nii.gz; is it the download?")
    return found


def _on_one_grid(first: DownloadFile, second: DownloadFile, spacing_mm: float) -> dict[str, MetaTensor]:
    volumes = []
    for file in (first, second):
        with file.on_disk() as path:
            volumes.append(read_volume(path))
    cubic = Spacing(pixdim=(spacing_mm,) * 3, mode="bilinear", padding_mode="zeros")(volumes[0])
    matched = ResampleToMatch(mode="bilinear", padding_mode="zeros")(volumes[1], cubic)
    return {name: cast(MetaTensor, one) for name, one in zip(CONTRASTS, (cubic, matched), strict=True)}


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
