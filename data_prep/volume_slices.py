"""Volumes to axial slices with square pixels; volumes with a lesion mask to abnormal and healthy ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from robustmed_monai.data.split import split_subjects
from robustmed_monai.data_prep.common import Item, Preparation
from robustmed_monai.data_prep.pixels import (
    Array,
    evenly_spaced,
    percentile_scale,
    read_mask,
    read_volume,
    square_pixels,
    voxel_spacing,
)


@dataclass(frozen=True)
class VolumeSlices:
    """Which axial slices of a volume are written.

    Args:
        slices: slices of each volume, spread around the middle one.
        gap_mm: distance between them in mm.
        min_pixels: a slice with more lesion pixels is abnormal, one with none healthy, the rest is left out.
    """

    slices: int
    gap_mm: float
    min_pixels: int = 0

    def write(
        self,
        out: Preparation,
        name: str,
        volume: Array,
        spacing: tuple[float, float, float],
        item: Item,
        middle: int | None = None,
        lesion: Array | None = None,
        healthy_only: bool = False,
    ) -> list[Item]:
        """Write the slices of a volume with square pixels, and return their items.

        Args:
            out: where to.
            name: first part of the files' names.
            volume: (X, Y, Z) in axcodes "RPS", in [0, 1].
            spacing: sides of the voxels in mm.
            item: what each item says; with a lesion mask, `kind` is for slices with a lesion only.
            middle: number of the middle slice; None takes the middle of the volume.
            lesion: mask on the same grid.
            healthy_only: leave out slices with a lesion.

        Returns:
            Items with `image`, `pixel_mm` (side of a pixel), `level` and, where there is a lesion, `mask`.
        """
        depth = volume.shape[2]
        step = max(1, round(self.gap_mm / spacing[2]))
        items: list[Item] = []
        for level in evenly_spaced(depth // 2 if middle is None else middle, self.slices, step, depth):
            pixels = 0 if lesion is None else int(lesion[:, :, level].sum())
            if 0 < pixels <= self.min_pixels or (pixels and healthy_only):
                out.skipped["lesion slice of a training subject" if healthy_only else "tiny lesion"] += 1
                continue
            place, plane = f"{name}_{level:03d}", spacing[:2]
            found = {"healthy": not pixels, **item, "level": level, "pixel_mm": round(min(plane), 4)}
            if lesion is not None and pixels:
                found["mask"] = out.mask(place, square_pixels(lesion[:, :, level], plane, labels=True))
            elif lesion is not None:
                found.pop("kind", None)
            items.append({"image": out.image(place, square_pixels(volume[:, :, level], plane)), **found})
        return items


def add_lesion_cases(
    out: Preparation,
    cases: Sequence[tuple[str, str, Path, Path]],
    kind: str,
    cut: VolumeSlices,
    percentile: float,
    seed: int,
    splits: Sequence[float],
) -> None:
    """Cut volumes with a lesion mask. Slices with a lesion are of the test section alone.

    Args:
        out: where to.
        cases: key, subject, image and mask of each.
        kind: what the lesions are.
        cut: which slices.
        percentile: percentile of the volume that becomes 1.
        seed: seed of the split.
        splits: fractions of training, validation and test subjects.
    """
    sections = split_subjects((subject for _, subject, _, _ in cases), splits, seed)

    def make(subject: str, image: Path, mask: Path) -> list[Item]:
        volume = read_volume(image)
        lesion = read_mask(mask, volume)
        scaled, item = percentile_scale(volume, percentile), {"subject": subject, "kind": kind}
        spacing, healthy_only = voxel_spacing(volume), sections[subject] != "test"
        return cut.write(out, subject, scaled, spacing, item, lesion=lesion, healthy_only=healthy_only)

    for key, subject, image, mask in out.progress(cases):
        out.add_case(key, sections[subject], [image, mask], partial(make, subject, image, mask))
