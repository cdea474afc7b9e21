"""What inference is asked to do: a file, folder or datalist becomes a list of images, each with a name."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from robustmed_monai.data.image_folder import SUFFIXES, folders_with_files, image_stem
from robustmed_monai.data.split import SECTIONS
from robustmed_monai.transforms.image_readers.dicom import DICOM_SUFFIXES, SIDECARS, is_dicom, is_projection
from robustmed_monai.transforms.image_readers.picture import PICTURE_SUFFIXES
from robustmed_monai.transforms.load import PAIRS
from robustmed_monai.utils.errors import ConfigError, DataError, ImageError
from robustmed_monai.utils.files import read_json

Items: TypeAlias = list[dict[str, str]]
# A path below the folder; None for an image, a reason, or _IGNORED for a file that is no image by its name.
_Entry: TypeAlias = tuple[Path, str | None]

# The project's own list comes first; dataset.json is that of the Medical Segmentation Decathlon.
_DATALISTS = ("datalist.json", "dataset.json")
# Images that a user may expect to be used, but no reader takes.
_NOT_READ = (
    *PAIRS,
    ".bmp",
    ".gif",
    ".webp",
    ".jp2",
    ".gipl",
    ".mnc",
    ".svs",
    ".ndpi",
    ".npy",
    ".par",
    ".rec",
)
_IGNORED = ""
_SHOWN = 5


def list_images(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    section: str | None = None,
    stacks: bool = False,
    exclude: str | os.PathLike[str] | None = None,
    mask: str | os.PathLike[str] | None = None,
) -> Items:
    """Datalist items of one image file, of all images below a folder, or of a datalist.

    Linked folders are followed, each folder once. Hidden files, and the results of earlier runs wherever they
    lie, are left out. What looks like an image but cannot be used (an unreadable folder, a type that is not
    read, a broken link) is an item with the reason as `error`, so that the run lists it; a warning names the
    types of all other files that are passed over.

    Args:
        path: a file of a type that ``LoadCheckedImage`` reads; a datalist (JSON), or a folder that holds
            ``datalist.json`` or a Decathlon ``dataset.json``; or any other folder, where each image file,
            each subfolder of one DICOM series and each DICOM X-ray is an image. Or several of these.
        section: section of the datalist to take; None takes all.
        stacks: a folder that holds several pictures is one volume, not as many images.
        exclude: folder whose content is no input: where the results go.
        mask: what is to be found in the one image of ``path``, an image on its grid.

    Returns:
        ``{"image": path}`` items with absolute paths, sorted or as listed, each path once; with `mask` where
        it is given, and with `error` (a sentence) where an entry of a folder cannot be used. What a datalist
        names need not exist: the run says of each image whether it could be used.

    Raises:
        ConfigError: for an unknown section, one of what is no datalist, or a mask for several images.
        DataError: when there is nothing at the path; it says what to give.
    """
    if isinstance(path, Sequence) and not isinstance(path, str):
        return [item for one in path for item in list_images(one, section, stacks, exclude, mask)]
    if mask is not None:
        items = list_images(path, section, stacks, exclude)
        if len(items) != 1:
            raise ConfigError(f"--mask {mask}: is for one image, --input {path} holds {len(items)}.")
        return [{**items[0], "mask": str(Path(mask).expanduser().absolute())}]
    if path is None:
        raise DataError(
            "no input: give --input an image file (NIfTI, NRRD, MHA, MGZ, PNG, TIFF, JPEG, DICOM), a folder "
            "of them, the folder of a DICOM series or a datalist."
        )
    if not isinstance(path, str | os.PathLike):
        raise DataError(f"--input {path}: is a {type(path).__name__}; give one path.")
    given = Path(path).expanduser().absolute()
    if section is not None and section not in SECTIONS:
        raise ConfigError(f"section: found {section!r}; choose one of {list(SECTIONS)}.")
    picture = given.is_file() and given.suffix.lower() != ".json"
    if picture and section is None:
        return [{"image": str(given)}]
    if not given.is_file() and not given.is_dir():
        reason = "neither a file nor a folder" if os.path.lexists(given) else "no such file or folder"
        raise DataError(f"--input {given}: {reason}; check the path.")
    lists = [given] if given.is_file() else [given / name for name in _DATALISTS]
    for datalist in [] if picture else lists:
        if datalist.is_file() and (listed := _listed(datalist, section, given)):
            return [{"image": str(p)} for p in dict.fromkeys(listed)]
    if section is not None:
        raise ConfigError(
            f"section {section}: {given} is no datalist and holds none ({' or '.join(_DATALISTS)}); leave "
            "the section out, and give the folder of the images that are wanted."
        )
    return _below(given, stacks, None if exclude is None else Path(exclude).expanduser().resolve())


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


def _below(given: Path, stacks: bool, outputs: Path | None) -> Items:
    """Items of all images below a folder."""
    found = [
        entry
        for folder, files in folders_with_files(given, outputs)
        for entry in _sorted_out(folder, files, stacks)
    ]
    used = sorted(
        ((path, reason) for path, reason in found if reason != _IGNORED), key=lambda entry: entry[0]
    )
    if not used and any(p.parent == given for p, _ in found):
        # A folder of unknown files only: the reader says what is wrong with them.
        return [{"image": str(given)}]
    if not used:
        raise DataError(
            f"--input {given}: holds no image; supported are {', '.join(SUFFIXES)}, DICOM files and folders "
            "of one DICOM series each. Results of earlier runs are left out."
        )
    _warn_of_unused(given, found)
    return [
        {"image": str(p)} if why is None else {"image": str(p), "error": f"{p}: {why}"} for p, why in used
    ]


def _listed(datalist: Path, section: str | None, given: Path) -> list[Path]:
    """Images of a datalist; none where a folder's ``dataset.json`` is something else."""
    content = read_json(datalist)
    sections = [section] if section else SECTIONS
    items: list[Any] = []
    if isinstance(content, dict):
        items = [item for name in sections if isinstance(content.get(name), list) for item in content[name]]
    if not items and datalist != given and datalist.name != _DATALISTS[0]:
        return []
    if not items:
        raise DataError(f"{datalist}: no items in {sections}; list images under one of {list(SECTIONS)}.")
    # The Decathlon lists its test images as plain paths.
    items = [{"image": item} if isinstance(item, str) else item for item in items]
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("image"), str):
            raise DataError(f'{datalist}: item {number} of {sections} has no "image" path; give it one.')
    return [Path(os.path.normpath(datalist.parent.absolute() / item["image"])) for item in items]


