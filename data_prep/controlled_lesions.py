"""Healthy slices to a datalist whose test set holds them as they are and with drawn lesions.

Layout: ``source/train/*.png`` and ``source/val/*.png``, one healthy slice per subject, such as
``ixi_t1_slices``. The test set is val/ plus ``lesions`` copies of each slice with one controlled lesion and
its mask (hyper, hypo, mass effect, cavity, enlarged ventricles, thin rim; sizes and contrasts of
``robustmed_monai.transforms.lesions``). The slices of train/ whose names have the lowest sha256 are held back
for validation.
"""

from __future__ import annotations

import hashlib
import sys
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from monai.data import MetaTensor

from robustmed_monai.data.split import rank_subjects
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source, require_folder
from robustmed_monai.transforms.lesions import draw_lesion, sample_lesion, size_name
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.utils.errors import ConfigError, DataError


def prepare(
    source: Path, output: Path, lesions: int = 3, validation: int = 44, seed: int = 0, strict: bool = False
) -> Path:
    """Make the datalist and draw the lesions.

    Args:
        source: folder with train/ and val/.
        output: folder for the drawn images, their masks and ``datalist.json``; healthy slices are named by
            path.
        lesions: copies with a lesion of each test slice.
        validation: slices of train/ that are held back for validation.
        seed: seed of the lesions.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        ConfigError: for a number below 1.
        DataError: when a folder is missing, or train/ has no more images than validation takes.
    """
    if lesions < 1 or validation < 1:
        raise ConfigError(f"lesions={lesions}, validation={validation}: both must be at least 1.")
    source = require_folder(source)
    train, val = (sorted(require_folder(source / name).glob("*.png")) for name in ("train", "val"))
    if len(train) <= validation or not val:
        raise DataError(
            f"{source}: {len(train)} images in train/ and {len(val)} in val/; need over {validation} and 1."
        )
    held_back = set(rank_subjects((path.name for path in train), seed=None)[:validation])
    described = Source(
        "controlled_lesions",
        "as the owner of the images says",
        f"{source.name}: healthy slices, and with drawn lesions.",
    )
    out = Preparation(described, output, {"lesions": lesions, "validation": validation, "seed": seed})
    for path in train:
        section = "validation" if path.name in held_back else "training"
        out.add_case(str(path), section, [path], partial(_healthy, out, path))
    for path in out.progress(val):
        out.add_case(str(path), "test", [path], partial(_test_items, out, path, lesions, seed))
    return out.finish(strict)


def _healthy(out: Preparation, path: Path) -> list[Item]:
    return [{"image": out.external(path), "healthy": True, "subject": path.stem}]


def _test_items(out: Preparation, path: Path, lesions: int, seed: int) -> list[Item]:
    items = _healthy(out, path)
    loaded = cast(MetaTensor, LoadCheckedImage(channels=1, spatial_dims=2)(path))
    pixels = np.asarray(loaded[0], dtype=np.float32)
    # A lesion must not change how bright the picture is to the network beside its healthy original.
    of_volume = bool(loaded.meta.get("scaled_as_volume"))
    image = pixels / max(float(loaded.meta["max_value"] if of_volume else pixels.max()), 1e-6)
    for number in range(lesions):
        drawn = int(hashlib.sha256(f"{seed}:{path.name}:{number}".encode()).hexdigest()[:12], 16)
        spec = sample_lesion(image, np.random.default_rng(drawn))
        changed, mask = draw_lesion(image, spec)
        name = f"{path.stem}_lesion{number}"
        item = {"image": out.image(name, changed, of_volume), "mask": out.mask(name, mask.astype(np.float32))}
        item |= {"kind": spec.kind, "size": size_name(int(mask.sum()), max(image.shape))}
        items.append({**item, "healthy": False, "subject": path.stem})
    return items


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
