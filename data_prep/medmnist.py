"""MedMNIST: normal images against the other classes, as PNG at their own size.

Reads an official npz (``pneumoniamnist.npz``, ``pneumoniamnist_64.npz``, ...) after comparing its md5 with
the one the installed ``medmnist`` package states. Normal images of the official train split become
training, those of val become validation, and the whole official test split becomes test; abnormal images of
train and val are left out.
"""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robustmed_monai.data.medmnist import medmnist_info, read_official
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source
from robustmed_monai.data_prep.pixels import kind_name
from robustmed_monai.utils.errors import ConfigError, DataError

# The class that means "normal", where the data set has one.
NORMAL = {"pneumoniamnist": 0, "breastmnist": 1, "octmnist": 3, "retinamnist": 0}
PARTS = {"train": "training", "val": "validation", "test": "test"}


def prepare(source: Path, output: Path, normal: int | None = None, strict: bool = False) -> Path:
    """Prepare one MedMNIST data set.

    Args:
        source: the official npz; its name says which data set it is.
        output: folder to write.
        normal: label of the healthy class; known for pneumonia-, breast-, oct- and retinamnist.
        strict: refuse when anything is wrong (there is one file, so this only repeats the check).

    Returns:
        Path of ``datalist.json``.

    Raises:
        DataError: when the file is missing, not the official one, or of a layout that cannot be used.
        ConfigError: when the data set has no class known as normal and ``normal`` is not given.
    """
    path = Path(source)
    match = re.fullmatch(r"([a-z0-9]+mnist)(_\d+)?", path.stem)
    if match is None:
        raise DataError(
            f"{path}: is not named like an official file (e.g. pneumoniamnist.npz, breastmnist_64.npz)."
        )
    flag, info = match[1], medmnist_info(match[1])
    healthy = NORMAL.get(flag) if normal is None else normal
    if healthy is None or str(healthy) not in info["label"]:
        raise ConfigError(f"normal: got {healthy} for {flag}; give --normal as one of {info['label']}.")
    names = [f"{part}_{what}" for part in PARTS for what in ("images", "labels")]
    arrays = read_official(path, info, names)
    license = f"{info['license']}, MedMNIST v2 (Yang et al. 2023)"
    out = Preparation(
        Source(flag, license, str(info["description"])), output, {"file": path.name, "normal": healthy}
    )

    def make(part: str) -> list[Item]:
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"][:, 0]
        items: list[Item] = []
        for index in out.progress(np.nonzero((labels == healthy) | (part == "test"))[0]):
            label = int(labels[index])
            pixels = images[index] if images.ndim == 3 else images[index].mean(axis=-1)
            name = out.image(f"{part}_{index:05d}", (pixels.T / 255).astype(np.float32))
            item: dict[str, Any] = {
                "image": name,
                "healthy": label == healthy,
                "subject": f"{part}_{index:05d}",
            }
            if label != healthy:
                item["kind"] = _kind(info["label"][str(label)])
            items.append(item)
        return items

    for part in PARTS:
        if arrays[f"{part}_images"].ndim not in (3, 4) or arrays[f"{part}_labels"].shape[1:] != (1,):
            raise DataError(
                f"{path}: 3-D volumes and multi-label sets are not supported; give a 2-D single-label set."
            )
        out.add_case(part, PARTS[part], [path], partial(make, part))
    return out.finish(strict)


def _kind(label: str) -> str:
    return f"grade_{label}" if label.isdigit() else kind_name(label)


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
