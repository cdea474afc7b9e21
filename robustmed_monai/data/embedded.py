"""The embedded data set: virtual brains with tissue labels and drawn lesions, made once and cached."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustmed_monai.data.virtual_subjects import AFFINE, SHAPE, VirtualSubject, virtual_subject
from robustmed_monai.transforms.brain_region import BrainRegion, find_brain_region
from robustmed_monai.transforms.lesion_painting import Array, LesionSpec
from robustmed_monai.transforms.lesions import KINDS, SIZES, draw_lesion, sample_lesion, size_name
from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.files import atomic_path, read_json, sha256, write_json

Item = dict[str, Any]

logger = logging.getLogger(__name__)

VERSION = 1  # raise it when the same seed gives other bits
SUBJECTS = {"training": 28, "validation": 8, "test": 12}
# Axial voxel indices, 4 to 33 mm above the commissures; their rank is the class.
LEVELS = (31, 35, 39, 43, 47)
# The head of the demo, and the voxel in the middle of its lesion.
_DEMO_SUBJECT, _DEMO_CENTER = 44, (44, 66, 42)
_NO_MASK = "masks/none.png"
_NO_VOLUME_MASK = "volumes/none_mask.nii.gz"


def embedded_dataset(root: str | os.PathLike[str] | None = None, seed: int = 0) -> Path:
    """Return the folder of the embedded data, making it on first use (under half a minute on one core).

    The folder holds ``datalist.json`` (slices, 8-bit PNG of 128 x 128: 140 training, 40 validation and 120
    test items, the latter each slice once healthy and once with a lesion), ``volumes.json`` (the same
    subjects as NIfTI, axes RPS, 1.8 mm; test subjects once more with a lesion) and their files. Labels are 0
    background, 1 CSF, 2 grey matter, 3 white matter; masks are 0 or 1; ``level`` is the rank of the axial
    position. Subjects of the three sections are disjoint. The same seed gives the same bits on one kind of
    processor and one set of library versions. Every file is checked against its recorded sha256 on each call
    and a damaged folder is made again; two processes may call at once.

    Args:
        root: folder for the data set's own folder; None takes the variable ``ROBUSTMED_CACHE`` or else
            ``~/.cache/robustmed_monai``.
        seed: seed of the subjects and lesions, >= 0.

    Returns:
        The data set's folder, ``<root>/embedded-v<version>-seed<seed>``.

    Raises:
        ConfigError: for a negative seed.
        DataError: when the folder cannot be written.
    """
    if seed < 0:
        raise ConfigError(f"seed: found {seed}; give a number >= 0.")
    base = _cache(root)
    folder = base / f"embedded-v{VERSION}-seed{seed}"
    if _intact(folder):
        return folder
    try:
        base.mkdir(parents=True, exist_ok=True)
        with _locked(base / f".{folder.name}.lock"):
            # Another process may have made it while this one waited.
            if not _intact(folder):
                _replace(folder, seed)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def demo_head(root: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """A virtual head of the test section with a large cavity in its white matter, made on first use.

    The cavity lies at a height that the shipped weights know (overlay `whole_head`), 24 mm above the
    commissures.

    Args:
        root: see ``embedded_dataset``.

    Returns:
        Paths of `image` and `mask`, NIfTI.

    Raises:
        DataError: when the folder cannot be written.
    """
    folder = _cache(root) / f"demo-v{VERSION}"
    paths = {"image": folder / "demo_cavity_T1w.nii.gz", "mask": folder / "demo_cavity_mask.nii.gz"}
    try:
        if not all(path.is_file() for path in paths.values()):
            folder.mkdir(parents=True, exist_ok=True)
            subject = virtual_subject(0, _DEMO_SUBJECT)
            image = _rounded(subject.image)
            box, region = _brain(subject, image)
            center = tuple(float(c - side.start) for c, side in zip(_DEMO_CENTER, box, strict=True))
            spec = LesionSpec("cavity", center, area=450.0, contrast=1.0, seed=1)
            after, mask = _drawn(image, box, spec, region)
            for path, voxels in zip(paths.values(), (_eight_bit(after), mask), strict=True):
                with atomic_path(path) as temporary:
                    _write_volume(temporary, voxels)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return {key: str(path) for key, path in paths.items()}


def _cache(root: str | os.PathLike[str] | None) -> Path:
    place = root or os.environ.get("ROBUSTMED_CACHE") or "~/.cache/robustmed_monai"
    return Path(place).expanduser().absolute()


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder}: cannot be written ({error}); set ROBUSTMED_CACHE to a folder with 200 MB free."
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _intact(folder: Path) -> bool:
    try:
        digests = read_json(folder / "datalist.json")["digests"]
        return bool(digests) and all(sha256(folder / name) == digest for name, digest in digests.items())
    except (DataError, OSError, KeyError, TypeError, AttributeError):
        return False


def _replace(folder: Path, seed: int) -> None:
    for leftover in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        logger.info("making the embedded data in %s (once)", folder)
        new = temporary / "new"
        _make(new, seed)
        if folder.exists():
            logger.warning("%s is damaged and is made again", folder)
            folder.rename(temporary / "damaged")
        new.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _make(folder: Path, seed: int) -> None:
    from tqdm import tqdm

    for name in ("images", "labels", "masks", "volumes"):
        (folder / name).mkdir(parents=True)
    _write_png(folder / _NO_MASK, np.zeros(SHAPE[:2], dtype=np.uint8))
    _write_volume(folder / _NO_VOLUME_MASK, np.zeros(SHAPE, dtype=np.uint8))
    slices: dict[str, list[Item]] = {section: [] for section in SUBJECTS}
    volumes: dict[str, list[Item]] = {section: [] for section in SUBJECTS}
    plan = [(section, rank) for section, count in SUBJECTS.items() for rank in range(count)]
    for index, (section, rank) in enumerate(tqdm(plan, "embedded data", unit="subject", disable=None)):
        subject, name = virtual_subject(seed, index), f"sub-{index:03d}"
        volumes[section].append(_healthy_volume(folder, name, subject))
        slices[section] += [_healthy_slice(folder, name, subject, level) for level in range(len(LEVELS))]
        if section == "test":
            rng = np.random.default_rng([seed, index, 1])
            slices[section] += _lesion_slices(folder, name, subject, rank, rng)
            volumes[section].append(_lesion_volume(folder, name, subject, rank, rng))
    write_json(folder / "volumes.json", {**_head(seed, "volumes"), **_marked(volumes, _NO_VOLUME_MASK)})
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    content = {**_head(seed, "axial slices"), **_marked(slices, _NO_MASK), "digests": digests}
    write_json(folder / "datalist.json", content)


def _head(seed: int, what: str) -> dict[str, str]:
    return {
        "name": f"embedded-v{VERSION}-seed{seed}",
        "license": "Derived from the MNI152 ICBM 2009a template, (C) 1993-2009 Louis Collins, McConnell "
        "Brain Imaging Centre, McGill University: free to use, copy, modify and distribute with this notice.",
        "description": f"Virtual T1-weighted heads, {what}; test items with and without a drawn lesion.",
    }


def _marked(sections: dict[str, list[Item]], no_mask: str) -> dict[str, list[Item]]:
    # Items of one section carry the same keys, so that batches can be collated.
    healthy = {"mask": no_mask, "kind": "healthy", "size": "none"}
    return {**sections, "test": [{**healthy, **item} for item in sections["test"]]}


def _healthy_volume(folder: Path, name: str, subject: VirtualSubject) -> Item:
    item: Item = {"image": f"volumes/{name}_T1w.nii.gz", "label": f"volumes/{name}_tissue.nii.gz"}
    _write_volume(folder / item["image"], _eight_bit(subject.image))
    _write_volume(folder / item["label"], subject.labels)
    return {**item, "healthy": True, "subject": name}


def _healthy_slice(folder: Path, name: str, subject: VirtualSubject, level: int) -> Item:
    stem = f"{name}_level-{level}.png"
    item: Item = {"image": f"images/{stem}", "label": f"labels/{stem}"}
    _write_png(folder / item["image"], _eight_bit(subject.image[:, :, LEVELS[level]]))
    _write_png(folder / item["label"], subject.labels[:, :, LEVELS[level]])
    return {**item, "healthy": True, "subject": name, "level": level}


def _lesion_slices(
    folder: Path, name: str, subject: VirtualSubject, rank: int, rng: np.random.Generator
) -> list[Item]:
    items = []
    for level, index in enumerate(LEVELS):
        image = _rounded(subject.image[:, :, index])
        region = find_brain_region(image, subject.labels[:, :, index])
        region = replace(region, ventricles=subject.ventricles[:, :, index])
        # Kinds and sizes take turns over the test slices.
        turn = rank * len(LEVELS) + level
        spec = _lesion(image, rng, turn, region)
        after, mask = draw_lesion(image, spec, region)
        stem = f"{name}_level-{level}_{spec.kind}.png"
        _write_png(folder / "images" / stem, _eight_bit(after))
        _write_png(folder / "masks" / stem, mask.astype(np.uint8))
        items.append(
            {
                "image": f"images/{stem}",
                "label": f"labels/{name}_level-{level}.png",
                "mask": f"masks/{stem}",
                "healthy": False,
                "kind": spec.kind,
                "size": size_name(int(mask.sum())),
                "contrast": round(spec.contrast, 4),
                "subject": name,
                "level": level,
            }
        )
    return items


def _lesion_volume(
    folder: Path, name: str, subject: VirtualSubject, rank: int, rng: np.random.Generator
) -> Item:
    image = _rounded(subject.image)
    box, region = _brain(subject, image)
    spec = _lesion(image[box], rng, rank, region)
    after, mask = _drawn(image, box, spec, region)
    item: Item = {
        "image": f"volumes/{name}_{spec.kind}_T1w.nii.gz",
        "label": f"volumes/{name}_tissue.nii.gz",
        "mask": f"volumes/{name}_{spec.kind}_mask.nii.gz",
    }
    _write_volume(folder / item["image"], _eight_bit(after))
    _write_volume(folder / item["mask"], mask)
    size = next(size for size, (_, high) in SIZES.items() if spec.area <= high)
    return {**item, "healthy": False, "kind": spec.kind, "size": size, "subject": name}


def _brain(subject: VirtualSubject, image: Array) -> tuple[tuple[slice, ...], BrainRegion]:
    """The box of a brain in its volume, and what may hold a lesion in it."""
    box = tuple(slice(i.min(), i.max() + 1) for i in np.nonzero(subject.labels))
    brain, ventricles = subject.labels[box] > 0, subject.ventricles[box]
    fluid = float(np.percentile(image[box][ventricles], 10))
    return box, BrainRegion(brain, brain, ventricles, fluid, unit=1.0)


def _drawn(
    image: Array, box: tuple[slice, ...], spec: LesionSpec, region: BrainRegion
) -> tuple[Array, NDArray[np.uint8]]:
    """A volume with a lesion within the box, and the mask of it."""
    after, mask = image.copy(), np.zeros(SHAPE, dtype=np.uint8)
    after[box], mask[box] = draw_lesion(image[box], spec, region)
    return after, mask


def _lesion(image: Array, rng: np.random.Generator, turn: int, region: BrainRegion) -> LesionSpec:
    kind, size = KINDS[turn % len(KINDS)], tuple(SIZES)[turn // len(KINDS) % len(SIZES)]
    for kinds, sizes in (((kind,), (size,)), ((kind,), tuple(SIZES)), (KINDS, tuple(SIZES))):
        try:
            return sample_lesion(image, rng, kinds, sizes, region=region)
        except DataError as error:
            refused = error
    raise refused


def _rounded(image: Array) -> Array:
    # Lesions are drawn into what the healthy file holds, so the two files differ by the lesion alone.
    return _eight_bit(image).astype(np.float32) / np.float32(255.0)


def _eight_bit(image: Array) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = np.rint(image * np.float32(255.0)).astype(np.uint8)
    return rounded


def _write_png(path: Path, array: NDArray[np.uint8]) -> None:
    from PIL import Image

    # Files hold rows; arrays hold x first.
    Image.fromarray(np.ascontiguousarray(array.T)).save(path)


def _write_volume(path: Path, array: NDArray[np.uint8]) -> None:
    import nibabel

    image = nibabel.Nifti1Image(array, AFFINE)
    image.header.set_xyzt_units("mm")
    # The time in a gzip header would change the bytes of every run.
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def embedded_volumes() -> str:
    """The datalist of the embedded brains' volumes."""
    return str(embedded_dataset() / "volumes.json")
