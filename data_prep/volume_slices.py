"""Volumes to axial slices, cut as inference cuts them; with a lesion mask to abnormal and healthy ones."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from robustmed_monai.data.split import split_subjects
from robustmed_monai.data_prep.common import Item, Preparation
from robustmed_monai.data_prep.pixels import evenly_spaced, read_mask, read_volume, voxel_spacing
from robustmed_monai.transforms.load import GeometryWarning
from robustmed_monai.transforms.scale_foreground import ScaleForegroundd
from robustmed_monai.transforms.volume_slices import VolumeToSlicesd, foreground_box
from robustmed_monai.utils.errors import DataError

# The field of view of the MNI152 grid, that of the shipped weights.
SIZE, SPACING_MM = 233, 1.0


@dataclass(frozen=True)
class VolumeSlices:
    """Which axial slices of a volume are written, and how large.

    They are scaled and cut by the transforms of ``inference.json``, so that weights trained on them see at
    inference what they saw in training, whatever the grid of a volume.

    Args:
        slices: slices of each volume, spread around the middle one.
        gap_mm: distance between them in mm.
        percentile: percentile of the volume's foreground that becomes 1.
        size: side of the pictures in pixels.
        spacing_mm: side of a pixel in mm.
        min_pixels: a slice with more lesion pixels is abnormal, one with none healthy, the rest is left out.
    """

    slices: int
    gap_mm: float
    percentile: float = 99.5
    size: int = SIZE
    spacing_mm: float = SPACING_MM
    min_pixels: int = 0

    def cut(self, volumes: Mapping[str, MetaTensor]) -> dict[str, MetaTensor]:
        """Scale and cut volumes on one grid.

        Args:
            volumes: (1, X, Y, Z) by name; the first says where the slices lie, "mask" is not scaled.

        Returns:
            Stacks (1, size, size, slices) in [0, 1], nose up, of the same names.

        Raises:
            DataError: when a volume is empty.

        Warns:
            GeometryWarning: when the foreground is wider than the pictures.
        """
        images = [name for name in volumes if name != "mask"]
        for name in images:
            if not (volumes[name] > 0).any():
                raise DataError(f"the {name} is empty: no voxel is above 0; look at the file.")
        named: dict[Hashable, MetaTensor] = dict(volumes.items())
        scaled = ScaleForegroundd(images, self.percentile)(named)
        self._check_width(scaled[images[0]])
        modes = ["nearest" if name == "mask" else "bilinear" for name in volumes]
        cut = VolumeToSlicesd(list(volumes), self.size, self.spacing_mm, mode=modes)  # type: ignore[arg-type]
        return {str(name): stack for name, stack in cut(scaled).items()}

    def _check_width(self, volume: MetaTensor) -> None:
        sides = voxel_spacing(volume)
        box = foreground_box(volume.as_tensor())
        width = max((high - low) * side for (low, high), side in zip(box, sides, strict=False))
        if width > self.size * self.spacing_mm:
            warnings.warn(
                f"{volume.meta.get('filename_or_obj', 'volume')}: the foreground is {width:.0f} mm wide, the "
                f"pictures {self.size * self.spacing_mm:.0f} mm; give a larger --size to lose none of it",
                GeometryWarning,
                stacklevel=3,
            )

    def write(
        self,
        out: Preparation,
        name: str,
        stacks: Mapping[str, MetaTensor],
        item: Item,
        middle: int | None = None,
        healthy_only: bool = False,
    ) -> list[Item]:
        """Write slices of a volume, and return their items.

        Args:
            out: where to.
            name: first part of the files' names.
            stacks: "image" and, where there are lesions, "mask", as ``cut`` gives them.
            item: what each item says; with a mask, `kind` is for slices with a lesion only.
            middle: number of the middle slice; None takes the middle of the volume.
            healthy_only: leave out slices with a lesion.

        Returns:
            Items with `image`, `pixel_mm` (side of a pixel), `level` and, where there is a lesion, `mask`.
        """
        pictures = {key: np.asarray(stack[0], dtype=np.float32) for key, stack in stacks.items()}
        image, lesion = pictures["image"], pictures.get("mask")
        depth = image.shape[2]
        step = max(1, round(self.gap_mm / voxel_spacing(stacks["image"])[2]))
        items: list[Item] = []
        for level in evenly_spaced(depth // 2 if middle is None else middle, self.slices, step, depth):
            pixels = 0 if lesion is None else int(lesion[:, :, level].sum())
            if 0 < pixels <= self.min_pixels or (pixels and healthy_only):
                out.skipped["lesion slice of a training subject" if healthy_only else "tiny lesion"] += 1
                continue
            place = f"{name}_{level:03d}"
            found = {"healthy": not pixels, **item, "level": level, "pixel_mm": self.spacing_mm}
            if lesion is not None and pixels:
                found["mask"] = out.mask(place, lesion[:, :, level])
            elif lesion is not None:
                found.pop("kind", None)
            items.append({"image": out.image(place, image[:, :, level], of_volume=True), **found})
        return items


def add_lesion_cases(
    out: Preparation,
    cases: Sequence[tuple[str, str, Path, Path]],
    kind: str,
    cut: VolumeSlices,
    seed: int,
    splits: Sequence[float],
) -> None:
    """Cut volumes with a lesion mask. Slices with a lesion are of the test section alone.

    Args:
        out: where to.
        cases: key, subject, image and mask of each.
        kind: what the lesions are.
        cut: which slices.
        seed: seed of the split.
        splits: fractions of training, validation and test subjects.
    """
    sections = split_subjects((subject for _, subject, _, _ in cases), splits, seed)

    def make(subject: str, image: Path, mask: Path) -> list[Item]:
        volume = read_volume(image)
        stacks = cut.cut({"image": volume, "mask": read_mask(mask, volume)})
        item: Item = {"subject": subject, "kind": kind}
        return cut.write(out, subject, stacks, item, healthy_only=sections[subject] != "test")

    for key, subject, image, mask in out.progress(cases):
        out.add_case(key, sections[subject], [image, mask], partial(make, subject, image, mask))
