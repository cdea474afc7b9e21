"""OASIS-1 as a slab of axial T1 slices, in the frame of the MNI152 template, beside other slices.

Reads an npz with one row a slice: ``image`` (N, rows, columns) uint8 with the nose to the right, ``subject``
(N,), ``slice`` (N,) and ``validation`` (N,). The box of each head becomes the box of a head in the frame
(``AlignToTemplate``), and the percentile 90 of its foreground 1, as for whole heads at inference.

With ``--beside`` the sections of another datalist are taken over as they are and these slices become
training images beside its own; the subjects of ``validation`` are left out, so that what weights are chosen
and tested by stays that of the other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustmed_monai.data.datalist import load_datalist
from robustmed_monai.data.head_stacks import read_slab
from robustmed_monai.data.split import SECTIONS
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation
from robustmed_monai.data_prep.oasis_slices import SOURCE, nose_up
from robustmed_monai.transforms.align_to_template import AlignToTemplate
from robustmed_monai.transforms.scale_foreground import ScaleForeground
from robustmed_monai.utils.errors import ConfigError


def prepare(
    source: Path,
    output: Path,
    beside: Path | None = None,
    levels: Sequence[int] = (),
    size: int = 128,
    percentile: float = 90.0,
    strict: bool = False,
) -> Path:
    """Prepare the slab.

    Args:
        source: the npz.
        output: folder to write.
        beside: folder or datalist whose items are taken over; its files stay where they are.
        levels: numbers of the slices that are taken; none given: all.
        size: side of the written slices in pixels; the frame is 233 mm wide.
        percentile: percentile of a slice's foreground that becomes 1.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        ConfigError: for a level that no slice has.
        DataError: when the file cannot be used.
    """
    path = Path(source)
    data = read_slab(path, label=False)
    there = np.unique(data["slice"]).tolist()
    unknown = sorted(set(levels) - set(there))
    if unknown:
        raise ConfigError(f"levels: {unknown} are not in {path}; it has {there}.")
    settings = {"levels": sorted(levels), "size": size, "percentile": percentile}
    out = Preparation(SOURCE, output, {**settings, "beside": None if beside is None else str(beside)})
    if beside is not None:
        for section in SECTIONS:
            items = load_datalist(beside, section)
            files = [Path(item[key]) for item in items for key in ("image", "mask") if key in item]
            out.add_case(f"beside {section}", section, files, partial(_taken_over, out, items))
    wanted = np.isin(data["slice"], list(levels) or there)
    parts = {"training": wanted & ~data["validation"]}
    if beside is None:
        parts["validation"] = wanted & data["validation"]
    for section, chosen in parts.items():
        rows = np.nonzero(chosen)[0]
        out.add_case(section, section, [path], partial(_items, out, data, rows, size, percentile))
    return out.finish(strict)


def _taken_over(out: Preparation, items: Sequence[Item]) -> list[Item]:
    keys = ("image", "mask")
    files = [{k: out.external(Path(item[k])) for k in keys if k in item} for item in items]
    return [
        {"healthy": "mask" not in item, **item, **named} for item, named in zip(items, files, strict=True)
    ]


def _items(
    out: Preparation, data: dict[str, NDArray[Any]], rows: NDArray[np.intp], size: int, percentile: float
) -> list[Item]:
    align, scale = AlignToTemplate(size, 233 / size), ScaleForeground(percentile)
    items: list[Item] = []
    for row in out.progress(rows):
        subject, level = f"oasis_{int(data['subject'][row]):03d}", int(data["slice"][row])
        # Rows and columns of a picture, as its axes x and y.
        pixels = nose_up(data["image"][row].T.astype(np.float32))
        placed = scale(align(torch.from_numpy(pixels)[None])).as_subclass(torch.Tensor)
        picture = out.image(f"{subject}_{level:02d}", placed[0, ..., 0].numpy(), of_volume=True)
        items.append({"image": picture, "healthy": True, "subject": subject, "level": level})
    return items


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