def _sorted_out(folder: Path, files: list[Path] | OSError, stacks: bool) -> Iterator[_Entry]:
    """What the files of one folder are."""
    if isinstance(files, OSError):
        yield folder, f"cannot be opened ({files.strerror}); ask for the right to read it."
        return
    images = [p for p in files if _ends(p, SUFFIXES) and p.is_file()]
    pictures = [p for p in images if _ends(p, PICTURE_SUFFIXES)]
    if stacks and len(pictures) > 1:
        yield folder, None
        images = [p for p in images if p not in pictures]
    yield from ((path, None) for path in images)
    dicom = [p for p in files if not _ends(p, SUFFIXES) and is_dicom(p)]
    if dicom and _is_series(dicom[0]):
        # The reader says which of its files is no slice.
        yield folder, None
        return
    yield from ((path, None) for path in dicom)
    for path in files:
        if not path.is_file() and _ends(path, (*SUFFIXES, *_NOT_READ, *DICOM_SUFFIXES)):
            yield path, "not a regular file (a broken link, a pipe or a device); remove it."
        elif _ends(path, _NOT_READ):
            yield path, "not a type that is read; convert it to NIfTI, MHA, PNG or TIFF."
        elif path not in dicom and not _ends(path, (*SUFFIXES, *SIDECARS)):
            yield path, _IGNORED


def _ends(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes)


def _is_series(path: Path) -> bool:
    try:
        return not is_projection(path)
    except ImageError:
        return True


def _warn_of_unused(root: Path, found: Sequence[_Entry]) -> None:
    """Say at the start what will not be used, not only in the summary at the end."""
    reasons = [f"{path}: {reason}" for path, reason in found if reason]
    lines = reasons[:_SHOWN] + ([f"... and {len(reasons) - _SHOWN} more"] if len(reasons) > _SHOWN else [])
    ignored = Counter(path.suffix.lower() or "no suffix" for path, reason in found if reason == _IGNORED)
    if ignored:
        kinds = ", ".join(f"{count} ({kind})" for kind, count in sorted(ignored.items()))
        lines.append(f"files that are no images by their names: {kinds}")
    if lines:
        warnings.warn("\n  ".join([f"--input {root}: not used are", *lines]), stacklevel=3)
