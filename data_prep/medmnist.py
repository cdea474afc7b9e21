"""MedMNIST: normal images against the other classes, as PNG at their own size.

Reads an official npz (``pneumoniamnist.npz``, ``pneumoniamnist_64.npz``, ...) after comparing its md5 with
the one the installed ``medmnist`` package states. Normal images of the official train split become
training, those of val become validation, and the whole official test split becomes test; abnormal images of
train and val are left out.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robustmed_monai.data_prep.common import Items, Preparation, Source, make_parser, run
from robustmed_monai.data_prep.pixels import kind_name
from robustmed_monai.transforms.load import read_npz_arrays
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
    flag, info, digest = _official(path)
    healthy = NORMAL.get(flag) if normal is None else normal
    if healthy is None or str(healthy) not in info["label"]:
        raise ConfigError(f"normal: got {healthy} for {flag}; give --normal as one of {info['label']}.")
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the official npz.")
    found = _md5(path)
    if found != digest:
        raise DataError(
            f"{path}: md5 {found} is not that of the official {path.name} ({digest}); download it again."
        )
    license = f"{info['license']}, MedMNIST v2 (Yang et al. 2023)"
    out = Preparation(
        Source(flag, license, str(info["description"])), output, {"file": path.name, "normal": healthy}
    )
    arrays = read_npz_arrays(path, [f"{part}_{what}" for part in PARTS for what in ("images", "labels")])

    def make(part: str) -> Items:
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"][:, 0]
        items: Items = []
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
            items.append((PARTS[part], item))
        return items

    for part in PARTS:
        if arrays[f"{part}_images"].ndim not in (3, 4) or arrays[f"{part}_labels"].shape[1:] != (1,):
            raise DataError(
                f"{path}: 3-D volumes and multi-label sets are not supported; give a 2-D single-label set."
            )
        out.case(part, [path], partial(make, part))
    return out.finish(strict)


def _official(path: Path) -> tuple[str, dict[str, Any], str]:
    """Return name, facts and md5 of the official file of this name."""
    import medmnist

    match = re.fullmatch(r"([a-z0-9]+mnist(?:3d)?)(_\d+)?", path.stem)
    info = medmnist.INFO.get(match[1]) if match else None
    if match is None or info is None or f"MD5{match[2] or ''}" not in info:
        raise DataError(
            f"{path}: is not named like an official file (e.g. pneumoniamnist.npz, breastmnist_64.npz)."
        )
    return match[1], info, str(info[f"MD5{match[2] or ''}"])


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _kind(label: str) -> str:
    return f"grade_{label}" if label.isdigit() else kind_name(label)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; see ``--help``."""
    parser = make_parser("robustmed_monai.data_prep.medmnist", __doc__)
    parser.add_argument("--normal", type=int, help="label of the healthy class (known for the usual sets)")
    return run(prepare, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
