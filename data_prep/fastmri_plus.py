"""fastMRI brain volumes with the fastMRI+ annotations: mid axial slices, boxes and box masks.

Reads the official ``*.h5`` files (any folder depth; ``reconstruction_rss`` of shape (slices, rows,
columns)) and the annotation files ``brain.csv`` (file, slice, study_level, x, y, width, height, label) and
``brain_file_list.csv`` (the volumes that were reviewed). As the annotators' notes say, boxes were drawn on
the image flipped up/down, so the slices are written flipped: nose up, boxes as in the table.

A reviewed volume is healthy when the table holds nothing of it, or only the study-level label "Normal for
age". In a volume with findings a slice is abnormal when it holds a box, or when the study carries another
study-level label; its other slices are neither and are left out. A slice has one kind (that of the largest
boxed area); ``box_kinds`` names the kind of each box.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from robustmed_monai.data.split import split_subjects
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source, Splits, read_csv, require_folder
from robustmed_monai.data_prep.pixels import (
    Array,
    box_mask,
    clip_box,
    evenly_spaced,
    kind_name,
    main_kind,
    percentile_scale,
    square_pixels,
)
from robustmed_monai.utils.errors import CorruptImageError, DataError, ImageShapeError, NonFiniteImageError

SOURCE = Source(
    name="fastmri_plus",
    license="Images: fastMRI data sharing agreement (NYU Langone Health; research use, no redistribution). "
    "Annotations: fastMRI+ (Zhao et al. 2022).",
    description="Brain MRI, mid axial slices, with boxes around findings.",
)
# RA used 130 normals of fastMRI for training, 15 for validation and 30 for the test.
SPLITS: Splits = (0.74, 0.09, 0.17)
# RA works on T1-weighted slices; the contrast is a part of the file name.
CONTRASTS = ("AXT1", "AXT1PRE")
NORMAL = "normal for age"
RECON_SPACE = re.compile(
    rb"<reconSpace>.*?<matrixSize>\s*<x>(\d+)</x>\s*<y>(\d+)</y>.*?"
    rb"<fieldOfView_mm>\s*<x>([\d.]+)</x>\s*<y>([\d.]+)</y>",
    re.DOTALL,
)
COLUMNS = ("file", "slice", "study_level", "x", "y", "width", "height", "label")


Corners = tuple[float, float, float, float]


@dataclass
class Findings:
    """What the table says of a volume: boxes by slice and study labels other than "Normal for age"."""

    boxes: dict[int, list[tuple[Corners, str]]] = field(default_factory=dict)
    study: list[str] = field(default_factory=list)


def prepare(
    source: Path,
    output: Path,
    annotations: Path | None = None,
    slices: int = 1,
    contrasts: Sequence[str] = CONTRASTS,
    percentile: float = 98.0,
    seed: int = 0,
    splits: Sequence[float] = SPLITS,
    strict: bool = False,
) -> Path:
    """Prepare fastMRI with fastMRI+.

    Args:
        source: folder with the h5 files.
        output: folder to write.
        annotations: folder with ``brain.csv`` and ``brain_file_list.csv``; ``source`` when not given.
        slices: neighbouring slices around the middle one of each volume.
        contrasts: contrasts to take, as in the file names: AXT1, AXT1PRE, AXT1POST, AXT2, AXFLAIR.
        percentile: percentile of the volume that becomes 1.
        seed: seed of the split of the normal volumes.
        splits: fractions of training, validation and test among the normal volumes.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        DataError: when a table is missing or nothing can be used.
    """
    source = require_folder(source)
    tables = Path(annotations) if annotations is not None else source
    settings = {"slices": slices, "contrasts": list(contrasts), "percentile": percentile}
    out = Preparation(SOURCE, output, {**settings, "seed": seed, "splits": list(splits)})
    findings = read_findings(out, tables / "brain.csv")
    reviewed = _read_list(tables / "brain_file_list.csv")
    files = {path.stem: path for path in sorted(source.rglob("*.h5"))}

    volumes = sorted(reviewed | set(findings))
    taken = [name for name in volumes if any(f"_{contrast}_" in name for contrast in contrasts)]
    out.skipped.update({"other contrast": len(volumes) - len(taken)})
    abnormal = {name for name, found in findings.items() if found.boxes or found.study}
    sections = split_subjects(set(taken) - abnormal, splits, seed)
    for name in out.progress(taken):
        path, found = files.get(name, source / f"{name}.h5"), findings.get(name, Findings())
        make = partial(_items, out, path, found, slices, percentile)
        stamp = [sorted(found.boxes.items()), found.study]
        out.add_case(name, sections.get(name, "test"), [path], make, stamp)
    return out.finish(strict)


def _items(out: Preparation, path: Path, found: Findings, slices: int, percentile: float) -> list[Item]:
    volume, spacing = _read_h5(path)
    scaled = percentile_scale(volume, percentile)
    items: list[Item] = []
    for level in evenly_spaced(scaled.shape[2] // 2, slices, 1, scaled.shape[2]):
        pixels = square_pixels(scaled[:, :, level], spacing or (1.0, 1.0))
        item: Item = {"subject": path.stem, "level": level, "healthy": False}
        item |= {"pixel_mm": round(min(spacing), 4)} if spacing else {}
        name = f"{path.stem}_{level:02d}"
        if found.boxes.get(level):
            boxes = [clip_box(*_on_square(box, spacing), pixels.shape) for box, _ in found.boxes[level]]
            kinds = [kind for _, kind in found.boxes[level]]
            item |= {"boxes": boxes, "box_kinds": kinds, "kind": main_kind(boxes, kinds)}
            item["mask"] = out.mask(name, box_mask(boxes, pixels.shape))
        elif found.study:
            item["kind"] = found.study[0]
        elif found.boxes:
            out.skipped["slice without a box in a volume with findings"] += 1
            continue
        else:
            item["healthy"] = True
        items.append({"image": out.image(name, pixels), **item})
    return items


def _on_square(box: Corners, spacing: tuple[float, float] | None) -> Corners:
    """Corners of a box after ``square_pixels``, which leaves the middle of the first pixel where it is."""
    wide, high = (side / min(spacing) for side in spacing) if spacing else (1.0, 1.0)
    x0, y0, x1, y1 = ((edge - 0.5) * (wide, high)[place % 2] + 0.5 for place, edge in enumerate(box))
    return x0, y0, x1, y1


def read_findings(out: Preparation, path: Path) -> dict[str, Findings]:
    """Read ``brain.csv``; a row that cannot be read is reported and left out."""
    findings: dict[str, Findings] = {}
    for line, row in read_csv(path, COLUMNS):
        found = findings.setdefault(row["file"], Findings())
        kind = kind_name(row["label"])
        if row["study_level"].lower() == "yes":
            if row["label"].lower() != NORMAL:
                found.study.append(kind)
            continue
        try:
            x, y, width, height = (float(row[name]) for name in ("x", "y", "width", "height"))
            found.boxes.setdefault(int(row["slice"]), []).append(((x, y, x + width, y + height), kind))
        except ValueError:
            out.problem(f"{path}:{line}", f"a box needs numbers, found {list(row.values())}")
    return findings


def _read_list(path: Path) -> set[str]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; it is part of fastMRI+ and says which volumes were reviewed.")
    return set(path.read_text(encoding="utf-8-sig").split())


def _read_h5(path: Path) -> tuple[Array, tuple[float, float] | None]:
    """Return the root-sum-of-squares images (X, Y, Z), flipped up/down, and their spacing in mm if stated."""
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            "fastMRI files are HDF5: install h5py (voxelmorph brings it) and run again."
        ) from error
    try:
        with h5py.File(path, "r") as file:
            if "reconstruction_rss" not in file:
                raise DataError(
                    f"{path}: holds no reconstruction_rss but {sorted(file)}; the test sets have none."
                )
            volume = np.asarray(file["reconstruction_rss"], dtype=np.float32)
            header = RECON_SPACE.search(file["ismrmrd_header"][()] if "ismrmrd_header" in file else b"")
    except (OSError, RuntimeError) as error:
        raise CorruptImageError(f"{path}: is no readable HDF5 file ({error}); download it again.") from error
    if volume.ndim != 3:
        raise ImageShapeError(
            f"{path}: reconstruction_rss has shape {volume.shape}, (slices, rows, columns) expected."
        )
    if not np.isfinite(volume).all():
        raise NonFiniteImageError(
            f"{path}: reconstruction_rss holds NaN or infinite values; download it again."
        )
    # The header's x is the direction of readout, which fastMRI stores as rows.
    row, column = (float(header[3]) / int(header[1]), float(header[4]) / int(header[2])) if header else (0, 0)
    upright = np.ascontiguousarray(volume[:, ::-1, :].transpose(2, 1, 0))
    return upright, (column, row) if header else None


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
