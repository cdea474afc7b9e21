"""GRAZPEDWRI-DX: paediatric wrist X-rays, normal against boxed findings.

Reads the official layout: ``dataset.csv``, the 16-bit PNGs of ``images_part1`` to ``images_part4`` (any
folder of PNGs will do) and the boxes of ``folder_structure/yolov5/labels/<filestem>.txt`` (class, centre x,
centre y, width, height as fractions of the image).

An image is divided by its 98th percentile and clipped, as in the preprocessing of the RA group; padding to
a square and resizing stay with the bundle's transforms. The box class ``text`` (side markers) is no
finding. Normal is an image without a finding whose row in ``dataset.csv`` names no fracture, metal,
osteopenia, cast, uncertain diagnosis or AO class and, unless ``--keep_text``, without a text box. Images
that are neither are left out. The normals are split by patient; every image with a finding goes to the test
section, so normals of a patient with findings do so too.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from robustmed_monai.data.split import split_subjects
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source, Splits, read_csv, require_folder
from robustmed_monai.data_prep.pixels import box_mask, clip_box, main_kind, percentile_scale, read_slice
from robustmed_monai.utils.errors import DataError

SOURCE = Source(
    name="grazpedwri",
    license="CC BY 4.0, GRAZPEDWRI-DX (Nagy et al. 2022, Medical University of Graz)",
    description="Paediatric wrist X-rays with boxes around findings.",
)
# The RA group had 1600, 201 and 1039 normal images.
SPLITS: Splits = (0.56, 0.07, 0.37)
LABELS = ("folder_structure/yolov5/labels", "yolov5/labels", "labels")
# Order of the classes in the YOLO files (meta.yaml of the download).
CLASSES = (
    "bone_anomaly",
    "bone_lesion",
    "foreign_body",
    "fracture",
    "metal",
    "periosteal_reaction",
    "pronator_sign",
    "soft_tissue",
    "text",
)
TEXT = CLASSES.index("text")
FLAGS = ("fracture_visible", "metal", "osteopenia", "cast", "diagnosis_uncertain", "ao_classification")
SPACING = "pixel_spacing"
PERCENTILE = 98.0

YoloBox = tuple[int, float, float, float, float]


def prepare(
    source: Path,
    output: Path,
    keep_text: bool = False,
    seed: int = 0,
    splits: Sequence[float] = SPLITS,
    strict: bool = False,
) -> Path:
    """Prepare GRAZPEDWRI-DX.

    Args:
        source: folder of the unpacked download.
        output: folder to write.
        keep_text: count images with side markers as normal.
        seed: seed of the split of the normal images.
        splits: fractions of training, validation and test among the patients with normal images only.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        DataError: when the table or the box folder is missing or nothing can be used.
    """
    source = require_folder(source)
    rows = [row for _, row in read_csv(source / "dataset.csv", ("filestem", "patient_id", *FLAGS))]
    labels = next((source / name for name in LABELS if (source / name).is_dir()), None)
    if labels is None:
        raise DataError(f"{source}: no {LABELS[0]}; unpack folder_structure.zip of the official download.")
    files = {path.stem: path for path in sorted(source.rglob("*.png"), reverse=True)}
    out = Preparation(SOURCE, output, {"keep_text": keep_text, "seed": seed, "splits": list(splits)})
    boxes = {row["filestem"]: _read_boxes(out, labels / f"{row['filestem']}.txt") for row in rows}
    ill = {row["patient_id"] for row in rows if _findings(boxes[row["filestem"]])}
    kept = []
    for row in rows:
        drawn = boxes[row["filestem"]]
        reason = "" if _findings(drawn) else _not_normal(row, drawn, keep_text)
        if reason:
            out.skipped[f"no finding, but {reason}"] += 1
        else:
            kept.append((row, drawn))
    sections = split_subjects({row["patient_id"] for row, _ in kept} - ill, splits, seed)
    for row, drawn in out.progress(kept):
        path = files.get(row["filestem"], source / "images_part1" / f"{row['filestem']}.png")
        make = partial(_items, out, path, row, _findings(drawn))
        section = sections.get(row["patient_id"], "test")
        out.add_case(row["filestem"], section, [path], make, stamp=[row, drawn])
    return out.finish(strict)


def _items(out: Preparation, path: Path, row: Mapping[str, str], drawn: Sequence[YoloBox]) -> list[Item]:
    pixels = percentile_scale(read_slice(path), PERCENTILE)
    item: dict[str, Any] = {"healthy": not drawn, "subject": row["patient_id"]}
    if row.get(SPACING):
        try:
            item["pixel_mm"] = float(row[SPACING])
        except ValueError as error:
            raise DataError(f"{path}: dataset.csv gives {SPACING} {row[SPACING]!r}, no number.") from error
    if drawn:
        columns, rows = pixels.shape
        corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for _, x, y, w, h in drawn]
        item["boxes"] = [
            clip_box(x0 * columns, y0 * rows, x1 * columns, y1 * rows, pixels.shape)
            for x0, y0, x1, y1 in corners
        ]
        item["box_kinds"] = [CLASSES[index] for index, *_ in drawn]
        item["kind"] = main_kind(item["boxes"], item["box_kinds"])
        item["mask"] = out.mask(path.stem, box_mask(item["boxes"], pixels.shape))
    return [{"image": out.image(path.stem, pixels), **item}]


def _findings(boxes: Sequence[YoloBox]) -> list[YoloBox]:
    return [box for box in boxes if box[0] != TEXT]


def _not_normal(row: dict[str, str], boxes: Sequence[YoloBox], keep_text: bool) -> str:
    flag = next((name for name in FLAGS if row[name] not in ("", "0")), "")
    return flag or ("text" if boxes and not keep_text else "")


def _read_boxes(out: Preparation, path: Path) -> list[YoloBox]:
    """Read a YOLO file; an image without objects may have none."""
    boxes: list[YoloBox] = []
    if not path.is_file():
        return boxes
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            name, x, y, width, height = line.split()
            CLASSES[int(name)]
            boxes.append((int(name), float(x), float(y), float(width), float(height)))
        except (ValueError, IndexError):
            out.problem(
                f"{path}:{number}", f"a class of 0..{TEXT} and four numbers are needed, found {line!r}"
            )
    return boxes


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
