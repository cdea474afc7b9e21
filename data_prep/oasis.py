"""OASIS-1 with segmentations: the neurite-oasis download, or folders that FreeSurfer wrote.

neurite-oasis: ``neurite-oasis.v1.0.tar`` (2-D and 3-D), ``neurite-oasis.2d.v1.0.tar`` (2-D), or the folder of
one: ``OASIS_OAS1_<n>_MR1/{slice_{norm,seg4,seg24},aligned_{norm,seg4,seg35}}.nii.gz``.
FreeSurfer: ``<subject>/mri/{norm.mgz,aseg.mgz}`` at any depth.

``--form slice`` writes one coronal slice per subject as PNG: neurite's own, or the slice in the middle of the
segmentation of a FreeSurfer subject. ``--form volume`` writes the aligned (FreeSurfer: conformed) volumes as
8-bit NIfTI. Images are skull-stripped and bias-corrected by their makers.

``--labels tissue`` gives 0 background, 1 CSF, 2 grey matter (cortex and subcortical), 3 white matter; the
name of a segmentation (seg4, seg24, seg35) keeps that segmentation's own numbers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from monai.data import MetaTensor

from robustmed_monai.data.split import split_subjects
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source, Splits
from robustmed_monai.data_prep.downloads import Download, DownloadFile
from robustmed_monai.data_prep.label_maps import renumber
from robustmed_monai.data_prep.pixels import (
    Array,
    percentile_scale,
    read_volume,
    square_pixels,
    voxel_spacing,
)
from robustmed_monai.utils.errors import ConfigError, DataError, GeometryError

SOURCE = Source(
    name="oasis",
    license="OASIS data use agreement (https://oasis-brains.org/#access): acknowledge, no re-identification; "
    "cite Marcus et al. 2007, and Hoopes et al. 2021 for neurite-oasis",
    description="OASIS-1, T1, skull-stripped and bias-corrected, with segmentation.",
)
SPLITS: Splits = (0.6, 0.15, 0.25)  # near CIFL's 232 : 58 : 100
FORMS = {"slice": ("tissue", "seg4", "seg24"), "volume": ("tissue", "seg4", "seg35")}
SEG4 = {1: 2, 2: 2, 3: 3, 4: 1}  # cortex, subcortical grey matter, white matter, CSF
# FreeSurfer's colour table: ventricles, CSF and choroid plexus; cortex and deep grey; white matter and stem.
ASEG = {
    **dict.fromkeys((4, 5, 14, 15, 24, 31, 43, 44, 63, 72), 1),
    **dict.fromkeys((3, 8, 10, 11, 12, 13, 17, 18, 26, 42, 47, 49, 50, 51, 52, 53, 54, 58), 2),
    **dict.fromkeys((2, 7, 16, 28, 41, 46, 60, 77, 78, 79, 85, 251, 252, 253, 254, 255), 3),
}
NEURITE = re.compile(r"(?:.*/)?(OASIS_OAS1_\d+_MR\d+)/(slice|aligned)_norm\.nii\.gz$")
FREESURFER = re.compile(r"(?:.*/)?([^/]+)/mri/norm\.mgz$")

Numbers = Mapping[int, int] | None
Case = tuple[str, DownloadFile, DownloadFile, Numbers]


def prepare(
    source: Path,
    output: Path,
    form: Literal["slice", "volume"] = "slice",
    labels: Literal["tissue", "seg4", "seg24", "seg35"] = "tissue",
    percentile: float = 99.9,
    seed: int = 0,
    splits: Sequence[float] = SPLITS,
    strict: bool = False,
) -> Path:
    """Prepare OASIS-1.

    Args:
        source: neurite-oasis tar or its folder, or a folder of FreeSurfer subjects.
        output: folder to write.
        form: one slice per subject, or volumes.
        labels: tissue, or the segmentation whose numbers are kept: seg4, seg24 (slices), seg35 (volumes).
        percentile: percentile of the volume (of the slice, where there is only that) that becomes 1.
        seed: seed of the split.
        splits: fractions of training, validation and test subjects.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        ConfigError: for a form or segmentation that is not there.
        DataError: when the source is missing or nothing of it can be used.
    """
    if form not in FORMS or labels not in FORMS[form]:
        raise ConfigError(f"form={form!r}, labels={labels!r}: choose {FORMS}.")
    settings = {"form": form, "labels": labels, "percentile": percentile, "seed": seed}
    out = Preparation(SOURCE, output, {**settings, "splits": list(splits)})
    cases = _cases(out.download(source), form, labels)
    sections = split_subjects((subject for subject, *_ in cases), splits, seed)
    for subject, image, segmentation, numbers in out.progress(cases):
        make = partial(_items, out, subject, image, segmentation, numbers, form, percentile)
        out.add_case(image.name, sections[subject], [image, segmentation], make)
    return out.finish(strict)


def _cases(download: Download, form: str, labels: str) -> list[Case]:
    """Subject, image, segmentation and its tissues (None keeps the numbers) of every case."""
    found: list[Case] = []
    wanted = {"slice": "slice", "volume": "aligned"}[form]
    for name, file in download.files.items():
        folder = PurePosixPath(name).parent
        match = NEURITE.fullmatch(name)
        if match and match[2] == wanted:
            kind = "seg4" if labels == "tissue" else labels
            numbers = SEG4 if labels == "tissue" else None
            labelled = download.file((folder / f"{wanted}_{kind}.nii.gz").as_posix())
            found.append((match[1], file, labelled, numbers))
        match = FREESURFER.fullmatch(name)
        if match:
            if labels != "tissue":
                raise ConfigError(f"labels={labels!r}: FreeSurfer subjects have tissue only; give 'tissue'.")
            found.append((match[1], file, download.file((folder / "aseg.mgz").as_posix()), ASEG))
    if not found:
        raise DataError(
            f"{download.source}: holds neither OASIS_OAS1_<n>_MR1/{wanted}_norm.nii.gz nor "
            "<subject>/mri/norm.mgz; give the unpacked or packed official download."
        )
    return found


def _items(
    out: Preparation,
    subject: str,
    image: DownloadFile,
    segmentation: DownloadFile,
    numbers: Numbers,
    form: str,
    percentile: float,
) -> list[Item]:
    with image.on_disk() as image_file, segmentation.on_disk() as label_file:
        volume = read_volume(image_file)
        classes = _classes(label_file, volume, numbers)
    scaled = percentile_scale(volume[0], percentile)
    item: Item = {"healthy": True, "subject": subject}
    if form == "volume":
        affine = np.asarray(volume.affine)
        paths = (
            out.volume(f"images/{subject}.nii.gz", np.rint(scaled * 255), affine),
            out.volume(f"labels/{subject}.nii.gz", classes, affine),
        )
    else:
        # A coronal slice of an "RPS" volume, turned so that the top of the head is up.
        filled = np.nonzero(classes.any(axis=(0, 2)))[0]
        middle = int(filled[0] + filled[-1]) // 2
        side_x, _, side_z = voxel_spacing(volume)
        image_slice, label_slice = (
            square_pixels(np.ascontiguousarray(one[:, middle, ::-1]), (side_x, side_z), labels)
            for one, labels in ((scaled, False), (classes, True))
        )
        paths = out.image(subject, image_slice), out.labels(subject, label_slice)
        item["pixel_mm"] = round(min(side_x, side_z), 4)
    return [{"image": paths[0], "label": paths[1], **item}]


def _classes(path: Path, volume: MetaTensor, numbers: Numbers) -> Array:
    """The segmentation on the grid of its image, renumbered unless ``numbers`` is None."""
    labels = read_volume(path)
    if labels.shape != volume.shape or not np.allclose(labels.affine, volume.affine, atol=1e-3):
        raise GeometryError(
            f"{path}: the grid {tuple(labels.shape[1:])} is not that of its image {tuple(volume.shape[1:])}; "
            "both must have the same shape and affine."
        )
    values = np.asarray(torch.as_tensor(labels[0]), dtype=np.float32)
    kept = {i: i for i in range(256)} if numbers is None else numbers
    return renumber(values, kept, str(path)).astype(np.float32)


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
