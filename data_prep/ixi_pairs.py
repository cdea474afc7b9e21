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
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from monai.transforms import ResampleToMatch, Spacing

from robustmed_monai.data_prep.common import Items, Preparation, Source, Splits, make_parser, run, section_of
from robustmed_monai.data_prep.downloads import Download
from robustmed_monai.data_prep.ixi import mid_level
from robustmed_monai.data_prep.pixels import Array, evenly_spaced, percentile_scale, read_volume
from robustmed_monai.utils.errors import ConfigError, DataError

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
    depth_mm: float = 70.0,
    spacing_mm: float = 1.0,
    percentile: float = 98.0,
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
        spacing_mm: side of the voxels that both volumes are resampled to, in mm.
        percentile: percentile of a volume that becomes 1.
        seed: seed of the split.
        splits: fractions of training, validation and test subjects.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        ConfigError: when a setting is out of range.
        DataError: when a contrast is missing or nothing can be used.
    """
    if not spacing_mm > 0:
        raise ConfigError(f"spacing_mm: got {spacing_mm}; give a number above 0.")
    settings = {"slices": slices, "gap_mm": gap_mm, "depth_mm": depth_mm, "spacing_mm": spacing_mm}
    settings |= {"percentile": percentile, "seed": seed}
    out = Preparation(SOURCE, output, {**settings, "splits": list(splits)})
    downloads = {contrast: _download(out, Path(source), contrast) for contrast in CONTRASTS}
    files = {contrast: _subjects(download, contrast) for contrast, download in downloads.items()}
    alone = sorted(files["T1"].keys() ^ files["T2"].keys())
    out.skipped.update({"subject with one contrast only": len(alone)} if alone else {})

    def make(subject: str) -> Items:
        volumes = _on_one_grid(downloads, {c: files[c][subject] for c in CONTRASTS}, spacing_mm)
        scaled = {contrast: percentile_scale(volume, percentile) for contrast, volume in volumes.items()}
        middle = mid_level(scaled["T1"], spacing_mm, depth_mm)
        step, depth = max(1, round(gap_mm / spacing_mm)), scaled["T1"].shape[2]
        section = section_of(subject, splits, seed)
        items: Items = []
        for level in evenly_spaced(middle, slices, step, depth):
            for contrast, volume in scaled.items():
                image = out.image(f"{subject}_{contrast}_{level:03d}", volume[:, :, level])
                item = {"image": image, "healthy": True, "contrast": contrast}
                items.append((section, {**item, "subject": subject, "level": level}))
        return items

    for subject in out.progress(sorted(files["T1"].keys() & files["T2"].keys())):
        names = {contrast: files[contrast][subject] for contrast in CONTRASTS}
        paths = [downloads[contrast].path(name) for contrast, name in names.items()]
        stamp = [downloads[contrast].stamp(name) for contrast, name in names.items()]
        named = " and ".join(downloads[contrast].named(name) for contrast, name in names.items())
        out.case(subject, paths, partial(make, subject), stamp, named)
    return out.finish(strict)


def _download(out: Preparation, source: Path, contrast: str) -> Download:
    places = [source / f"IXI-{contrast}.tar", source / f"IXI-{contrast}"]
    found = [place for place in places if place.exists()]
    if not found:
        raise DataError(f"{source}: holds neither {places[0].name} nor {places[1].name}; put both there.")
    download = Download(found[0])
    if download.damage:
        out.problem(download.source, download.damage)
    return download


def _subjects(download: Download, contrast: str) -> dict[str, str]:
    pattern = re.compile(rf"(?:.*/)?(IXI\d+)[^/]*{contrast}[^/]*\.nii(\.gz)?$")
    found = {match[1]: name for name in download.names if (match := pattern.fullmatch(name))}
    if not found:
        raise DataError(f"{download.source}: holds no IXI<n>-...-{contrast}.nii.gz; is it the download?")
    return found


def _on_one_grid(
    downloads: Mapping[str, Download], names: Mapping[str, str], spacing_mm: float
) -> dict[str, Array]:
    volumes = {}
    for contrast, name in names.items():
        with downloads[contrast].file(name) as path:
            volumes[contrast] = read_volume(path)[None]
    first = Spacing(pixdim=(spacing_mm,) * 3, mode="bilinear", padding_mode="zeros")(volumes["T1"])
    second = ResampleToMatch(mode="bilinear", padding_mode="zeros")(volumes["T2"], first)
    return {"T1": np.asarray(first[0]), "T2": np.asarray(second[0])}


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; see ``--help``."""
    parser = make_parser("robustmed_monai.data_prep.ixi_pairs", __doc__, SPLITS)
    parser.add_argument("--slices", type=int, default=1, help="slices of each subject (%(default)s)")
    parser.add_argument("--gap_mm", type=float, default=5.0, help="distance between them in mm (%(default)s)")
    parser.add_argument(
        "--depth_mm", type=float, default=70.0, help="depth below the top of the head (%(default)s)"
    )
    parser.add_argument("--spacing_mm", type=float, default=1.0, help="side of the voxels (%(default)s)")
    parser.add_argument(
        "--percentile", type=float, default=98.0, help="percentile that becomes 1 (%(default)s)"
    )
    return run(prepare, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
