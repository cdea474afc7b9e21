"""COVID-19 Radiography Database: normal chest X-rays against lung opacity, viral pneumonia and COVID-19.

Reads the official layout ``COVID-19_Radiography_Dataset/{Normal,Lung_Opacity,Viral
Pneumonia,COVID}/images/*.png`` with the lung masks in ``.../masks`` (256 px; the images have 299 px). The
lung mask is anatomy, not anomaly: it becomes ``label``, resampled to the image by nearest neighbour. Images
are copied with their own scale (0..255 to [0, 1]); the download names no patients, so each file counts as a
subject of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from robustmed_monai.data.split import split_subjects
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source, Splits, require_folder
from robustmed_monai.data_prep.pixels import kind_name, nearest, read_slice

SOURCE = Source(
    name="chest_xray",
    license="Terms of the COVID-19 Radiography Database (rights stay with the original authors; research "
    "use); cite Chowdhury et al. 2020, Rahman et al. 2021.",
    description="Frontal chest X-rays, normal, lung opacity, viral pneumonia and COVID-19.",
)
# The split of the normal images that the RA group used: 8154, 1019 and 1019.
SPLITS: Splits = (0.8, 0.1, 0.1)
ROOT = "COVID-19_Radiography_Dataset"
NORMAL = "Normal"
CLASSES = (NORMAL, "Lung_Opacity", "Viral Pneumonia", "COVID")
FULL_SCALE = 255.0


def prepare(
    source: Path, output: Path, seed: int = 0, splits: Sequence[float] = SPLITS, strict: bool = False
) -> Path:
    """Prepare the COVID-19 Radiography Database.

    Args:
        source: the unpacked download (the folder with ``Normal/`` in it or the one above).
        output: folder to write.
        seed: seed of the split of the normal images.
        splits: fractions of training, validation and test among the normal images.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        DataError: when nothing can be used.
    """
    root = require_folder(source)
    root = root / ROOT if (root / ROOT).is_dir() else root
    out = Preparation(SOURCE, output, {"seed": seed, "splits": list(splits)})

    def make(path: Path, mask: Path | None, group: str) -> list[Item]:
        pixels = read_slice(path) / FULL_SCALE
        healthy = group == NORMAL
        item: dict[str, Any] = {
            "image": out.image(path.stem, pixels),
            "healthy": healthy,
            "subject": path.stem,
        }
        if mask is not None:
            item["label"] = out.tissue(path.stem, nearest(read_slice(mask), pixels.shape))
        if not healthy:
            item["kind"] = kind_name(group)
        return [item]

    found = {group: sorted((root / group / "images").glob("*.png")) for group in CLASSES}
    sections = split_subjects((path.stem for path in found[NORMAL]), splits, seed)
    for group, images in found.items():
        if not images:
            out.problem(root / group / "images", "missing or without PNG files")
        for path in out.progress(images):
            mask = root / group / "masks" / path.name
            with_mask = mask.parent.is_dir()
            files = [path, mask] if with_mask else [path]
            make_one = partial(make, path, mask if with_mask else None, group)
            section = sections[path.stem] if group == NORMAL else "test"
            out.add_case(f"{group}/{path.name}", section, files, make_one)
    return out.finish(strict)


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
