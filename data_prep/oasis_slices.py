"""OASIS-1 as labelled slices: T1 with skull, three axial slices per subject, CSF, grey and white matter.

Reads ``train/images``, ``train/labels``, ``val/images`` and ``val/labels`` with ``case_<n>_slice_<k>.png`` in
each: 8-bit grey images, and labels with the grey values 0, 85, 170 and 255 (background, CSF, grey, white
matter). The files show the head with the nose to the right; it is turned up here, as everywhere in this
project (which side is the patient's left is not recorded).

The subjects of ``val`` become the test set and are never used for a choice. ``--validation`` subjects of
``train``, drawn by name and seed, are held back to choose weights by; the rest is training.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from robustmed_monai.data.split import rank_subjects
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source, require_folder
from robustmed_monai.data_prep.label_maps import check_size, renumber, shrink, shrink_labels
from robustmed_monai.data_prep.pixels import Array, read_slice
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

SOURCE = Source(
    name="oasis_slices",
    license="OASIS data use agreement (https://oasis-brains.org/#access): acknowledge, no re-identification; "
    "cite Marcus et al. 2007",
    description="OASIS-1, T1 with skull, axial slices; labels 0 background, 1 CSF, 2 grey, 3 white matter.",
)
NAME = re.compile(r"(case_\d+)_slice_(\d+)\.png$")
GREY_VALUES = {0: 0, 85: 1, 170: 2, 255: 3}


def prepare(
    source: Path,
    output: Path,
    size: int | None = 128,
    validation: int = 30,
    seed: int = 0,
    strict: bool = False,
) -> Path:
    """Prepare the slices.

    Args:
        source: folder with ``train`` and ``val``.
        output: folder to write.
        size: side of the written slices in pixels: the image is averaged over areas, of the labels the
            nearest is taken; None keeps the files' own size.
        validation: number of subjects of ``train`` held back for the choice of weights.
        seed: another seed, other subjects.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        ConfigError: for a size or number of subjects out of range.
        DataError: when nothing can be used, or a subject is in both folders.
    """
    check_size(size)
    root = require_folder(source)
    parts = {part: _subjects(root / part) for part in ("train", "val")}
    both = sorted(parts["train"].keys() & parts["val"].keys())
    if both or not parts["train"] or not parts["val"]:
        found = {part: len(subjects) for part, subjects in parts.items()}
        raise DataError(
            f"{root}: subjects {found}, in both {both[:3]}; train/images and val/images need "
            "case_<n>_slice_<k>.png of different subjects."
        )
    chosen = held_back(list(parts["train"]), validation, seed)
    settings = {"size": size, "validation": validation, "seed": seed}
    out = Preparation(SOURCE, output, settings)

    def make(image: Path, labels: Path, subject: str, level: int) -> list[Item]:
        pixels, classes = read_slice(image), read_slice(labels)
        if pixels.shape != classes.shape:
            raise ImageShapeError(f"{labels}: {classes.shape} pixels for an image of {pixels.shape}.")
        others = sorted(set(np.unique(classes).tolist()) - set(GREY_VALUES))
        if others:
            raise DataError(f"{labels}: has the grey values {others[:5]}, expected {sorted(GREY_VALUES)}.")
        tissue = renumber(nose_up(classes), GREY_VALUES, str(labels))
        name = f"{subject}_{level:02d}"
        item = {
            "image": out.image(name, shrink(nose_up(pixels) / np.float32(255), size)),
            "label": out.labels(name, shrink_labels(tissue, size)),
        }
        return [{**item, "healthy": True, "subject": subject, "level": level}]

    for part, subjects in parts.items():
        for subject, files in out.progress(subjects.items()):
            section = "test" if part == "val" else "validation" if subject in chosen else "training"
            for level, image in files:
                labels = root / part / "labels" / image.name
                make_one = partial(make, image, labels, subject, level)
                out.add_case(f"{part}/{image.name}", section, [image, labels], make_one)
    return out.finish(strict)


def nose_up(pixels: Array) -> Array:
    """Turn an image (X, Y) whose nose points to the right by a quarter turn to the left.

    >>> nose_up(np.asarray([[0, 1], [2, 3]], dtype=np.float32)).tolist()
    [[2.0, 0.0], [3.0, 1.0]]
    """
    turned: Array = np.ascontiguousarray(pixels.T[:, ::-1])
    return turned


def held_back(subjects: Sequence[str], count: int, seed: int) -> set[str]:
    """Draw ``count`` subjects by their names and the seed alone.

    Raises:
        ConfigError: when none would be left to train on, or none drawn.
    """
    if not 0 < count < len(subjects):
        raise ConfigError(f"validation: got {count} of {len(subjects)} subjects; give a number in between.")
    return set(rank_subjects(subjects, seed)[:count])


def _subjects(folder: Path) -> dict[str, list[tuple[int, Path]]]:
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted((folder / "images").glob("*.png")):
        match = NAME.fullmatch(path.name)
        if match:
            found.setdefault(match[1], []).append((int(match[2]), path))
    return found


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
