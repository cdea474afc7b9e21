"""What registration is asked to do: two files, two folders or a list become pairs of files."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from robustmed_monai.data.image_list import list_images
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.files import read_json

_PAIRS = "pairs.json"


def list_pairs(
    moving: str | os.PathLike[str] | None = None,
    fixed: str | os.PathLike[str] | None = None,
    pairs: str | os.PathLike[str] | None = None,
) -> list[dict[str, str]]:
    """Pairs of image files.

    Args:
        moving: an image, or a folder of images that are all registered to ``fixed``.
        fixed: an image.
        pairs: instead of both: a JSON ``{"pairs": [{"moving": path, "fixed": path}, ...]}`` with paths
            relative to it, a folder that holds ``pairs.json``, or a folder with the subfolders ``moving`` and
            ``fixed``, whose files of the same name, in the same folder below, belong together.

    Returns:
        Items of `moving`, `fixed` and `image`, which is the moving image again: results are named by it.

    Raises:
        DataError: when an image is missing, or one moving image is in two pairs.
    """
    if pairs is not None and (moving is not None or fixed is not None):
        raise DataError("both --input and --moving or --fixed are given; give one or the other.")
    if pairs is not None:
        found = _listed(Path(pairs).expanduser().absolute())
    elif moving is None or fixed is None:
        raise DataError("no pair: give --moving and --fixed an image file each, or --input a list of pairs.")
    else:
        target = _images("--fixed", fixed)
        if len(target) != 1:
            raise DataError(f"--fixed {fixed}: holds {len(target)} images; give one.")
        found = [(item["image"], target[0]["image"]) for item in _images("--moving", moving)]
    twice = [name for name, count in Counter(first for first, _ in found).items() if count > 1]
    if twice:
        raise DataError(
            f"{twice[0]}: is the moving image of two pairs, whose results would have one name; "
            "make one run for each fixed image."
        )
    return [{"image": first, "moving": first, "fixed": second} for first, second in found]


def _images(option: str, path: str | os.PathLike[str]) -> list[dict[str, str]]:
    try:
        return list_images(path)
    except DataError as error:
        raise DataError(str(error).replace("--input", option, 1)) from error


def _listed(place: Path) -> list[tuple[str, str]]:
    if (place / "moving").is_dir() and (place / "fixed").is_dir():
        return _by_name(place)
    file = place / _PAIRS if place.is_dir() else place
    content = read_json(file)
    items: Any = content.get("pairs") if isinstance(content, dict) else None
    if not isinstance(items, list) or not items:
        raise DataError(f'{file}: lists no pairs; it must be {{"pairs": [{{"moving": ..., "fixed": ...}}]}}.')
    for number, item in enumerate(items):
        known = isinstance(item, dict) and all(isinstance(item.get(k), str) for k in ("moving", "fixed"))
        if not known:
            raise DataError(f'{file}: pair {number} lacks "moving" or "fixed"; give both paths.')
    return [(str(file.parent / item["moving"]), str(file.parent / item["fixed"])) for item in items]


def _by_name(place: Path) -> list[tuple[str, str]]:
    sides = [
        {str(Path(item["image"]).relative_to(folder)): item["image"] for item in list_images(folder)}
        for folder in (place / "moving", place / "fixed")
    ]
    alone = sorted(sides[0].keys() ^ sides[1].keys())
    if alone:
        raise DataError(
            f"{place}: '{alone[0]}' is in only one of moving and fixed; name the two files of a pair alike."
        )
    return [(sides[0][name], sides[1][name]) for name in sorted(sides[0])]
