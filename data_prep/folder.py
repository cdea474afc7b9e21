"""Any folder of slices (PNG, TIF, JPEG, 2-D NIfTI) or volumes (NIfTI, MGZ, NRRD) to a datalist.

Layout, all optional::

    source/train/...            healthy images for training (also "training")
    source/val/...              healthy images for validation (also "validation")
    source/test/good/...        healthy test images (also "healthy", "normal", or directly in test/)
    source/test/<kind>/...      abnormal test images of that kind
    .../images/x.png            with .../masks/x.png (anomaly mask, test only) and .../labels/x.png (tissue)

Without these folders everything counts as healthy and is split by subject, save images with a mask, which
are test images. With ``--val_is_test`` the images of val/ become the healthy test set, and ``--splits``
divides train/ into training and validation (its test share goes to training): so the layout of
``ixi_t1_slices`` serves all three.

The subject is the first ``sub-...`` or ``IXI<number>`` in the name, else the name itself. Slices stay where
they are and are named by path; a volume is turned to "RPS" and mid axial slices of it and of its mask are
written as PNG (labels of volumes are left out).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from robustmed_monai.data_prep.common import (
    Item,
    Items,
    Preparation,
    Source,
    Splits,
    make_parser,
    require_folder,
    run,
    section_of,
)
from robustmed_monai.data_prep.pixels import (
    evenly_spaced,
    orient,
    percentile_scale,
    read_mask,
    read_slice,
    spacing_z,
)
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

SPLITS: Splits = (0.8, 0.1, 0.1)
TYPES = (".nii.gz", ".nii", ".mgz", ".nrrd", ".png", ".tif", ".tiff", ".jpg", ".jpeg")
IMAGES = "images"
SIBLINGS = {"mask": "masks", "label": "labels"}
TRAIN, VAL, TEST = ("train", "training"), ("val", "validation"), ("test",)
HEALTHY = ("good", "healthy", "normal")
SUBJECT = re.compile(r"sub-[A-Za-z0-9]+|IXI\d+")


@dataclass(frozen=True)
class Options:
    """The arguments of ``prepare`` that decide what an image becomes."""

    val_is_test: bool
    slices: int
    gap_mm: float
    percentile: float
    seed: int
    splits: Sequence[float]


def prepare(
    source: Path,
    output: Path,
    name: str = "folder",
    license: str = "as the owner of the images says",
    val_is_test: bool = False,
    slices: int = 1,
    gap_mm: float = 5.0,
    percentile: float = 98.0,
    seed: int = 0,
    splits: Sequence[float] = SPLITS,
    strict: bool = False,
) -> Path:
    """Make a datalist of a folder.

    Args:
        source: the folder.
        output: folder to write the datalist to (and the slices of volumes).
        name: name of the data set.
        license: terms of the data, kept in the datalist.
        val_is_test: use val/ as the healthy test set and take the validation share from train/.
        slices: slices of each volume, spread around the middle one.
        gap_mm: distance between them in mm.
        percentile: percentile of a volume that becomes 1.
        seed: seed of the split.
        splits: fractions of training, validation and test subjects, where the folders do not say.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        ConfigError: when ``output`` lies inside ``source``, where it would be taken for input the next time.
        DataError: when the folder is missing or nothing of it can be used.
    """
    source = require_folder(source)
    if Path(output).absolute().is_relative_to(source.absolute()):
        raise ConfigError(f"output {output}: lies inside the source {source}; choose a folder elsewhere.")
    options = Options(val_is_test, slices, gap_mm, percentile, seed, list(splits))
    described = Source(name, license, f"Images of the folder {source.absolute().name}.")
    out = Preparation(described, output, {"name": name, "license": license, **vars(options)})
    for path in out.progress(_find(source)):
        inside = path.relative_to(source)
        with_it = _siblings(source, inside)
        files = [path, *with_it.values()]
        out.case(str(path.absolute()), files, partial(_items, out, options, path, inside, with_it))
    return out.finish(strict)


def _find(source: Path) -> list[Path]:
    """Return the images below ``source``, without masks and labels."""
    aside = {*SIBLINGS.values()}
    return [
        path
        for path in sorted(source.rglob("*"))
        if _stem(path) and not aside & set(path.relative_to(source).parts[:-1])
    ]


def _siblings(source: Path, inside: Path) -> dict[str, Path]:
    """Return the mask and the label of the image ``inside`` the source, where they exist."""
    if IMAGES not in inside.parts[:-1]:
        return {}
    place = inside.parts.index(IMAGES)
    paths = {
        key: source.joinpath(*inside.parts[:place], name, *inside.parts[place + 1 :])
        for key, name in SIBLINGS.items()
    }
    return {key: path for key, path in paths.items() if path.is_file()}


def _items(
    out: Preparation, options: Options, path: Path, inside: Path, with_it: Mapping[str, Path]
) -> Items:
    found = SUBJECT.search(path.name)
    subject = found[0] if found else _stem(path)
    folders = [part for part in inside.parts[:-1] if part != IMAGES]
    section, kind = _place(folders, subject, options)
    if "mask" in with_it and folders[:1] and folders[0] in TRAIN + VAL:
        raise DataError(f"{path}: has a mask but lies in {folders[0]}/, which holds healthy images only.")
    if "mask" in with_it:
        section, kind = "test", kind or "anomaly"
    item: Item = {"healthy": not kind, "subject": subject} | ({"kind": kind} if kind else {})
    image = LoadCheckedImage(channels=1)(path)
    if image.ndim == 4:
        name = "_".join([*folders, _stem(path)])
        return [(section, cut) for cut in _cut(out, options, orient(image), with_it.get("mask"), name, item)]
    for key, file in with_it.items():
        if read_slice(file).shape != image.shape[1:]:
            raise ImageShapeError(
                f"{file}: has another size than its image {tuple(image.shape[1:])}; fit it."
            )
        item[key] = out.external(file)
    return [(section, {"image": out.external(path), **item})]


def _cut(
    out: Preparation, options: Options, volume: MetaTensor, mask: Path | None, name: str, item: Item
) -> list[Item]:
    """Write slices of a volume; a slice that the mask leaves empty is healthy."""
    lesion = None if mask is None else read_mask(mask, volume)
    scaled = percentile_scale(volume, options.percentile)
    depth = scaled.shape[2]
    items: list[Item] = []
    for level in evenly_spaced(
        depth // 2, options.slices, max(1, round(options.gap_mm / spacing_z(volume))), depth
    ):
        cut: dict[str, Any] = {
            "image": out.image(f"{name}_{level:03d}", scaled[:, :, level]),
            **item,
            "level": level,
        }
        if lesion is not None and lesion[:, :, level].any():
            cut["mask"] = out.mask(f"{name}_{level:03d}", lesion[:, :, level])
        elif lesion is not None:
            cut = {key: value for key, value in cut.items() if key != "kind"} | {"healthy": True}
        items.append(cut)
    return items


def _place(folders: Sequence[str], subject: str, options: Options) -> tuple[str, str]:
    """Return section and kind ("" = healthy) of an image in ``folders`` below the source."""
    top = folders[0] if folders else ""
    if top in TEST or (top in VAL and options.val_is_test):
        kind = folders[1] if top in TEST and len(folders) > 1 else ""
        return "test", "" if kind in HEALTHY else kind
    if top in VAL:
        return "validation", ""
    drawn = section_of(subject, options.splits, options.seed)
    if top in TRAIN:
        return ("validation" if options.val_is_test and drawn == "validation" else "training"), ""
    return drawn, ""


def _stem(path: Path) -> str:
    """Return the name without its type, or "" when it is no image file."""
    return next((path.name[: -len(end)] for end in TYPES if path.name.lower().endswith(end)), "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; see ``--help``."""
    parser = make_parser("robustmed_monai.data_prep.folder", __doc__, SPLITS)
    parser.add_argument("--name", default="folder", help="name of the data set (%(default)s)")
    parser.add_argument("--license", default="as the owner of the images says", help="terms of the data")
    parser.add_argument(
        "--val_is_test", action="store_true", help="val/ is the test set; validation is from train/"
    )
    parser.add_argument("--slices", type=int, default=1, help="slices of each volume (%(default)s)")
    parser.add_argument("--gap_mm", type=float, default=5.0, help="distance between them in mm (%(default)s)")
    parser.add_argument(
        "--percentile", type=float, default=98.0, help="percentile that becomes 1 (%(default)s)"
    )
    return run(prepare, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
