"""IXI: healthy T1 volumes to mid axial slices.

Reads the official ``IXI-T1.tar``, its extracted folder (``IXI002-Guys-0828-T1.nii.gz``) or a folder of your
own affine-registered variants (any name with ``IXI<number>`` and ``T1``).

As in the preprocessing of RA, one mid axial slice of each subject becomes an 8-bit PNG: the volume is
turned to "RPS", the slice ``depth_mm`` below the top of the head is taken (70 mm is the middle slice of the
MNI grid, z = +16 mm; the native scans reach down the neck, so their own middle lies too low), and
intensities are divided by a percentile of the volume. Padding to a square and resizing stay with the
bundle's transforms.
"""

from __future__ import annotations

import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from robustmed_monai.data_prep.common import Items, Preparation, Source, Splits, make_parser, run, section_of
from robustmed_monai.data_prep.pixels import Array, evenly_spaced, percentile_scale, read_volume, spacing_z
from robustmed_monai.utils.errors import DataError

SOURCE = Source(
    name="ixi",
    license="CC BY-SA 3.0, IXI dataset of the Biomedical Image Analysis Group, Imperial College London",
    description="Healthy adults, T1, mid axial slices with skull.",
)
SPLITS: Splits = (0.8, 0.1, 0.1)
NAME = re.compile(r"(IXI\d+).*T1.*\.nii(\.gz)?$")
# A slice belongs to the head when this share of it is brighter than this fraction of the scaled range.
HEAD_SHARE = 0.01
HEAD_LEVEL = 0.15


def prepare(
    source: Path,
    output: Path,
    slices: int = 1,
    gap_mm: float = 5.0,
    depth_mm: float = 70.0,
    percentile: float = 98.0,
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
        percentile: percentile of the volume that becomes 1. In the slices of the RA authors 1 to 8 % of the
            pixels are saturated; a percentile of the volume, not of the slice, makes it vary so.
        seed: seed of the split.
        splits: fractions of training, validation and test subjects.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        DataError: when the source is missing or nothing of it can be used.
    """
    settings = {"slices": slices, "gap_mm": gap_mm, "depth_mm": depth_mm, "percentile": percentile}
    out = Preparation(SOURCE, output, {**settings, "seed": seed, "splits": list(splits)})

    def make(path: Path) -> Items:
        volume = read_volume(path)
        scaled = percentile_scale(volume, percentile)
        step = max(1, round(gap_mm / spacing_z(volume)))
        subject = _subject(path.name)
        section = section_of(subject, splits, seed)
        items: Items = []
        for level in evenly_spaced(
            mid_level(scaled, spacing_z(volume), depth_mm), slices, step, scaled.shape[2]
        ):
            image = out.image(f"{path.name.split('.')[0]}_{level:03d}", scaled[:, :, level])
            items.append((section, {"image": image, "healthy": True, "subject": subject, "level": level}))
        return items

    source = Path(source)
    if source.is_file():
        _from_archive(out, source, make)
    elif source.is_dir():
        for path in out.progress(sorted(source.rglob("*.nii*"))):
            if _subject(path.name):
                out.case(path.relative_to(source).as_posix(), [path], partial(make, path))
            else:
                out.skipped["no IXI T1 file"] += 1
    else:
        raise DataError(
            f"{source}: no such file or folder; give IXI-T1.tar or the folder it was unpacked to."
        )
    return out.finish(strict)


def mid_level(scaled: Array, spacing: float, depth_mm: float) -> int:
    """Return the number of the axial slice that lies ``depth_mm`` below the top of the head.

    Args:
        scaled: volume (X, Y, Z) in [0, 1], z upwards.
        spacing: distance of two slices in mm.
        depth_mm: depth in mm.
    """
    occupied = np.nonzero((scaled > HEAD_LEVEL).mean(axis=(0, 1)) > HEAD_SHARE)[0]
    if occupied.size == 0:
        raise DataError("no head was found in the volume; look at the file.")
    return max(0, int(occupied[-1]) - round(depth_mm / spacing))


def _subject(name: str) -> str:
    match = NAME.search(name)
    return match[1] if match else ""


def _from_archive(out: Preparation, archive: Path, make: Callable[[Path], Items]) -> None:
    """Take the members one by one; nothing of the archive's paths is used but the last part of the name."""

    def unpack_and_make(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Items:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / Path(member.name).name
            stream = tar.extractfile(member)
            if stream is None:
                raise DataError(f"{member.name}: is no file.")
            with path.open("wb") as target:
                shutil.copyfileobj(stream, target)
            return make(path)

    try:
        with tarfile.open(archive, "r:") as tar:
            for member in out.progress(tar):
                if not member.isfile() or not _subject(Path(member.name).name):
                    out.skipped["no IXI T1 file"] += 1
                    continue
                stamp = [member.name, member.size, member.mtime]
                named = f"{archive}:{member.name}"
                out.case(member.name, [archive], partial(unpack_and_make, tar, member), stamp, named)
    except tarfile.TarError as error:
        out.problem(archive, f"the archive is damaged or incomplete ({error}); download it again")


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; see ``--help``."""
    parser = make_parser("robustmed_monai.data_prep.ixi", __doc__, SPLITS)
    parser.add_argument("--slices", type=int, default=1, help="slices of each subject (%(default)s)")
    parser.add_argument("--gap_mm", type=float, default=5.0, help="distance between them in mm (%(default)s)")
    parser.add_argument(
        "--depth_mm", type=float, default=70.0, help="depth below the top of the head (%(default)s)"
    )
    parser.add_argument(
        "--percentile", type=float, default=98.0, help="percentile that becomes 1 (%(default)s)"
    )
    return run(prepare, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
