"""The one layout of image folders, shared by datalists, class folders and ``data_prep.folder``.

::

    train/...              healthy images to train on (also "training")
    val/...                healthy images to validate on (also "valid", "validation")
    test/good/...          healthy test images (also "healthy", "normal", or directly in test/)
    test/<kind>/...        abnormal test images of that kind
    .../images/...         images, at any depth, with
    .../masks/...          masks of anomalies (test only) and
    .../labels/...         label maps beside them: the same path below these folders, whatever the file's type

Upper and lower case are the same. Files and folders whose names begin with a dot are skipped, so are files
of other types, and folders that hold results of inference. A subject is the ``sub-...`` or ``IXI<number>`` in
the name of its file or folder, else the name without a last ``_slice_<number>`` or ``_level_<number>``. Where
files in several folders are called alike, the folders are the subjects: the first one below section or kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from robustmed_monai.data.split import SECTIONS
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.files import read_json

Item = dict[str, Any]

SUFFIXES = (".nii", ".nii.gz", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nrrd", ".mha", ".mgz", ".mgh")
SECTION_FOLDERS = {
    "training": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
HEALTHY_FOLDERS = ("good", "healthy", "normal")
UNNAMED_KIND = "anomaly"
_IMAGES = "images"
_BESIDE = {"masks": "mask", "labels": "label"}
_MAX_REPORTS, _MAX_REPORT = 3, 1 << 20
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+|IXI\d+")
_SLICE = re.compile(r"[_-](slice|level)[_-]?\d+$")


def section_folders(root: Path) -> dict[str, Path]:
    """The subfolders of ``root`` that are sections, by section.

    Raises:
        DataError: when two of them are the same section.
    """
    found: dict[str, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for section in SECTIONS:
            if folder.name.lower() in SECTION_FOLDERS[section]:
                if section in found:
                    raise DataError(
                        f"{root}: {found[section].name} and {folder.name} are both {section}; keep one."
                    )
                found[section] = folder
    return found


def folder_items(folder: Path, section: str | None) -> list[Item]:
    """All images below a folder as datalist items, sorted by path.

    Args:
        folder: folder of one section.
        section: the section that it is; None before a split, when subfolders say nothing.

    Returns:
        Items with `image`, `subject`, `mask` and `label` where there are such, and `healthy` and `kind` where
        the layout tells.

    Raises:
        DataError: when there is no image; when a mask or label has no image; when a healthy image has a mask;
            when a folder cannot be opened.
    """
    images, beside = [], {}
    for path in image_files(folder):
        role, key = _role(path.relative_to(folder))
        if role in _BESIDE:
            beside[role, key] = path
        else:
            images.append((path, key))
    owned = {(role, key) for role in _BESIDE for _, key in images}
    alone = next((path for place, path in beside.items() if place not in owned), None)
    if alone is not None:
        raise DataError(
            f"{alone}: is in a folder of {_role(alone.relative_to(folder))[0]} but there is no image of that "
            "name; put the images into a folder 'images' beside it, or rename the folder."
        )
    if not images:
        raise DataError(f"{folder}: no images found; put {', '.join(SUFFIXES)} files into it.")
    found = []
    subjects = _subjects([path.relative_to(folder) for path, _ in images], section)
    for (path, key), subject in zip(images, subjects, strict=True):
        extra = {name: str(beside[r, key]) for r, name in _BESIDE.items() if (r, key) in beside}
        item = {"image": str(path), "subject": subject, **extra}
        found.append(item | _health(item, path.relative_to(folder).parts[:-1], section))
    return found


def image_files(folder: Path) -> Iterator[Path]:
    """Files below a folder and its links that are images by their names, sorted.

    Hidden ones are skipped, and so are the results of earlier runs of inference.

    Raises:
        DataError: when a folder cannot be opened.
    """
    found: list[Path] = []
    for place, files in folders_with_files(folder):
        if isinstance(files, OSError):
            raise DataError(f"{place}: cannot be opened ({files.strerror}); ask for the right to read it.")
        found += files
    yield from sorted(path for path in found if path.name.lower().endswith(SUFFIXES) and path.is_file())


def folders_with_files(
    folder: Path, outputs: Path | None = None
) -> Iterator[tuple[Path, list[Path] | OSError]]:
    """A folder and those below it with the files of each, sorted, or the error where it cannot be opened.

    Linked folders are followed, each once. Hidden ones, and results of earlier runs below it, are left out.

    Args:
        folder: where to begin.
        outputs: folder that is left out as well, unless it is where to begin.
    """
    yield from _walk(folder, folder, outputs, set())


def _walk(
    folder: Path, root: Path, outputs: Path | None, seen: set[Path]
) -> Iterator[tuple[Path, list[Path] | OSError]]:
    real = folder.resolve()
    if real in seen or real == outputs != root.resolve() or (folder != root and holds_results(folder)):
        return
    seen.add(real)
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        yield folder, error
        return
    yield folder, [p for p in entries if not p.is_dir()]
    for place in (p for p in entries if p.is_dir()):
        # A link to a folder that is below the root has its turn by its own name.
        if not (place.is_symlink() and place.resolve().is_relative_to(root.resolve())):
            yield from _walk(place, root, outputs, seen)


def holds_results(folder: Path) -> bool:
    """Whether an earlier run wrote the folder: the results of an image have a report, a run has a summary."""
    with suppress(OSError):
        reports = [p for p in folder.glob("*.json") if p.is_file() and p.stat().st_size < _MAX_REPORT]
        for path in reports if len(reports) <= _MAX_REPORTS else []:
            with suppress(DataError):
                content = read_json(path)
                if isinstance(content, dict) and (
                    "made_from" in content or {"images", "failed"} <= set(content)
                ):
                    return True
    return False


def image_stem(path: Path) -> str:
    """Name of an image without the suffix of its type; a folder keeps its whole name."""
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(s)), "")
    return path.name[: len(path.name) - len(suffix)] or path.name


def subject_name(path: Path) -> str:
    """Subject of an image by the name of its file, or of the nearest folder that names one.

    >>> names = ("sub-07_T1w.nii.gz", "sub-07/anat/T1w.nii.gz", "case_3_slice_12.png", "scan.png")
    >>> [subject_name(Path(name)) for name in names]
    ['sub-07', 'sub-07', 'case_3', 'scan']
    """
    found = _SUBJECT.search(path.name) or next(
        filter(None, map(_SUBJECT.fullmatch, path.parts[-2::-1])), None
    )
    return found[0] if found else _SLICE.sub("", image_stem(path))


def _subjects(inside: Sequence[Path], section: str | None) -> list[str]:
    """Subject of each image by its path below the folder: its own name, or that of its first folder."""
    names = [subject_name(path) for path in inside]
    # Below test/ the first folder is the kind.
    kinds = 1 if section == "test" else 0
    places = [[part for part in path.parts[:-1] if part.lower() != _IMAGES][kinds:] for path in inside]
    homes: dict[str, set[str]] = {}
    for path, name, place in zip(inside, names, places, strict=True):
        if place and name == _SLICE.sub("", image_stem(path)):
            homes.setdefault(path.name, set()).add(place[0])
    shared = {home for found in homes.values() if len(found) > 1 for home in found}
    return [
        place[0] if place and place[0] in shared and not _SUBJECT.search(name) else name
        for name, place in zip(names, places, strict=True)
    ]


def _role(inside: Path) -> tuple[str, tuple[str, ...]]:
    """First of the names images, masks and labels in a path ("" for none), and the path without it."""
    parts = inside.parts[:-1]
    for place, part in enumerate(parts):
        if part.lower() in (_IMAGES, *_BESIDE):
            return part.lower(), (*parts[:place], "", *parts[place + 1 :], image_stem(inside))
    return "", (*parts, image_stem(inside))


def _health(item: Item, folders: tuple[str, ...], section: str | None) -> Item:
    if section in ("training", "validation"):
        if "mask" in item:
            raise DataError(
                f"{item['image']}: has a mask ({item['mask']}), but {section} holds healthy images only; "
                "move it to test, or the masks elsewhere."
            )
        return {"healthy": True}
    kinds = [part for part in folders if part.lower() != _IMAGES] if section == "test" else []
    if kinds and kinds[0].lower() in HEALTHY_FOLDERS:
        return {"healthy": True, "kind": "healthy"}
    if kinds or "mask" in item:
        return {"healthy": False, "kind": kinds[0] if kinds else UNNAMED_KIND}
    return {}
