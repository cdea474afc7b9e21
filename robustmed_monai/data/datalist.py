"""Every source of data becomes one list of items with absolute paths."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robustmed_monai.data.image_folder import SECTION_FOLDERS, folder_items, section_folders
from robustmed_monai.data.split import SECTIONS, SPLITS, split_subjects
from robustmed_monai.transforms.image_readers.picture import PICTURE_SUFFIXES
from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.files import read_json, sha256

Item = dict[str, Any]

PATH_KEYS = ("image", "mask", "label")

logger = logging.getLogger(__name__)


def load_datalist(
    dataset_dir: str | os.PathLike[str] | None, section: str, verify: bool = False, split: bool = True
) -> list[Item]:
    """Return the items of one section of a data set, with absolute paths, and log how many there are.

    Args:
        dataset_dir: one of

            - None or ``"embedded"``: the virtual brains of this package (made on first use);
            - a datalist JSON, or a folder that holds ``datalist.json``;
            - a folder of images with subfolders ``train``, ``val`` and ``test``, see
              ``robustmed_monai.data.image_folder``;
            - any other folder of images: its subjects are split 80 : 10 : 10 with at least one each; those
              with a mask belong to the test.
        section: ``training``, ``validation`` or ``test``.
        verify: compare each file with the sha256 that the datalist records.
        split: False takes all images of a folder without the subfolders for the section asked for: so a
            folder of test images is all tested.

    Returns:
        Items with ``image`` and, where the source has them, ``mask``, ``label``, ``healthy``, ``kind``,
        ``subject`` and others, sorted as listed or by path.

    Raises:
        ConfigError: for an unknown section.
        DataError: when something is missing, empty, altered, or an unhealthy item is listed for training.
    """
    if section not in SECTIONS:
        raise ConfigError(f"section: found {section!r}; choose one of {list(SECTIONS)}.")
    if dataset_dir is None or str(dataset_dir) == "embedded":
        from robustmed_monai.data.embedded import embedded_dataset

        dataset_dir = embedded_dataset()
    path = Path(dataset_dir).expanduser().absolute()
    if not path.exists():
        raise DataError(f"dataset_dir {path}: no such file or folder; check the path.")
    source = path / "datalist.json" if path.is_dir() else path
    if source.is_file():
        return _counted(_listed(source, section, verify), section, source)
    if verify:
        raise DataError(
            f"dataset_dir {path}: a folder without datalist.json records no digests; set verify=False."
        )
    present = section_folders(path)
    if section in present or not (present or split):
        folder = present.get(section, path)
        return _counted(folder_items(folder, section), section, folder)
    if present:
        raise DataError(
            f"dataset_dir {path}: no subfolder for section {section!r}, found "
            f"{sorted(folder.name for folder in present.values())}; make "
            f"{' or '.join(SECTION_FOLDERS[section])}."
        )
    return _share(path, section)


def split_items(items: Sequence[Item], splits: Sequence[float] = SPLITS, seed: int = 0) -> list[str]:
    """Section of each image of a folder without sections; see ``split_subjects``.

    Args:
        items: from ``folder_items``; subjects with an abnormal image belong to the test.
        splits: fractions of the other subjects.
        seed: another seed, another split.
    """
    abnormal = {item["subject"] for item in items if not item.get("healthy", True)}
    sections = split_subjects({item["subject"] for item in items} - abnormal, splits, seed)
    return [sections.get(item["subject"], "test") for item in items]


def subject_numbers(items: Sequence[Mapping[str, Any]]) -> list[int]:
    """Number of each item's subject; an item that names none is a subject of its own.

    >>> subject_numbers([{"image": "a", "subject": "x"}, {"image": "b"}, {"image": "c", "subject": "x"}])
    [0, 1, 0]
    """
    names = [str(item.get("subject", item["image"])) for item in items]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def datalist_section(dataset_dir: str | os.PathLike[str] | None, section: str) -> dict[str, list[Item]]:
    """Items of one section by its name; see ``load_datalist``."""
    return {section: load_datalist(dataset_dir, section)}


def training_spacing(data: Any, image_size: int | Sequence[int], spacing: float | None) -> float | None:
    """Size of a pixel of a network's training images, which its weights keep for ``VolumeToSlicesd``.

    Pictures are fitted into the network's image, whatever their pixels measure. Where all of them are equally
    wide by the `pixel_mm` that data preparation writes, this says how large the network's pixels are.

    Args:
        data: training items, or a data set with them as ``data``.
        image_size: side of the network's images in pixels.
        spacing: size of a pixel in mm that volumes are cut by, and that counts where pictures tell none.

    Returns:
        Size in mm; None: unknown.
    """
    items: Sequence[Mapping[str, Any]] = getattr(data, "data", data)
    if not all("pixel_mm" in i and str(i["image"]).lower().endswith(PICTURE_SUFFIXES) for i in items):
        return spacing
    widths = set()
    for item in items:
        with Image.open(item["image"]) as picture:
            widths.add(round(item["pixel_mm"] * max(picture.size), 3))
    return widths.pop() / max(np.atleast_1d(image_size)) if len(widths) == 1 else spacing


def _listed(source: Path, section: str, verify: bool) -> list[Item]:
    content = read_json(source)
    if not isinstance(content, dict):
        raise DataError(f"{source}: not a datalist; it must hold an object with the keys {list(SECTIONS)}.")
    items = content.get(section)
    if not isinstance(items, list) or not items:
        have = [name for name in SECTIONS if content.get(name)]
        raise DataError(f"{source}: no items in section {section!r}, found {have}; add them to the datalist.")
    broken = [
        i
        for i, item in enumerate(items)
        if not isinstance(item, dict) or not isinstance(item.get("image"), str)
    ]
    if broken:
        raise DataError(f'{source}: item {broken[0]} of {section!r} has no "image" path; give each item one.')
    if section != "test":
        abnormal = [item["image"] for item in items if not item.get("healthy", True)]
        if abnormal:
            raise DataError(
                f"{source}: {section!r} lists {_some(abnormal)} as not healthy; "
                "list anomalies under test only."
            )
    if verify:
        _verify(source, items, content.get("digests") or {})
    folder = source.parent
    result = [
        {k: str(folder / v) if k in PATH_KEYS and isinstance(v, str) else v for k, v in item.items()}
        for item in items
    ]
    missing = sorted({p for item in result for p in _paths(item) if not Path(p).exists()})
    if missing:
        raise DataError(
            f"{source}: {_some(missing)} listed but missing; restore them or prepare the data again."
        )
    return result


def _verify(source: Path, items: Sequence[Item], digests: dict[str, str]) -> None:
    if not digests:
        raise DataError(f"{source}: it records no digests; set verify=False or prepare the data again.")
    paths = sorted({path for item in items for path in _paths(item)})
    altered = [
        p for p in paths if not (source.parent / p).is_file() or sha256(source.parent / p) != digests.get(p)
    ]
    if altered:
        raise DataError(f"{source}: {_some(altered)} missing or not as recorded; prepare the data again.")


def _share(folder: Path, section: str) -> list[Item]:
    """Share of one section in a folder without subfolders for sections."""
    items = folder_items(folder, None)
    sections = split_items(items)
    counts = Counter(sections)
    if len(counts) < len(SECTIONS):
        raise DataError(
            f"dataset_dir {folder}: {len({item['subject'] for item in items})} subject(s) cannot be split "
            f"into {list(SECTIONS)}; make the subfolders train, val and test."
        )
    others = ", ".join(f"{name} {counts[name]}" for name in SECTIONS if name != section)
    logger.info(
        f"{section}: {counts[section]} images of {len(items)} in {folder} "
        f"({100 * counts[section] / len(items):.0f} %, split by subject), {others}"
    )
    chosen = [item for item, name in zip(items, sections, strict=True) if name == section]
    return chosen if section == "test" else [{**item, "healthy": True} for item in chosen]


def _counted(items: list[Item], section: str, source: Path) -> list[Item]:
    abnormal = sum(not item.get("healthy", True) for item in items)
    health = f", {abnormal} of them abnormal" if section == "test" else ""
    logger.info(f"{section}: {len(items)} images in {source}{health}")
    return items


def _paths(item: Item) -> list[str]:
    return [item[key] for key in PATH_KEYS if item.get(key) and isinstance(item[key], str)]


def _some(paths: Sequence[str]) -> str:
    names = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
    return f"{len(paths)} file(s) ({names})"
