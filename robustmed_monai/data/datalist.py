"""Every source of data becomes one list of items with absolute paths."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.files import read_json, sha256

Item = dict[str, Any]

SECTIONS = ("training", "validation", "test")
PATH_KEYS = ("image", "mask", "label")
SUFFIXES = (".nii", ".nii.gz", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nrrd", ".mgz", ".mgh")
_FOLDERS = {
    "training": ("training", "train"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
_HEALTHY = ("healthy", "normal", "good")


def load_datalist(
    dataset_dir: str | os.PathLike[str] | None, section: str, verify: bool = False
) -> list[Item]:
    """Return the items of one section of a data set, with absolute paths.

    Args:
        dataset_dir: one of

            - None or ``"embedded"``: the virtual brains of this package (made on first use);
            - a datalist JSON, or a folder that holds ``datalist.json``;
            - a folder with a subfolder per section (``training`` or ``train``, ``validation`` or ``val``,
              ``test``). Images lie anywhere below it; with a subfolder ``images``, files of the same name in
              ``masks`` and ``labels`` beside it belong to them. Other subfolders of ``test`` name the kind of
              anomaly, ``healthy`` and ``normal`` none;
            - any other folder of images (PNG, TIFF, JPEG, NIfTI, NRRD, MGZ): subjects, in the order of the
              sha256 of their names, are split 80 : 10 : 10 with at least one each. The subject is what
              follows ``sub-`` in the file's name, else the name without ``_slice_<number>``; when the names
              do not tell subjects apart, make the subfolders.
        section: ``training``, ``validation`` or ``test``.
        verify: compare each file with the sha256 that the datalist records.

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
        return _listed(source, section, verify)
    if verify:
        raise DataError(
            f"dataset_dir {path}: a folder without datalist.json records no digests; set verify=False."
        )
    return _found(path, section)


def image_stem(path: Path) -> str:
    """Name of an image without the suffix of its type; a folder keeps its whole name."""
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(s)), "")
    return path.name[: len(path.name) - len(suffix)] or path.name


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
        sick = [item["image"] for item in items if not item.get("healthy", True)]
        if sick:
            raise DataError(
                f"{source}: {section!r} lists {_some(sick)} as not healthy; list anomalies under test only."
            )
    if verify:
        _verify(source, items, content.get("digests") or {})
    folder = source.parent
    result = [{k: str(folder / v) if k in PATH_KEYS else v for k, v in item.items()} for item in items]
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


def _found(folder: Path, section: str) -> list[Item]:
    present = {name: sub for name in SECTIONS for sub in _FOLDERS[name] if (folder / sub).is_dir()}
    if section in present:
        items = _folder_items(folder / present[section], section)
    elif present:
        raise DataError(
            f"dataset_dir {folder}: no subfolder for section {section!r}, found {sorted(present.values())}; "
            f"make {' or '.join(_FOLDERS[section])}."
        )
    else:
        items = _split(_folder_items(folder, section), section, folder)
    return items


def _folder_items(folder: Path, section: str) -> list[Item]:
    images = folder / "images" if (folder / "images").is_dir() else folder
    paths = sorted(p for p in images.rglob("*") if _is_image(p.relative_to(images)) and p.is_file())
    if not paths:
        raise DataError(f"dataset_dir {folder}: no images found; put {', '.join(SUFFIXES)} files into it.")
    return [_folder_item(path, images, section) for path in paths]


def _is_image(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and path.name.lower().endswith(SUFFIXES)


def _folder_item(path: Path, images: Path, section: str) -> Item:
    item: Item = {"image": str(path), "subject": _subject(path)}
    relative = path.relative_to(images)
    if images.name == "images":
        for key, name in (("mask", "masks"), ("label", "labels")):
            if (images.parent / name / relative).is_file():
                item[key] = str(images.parent / name / relative)
    if section != "test":
        item["healthy"] = True
    elif len(relative.parts) > 1:
        item["kind"] = "healthy" if relative.parts[0].lower() in _HEALTHY else relative.parts[0]
        item["healthy"] = item["kind"] == "healthy"
    return item


def _subject(path: Path) -> str:
    match = re.search(r"sub-([A-Za-z0-9]+)", path.name)
    if match:
        return match.group(1)
    return re.sub(r"[_-]slice[_-]?\d+$", "", image_stem(path))


def _split(items: Sequence[Item], section: str, folder: Path) -> list[Item]:
    names = {str(item["subject"]) for item in items}
    subjects = sorted(names, key=lambda name: (hashlib.sha256(name.encode()).hexdigest(), name))
    if len(subjects) < len(SECTIONS):
        raise DataError(
            f"dataset_dir {folder}: {len(subjects)} subject(s) cannot be split into {list(SECTIONS)}; "
            "make the subfolders train, val and test."
        )
    held = max(1, round(0.1 * len(subjects)))
    bounds = {"training": (0, -2 * held), "validation": (-2 * held, -held), "test": (-held, None)}
    chosen = set(subjects[slice(*bounds[section])])
    return [item for item in items if item["subject"] in chosen]


def _paths(item: Item) -> list[str]:
    return [item[key] for key in PATH_KEYS if item.get(key)]


def _some(paths: Sequence[str]) -> str:
    names = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
    return f"{len(paths)} file(s) ({names})"
