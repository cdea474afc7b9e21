"""HCP Young Adult (S1200): brain-extracted T2 or T1 volumes, split by subject.

Reads the official layout of the structural preprocessed packages,
``100307/T1w/T2w_acpc_dc_restore_brain.nii.gz`` (or ``T1w_acpc_dc_restore_brain.nii.gz``), at any depth. The
volumes stay where they are: each is read whole once, and the datalist holds its path and sha256. Slices are
cut when a bundle reads them.

The paper trains on 800 subjects and tests on 200 others; the default splits come close to that.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from robustmed_monai.data.split import split_subjects
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source, Splits, require_folder
from robustmed_monai.data_prep.pixels import read_volume
from robustmed_monai.utils.errors import ConfigError, DataError

SOURCE = Source(
    name="hcp",
    license="WU-Minn HCP Open Access Data Use Terms (registration); cite Van Essen et al. 2013.",
    description="Healthy young adults, brain-extracted, 0.7 mm.",
)
SPLITS: Splits = (0.72, 0.08, 0.2)
FILES = {"t1": "T1w_acpc_dc_restore_brain.nii.gz", "t2": "T2w_acpc_dc_restore_brain.nii.gz"}
SUBJECT = re.compile(r"\d{6}$")


def prepare(
    source: Path,
    output: Path,
    sequence: Literal["t1", "t2"] = "t2",
    seed: int = 0,
    splits: Sequence[float] = SPLITS,
    strict: bool = False,
) -> Path:
    """Prepare HCP.

    Args:
        source: folder with one folder per subject, at any depth.
        output: folder to write the datalist into.
        sequence: t2 (as the authors used) or t1.
        seed: seed of the split.
        splits: fractions of training, validation and test subjects.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        ConfigError: for an unknown sequence.
        DataError: when no subject is found or nothing can be used.
    """
    if sequence not in FILES:
        raise ConfigError(f"sequence={sequence!r}: choose one of {list(FILES)}.")
    folder = require_folder(source)
    subjects = sorted(p.parent for p in folder.rglob("T1w") if p.is_dir() and SUBJECT.match(p.parent.name))
    if not subjects:
        raise DataError(f"{folder}: no folder like 100307/T1w in it; give the unpacked official download.")
    out = Preparation(SOURCE, output, {"sequence": sequence, "seed": seed, "splits": list(splits)})
    sections = split_subjects((subject.name for subject in subjects), splits, seed)
    for subject in out.progress(subjects):
        path = subject / "T1w" / FILES[sequence]
        out.add_case(subject.name, sections[subject.name], [path], partial(_items, out, path, subject.name))
    return out.finish(strict)


def _items(out: Preparation, path: Path, subject: str) -> list[Item]:
    read_volume(path)
    return [{"image": out.external(path), "healthy": True, "subject": subject}]


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
