"""Volumes with a lesion mask (BraTS, ATLAS) to abnormal and healthy axial slices."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustmed_monai.data_prep.common import Item, Items, Preparation, section_of
from robustmed_monai.data_prep.pixels import (
    evenly_spaced,
    percentile_scale,
    read_mask,
    read_volume,
    spacing_z,
)


@dataclass(frozen=True)
class LesionSlices:
    """How a volume with a lesion mask becomes axial slices.

    Args:
        slices: slices of each volume, spread around the middle one.
        gap_mm: distance between them in mm.
        percentile: percentile of the volume that becomes 1.
        min_pixels: a slice with more mask pixels is abnormal, one with none healthy, the rest is left out.
        seed: seed of the split.
        splits: fractions of training, validation and test subjects.
    """

    slices: int
    gap_mm: float
    percentile: float
    min_pixels: int
    seed: int
    splits: Sequence[float]

    def items(self, out: Preparation, subject: str, kind: str, image: Path, mask: Path) -> Items:
        """Cut one volume. Abnormal slices go to the test section; those of other subjects are left out.

        Raises:
            ImageError: when a file is damaged or the grids of image and mask differ.
        """
        volume = read_volume(image)
        lesion = read_mask(mask, volume)
        scaled = percentile_scale(volume, self.percentile)
        section = section_of(subject, self.splits, self.seed)
        depth = scaled.shape[2]
        items: Items = []
        for level in evenly_spaced(
            depth // 2, self.slices, max(1, round(self.gap_mm / spacing_z(volume))), depth
        ):
            pixels = int(lesion[:, :, level].sum())
            if 0 < pixels <= self.min_pixels or (pixels and section != "test"):
                out.skipped["tiny lesion" if section == "test" else "lesion slice of a training subject"] += 1
                continue
            name = f"{subject}_{level:03d}"
            item: Item = {"image": out.image(name, scaled[:, :, level]), "healthy": not pixels}
            if pixels:
                item |= {"mask": out.mask(name, lesion[:, :, level]), "kind": kind}
            items.append((section, {**item, "subject": subject, "level": level}))
        return items


def add_lesion_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``LesionSlices``."""
    parser.add_argument("--slices", type=int, default=5, help="slices of each subject (%(default)s)")
    parser.add_argument("--gap_mm", type=float, default=5.0, help="distance between them in mm (%(default)s)")
    parser.add_argument(
        "--percentile", type=float, default=98.0, help="percentile that becomes 1 (%(default)s)"
    )
    parser.add_argument(
        "--min_pixels", type=int, default=10, help="more mask pixels = abnormal (%(default)s)"
    )
