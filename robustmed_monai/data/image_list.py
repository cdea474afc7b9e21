"""What inference is asked to do: a file, folder or datalist becomes a list of images, each with a name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from robustmed_monai.data.image_folder import SUFFIXES, image_stem
from robustmed_monai.data.split import SECTIONS
from robustmed_monai.transforms.image_readers.dicom import slice_files
from robustmed_monai.transforms.image_readers.picture import PICTURE_SUFFIXES
from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.files import read_json

_DATALIST = "datalist.json"
_DICOM_SUFFIXES = (".dcm", ".ima")
_DICOM_MARK = (128, b"DICM")


def list_images(
    path: str | os.PathLike[str] | None,
    section: str | None = None,
    stacks: bool = False,
    exclude: str | os.PathLike[str] | None = None,
) -> list[dict[str, str]]:
    """Datalist items of one image file, of all images below a folder, or of a datalist.

    Args:
        path: a NIfTI, NRRD, MGZ, PNG, TIFF or JPEG file; a datalist (JSON), or a folder that holds
            ``datalist.json``; or any other folder, where each image file and each subfolder of DICOM files is
            an image.
        section: section of the datalist to take; None takes all. Folders have none.
        stacks: a folder that holds several pictures is one volume, not as many images.
        exclude: folder whose content is no input: where the results go.

    Returns:
        ``{"image": path}`` items with absolute paths, sorted or as listed, each path once. What a datalist
        names need not exist: the run says of each image whether it could be used.

    Raises:
        ConfigError: for an unknown section.
        DataError: when there is nothing at the path; it says what to give.
    """
    if path is None:
        raise DataError(
            "no input: give --input an image file (NIfTI, NRRD, MGZ, PNG, TIFF, JPEG), a folder of them, the "
            "folder of a DICOM series or a datalist."
        )
    given = Path(path).expanduser().absolute()
    if given.is_file() and given.suffix.lower() != ".json":
        return [{"image": str(given)}]
    if not given.exists():
        raise DataError(f"--input {given}: no such file or folder; check the path.")
    datalist = given if given.is_file() else given / _DATALIST
    if datalist.is_file():
        return [{"image": str(p)} for p in dict.fromkeys(_listed(datalist, section))]
    outputs = None if exclude is None else Path(exclude).expanduser().absolute()
    found = sorted(_found(given, stacks, outputs))
    if not found and not any(p.is_file() for p in given.iterdir()):
        raise DataError(
            f"--input {given}: holds no image; supported are {', '.join(SUFFIXES)} and folders of one DICOM "
            "series each."
        )
    # A folder of unknown files is taken at its word: the reader says what is wrong with them.
    return [{"image": str(p)} for p in found or [given]]


def name_results(paths: Sequence[str | os.PathLike[str]]) -> dict[str, str]:
    """Name of the folder of results for each image: the image's own, told apart where several share it.

    Args:
        paths: all images of a run, whichever process works on them.

    Returns:
        Path to folder name. Where names coincide they are preceded by the folders in which the paths differ.

    Example:
        >>> name_results(["/in/a/T1.mgz", "/in/b/T1.mgz", "/in/b/T2.nii.gz"])
        {'/in/a/T1.mgz': 'a_T1', '/in/b/T1.mgz': 'b_T1', '/in/b/T2.nii.gz': 'T2'}
    """
    stems = {str(p): image_stem(Path(p)) for p in paths}
    shared = {name for name, count in Counter(s.lower() for s in stems.values()).items() if count > 1}
    alike = [Path(p) for p, s in stems.items() if s.lower() in shared]
    root = Path(os.path.commonpath([p.parent for p in alike])) if alike else Path()
    names = {path: plain for path, plain in stems.items() if plain.lower() not in shared}
    taken = {name.lower() for name in names.values()}
    for path in map(str, alike):
        first = name = "_".join([*Path(path).parent.relative_to(root).parts, stems[path]])
        number = 1
        while name.lower() in taken:
            number, name = number + 1, f"{first}-{number + 1}"
        taken.add(name.lower())
        names[path] = name
    return {path: names[path] for path in stems}


def _listed(datalist: Path, section: str | None) -> list[Path]:
    if section is not None and section not in SECTIONS:
        raise ConfigError(f"section: found {section!r}; choose one of {list(SECTIONS)}.")
    content = read_json(datalist)
    sections = [section] if section else SECTIONS
    items: list[Any] = []
    if isinstance(content, dict):
        items = [item for name in sections for item in content.get(name) or []]
    if not items:
        raise DataError(f"{datalist}: no items in {sections}; list images under one of {list(SECTIONS)}.")
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("image"), str):
            raise DataError(f'{datalist}: item {number} of {sections} has no "image" path; give it one.')
    return [(datalist.parent / item["image"]).absolute() for item in items]


def _found(root: Path, stacks: bool, outputs: Path | None) -> Iterator[Path]:
    for place, folders, files in os.walk(root):
        folder = Path(place)
        folders[:] = [name for name in folders if folder / name != outputs and not name.startswith(".")]
        names = [name for name in files if not name.startswith(".")]
        pictures = [name for name in names if name.lower().endswith(PICTURE_SUFFIXES)]
        images = [name for name in names if name.lower().endswith(SUFFIXES)]
        if stacks and len(pictures) > 1:
            yield folder
            images = [name for name in images if name not in pictures]
        elif len(images) < len(names) and _holds_dicom(folder):
            yield folder
        yield from (folder / name for name in images)


def _holds_dicom(folder: Path) -> bool:
    others = (p for p in slice_files(folder) if not p.name.lower().endswith(SUFFIXES))
    return any(p.name.lower().endswith(_DICOM_SUFFIXES) or _is_marked(p) for p in others)


def _is_marked(path: Path) -> bool:
    offset, mark = _DICOM_MARK
    try:
        with path.open("rb") as stream:
            return stream.read(offset + len(mark))[offset:] == mark
    except OSError:
        return False
