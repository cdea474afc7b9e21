"""Any folder of slices (PNG, TIFF, JPEG, 2-D NIfTI) or volumes (NIfTI, MGZ, NRRD) to a datalist.

Layout, all optional, the same that every bundle takes as ``--dataset_dir``::

    source/train/...            healthy images for training (also "training")
    source/val/...              healthy images for validation (also "valid", "validation")
    source/test/good/...        healthy test images (also "healthy", "normal", or directly in test/)
    source/test/<kind>/...      abnormal test images of that kind
    .../images/x.png            with .../masks/x.png (anomaly mask, test only) and .../labels/x.png (tissue)

Without these folders everything counts as healthy and is split by subject, save subjects with a mask, who
belong to the test. With ``--val_is_test`` the images of val/ become the healthy test set, and ``--splits``
divides train/ into training and validation (its test share goes to training): so the layout of
``ixi_t1_slices`` serves all three.

What the subject is says ``robustmed_monai.data.image_folder``. Slices stay where they are and are named by
path; a volume is turned to "RPS" and mid axial slices of it and of its mask are written as PNG, cut as
inference cuts them (labels of volumes are left out).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from robustmed_monai.data.datalist import split_items
from robustmed_monai.data.image_folder import folder_items, image_files, image_stem, section_folders
from robustmed_monai.data.split import split_subjects
from robustmed_monai.data_prep.command import command
from robustmed_monai.data_prep.common import Item, Preparation, Source, Splits, require_folder
from robustmed_monai.data_prep.pixels import orient, read_mask, read_slice
from robustmed_monai.data_prep.volume_slices import SIZE, SPACING_MM, VolumeSlices
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

SPLITS: Splits = (0.8, 0.1, 0.1)


def prepare(
    source: Path,
    output: Path,
    name: str = "folder",
    license: str = "as the owner of the images says",
    val_is_test: bool = False,
    slices: int = 1,
    gap_mm: float = 5.0,
    percentile: float = 99.5,
    size: int = SIZE,
    spacing_mm: float = SPACING_MM,
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
        percentile: percentile of a volume's foreground that becomes 1, 99.5 as at inference.
        size: side of the slices of volumes in pixels.
        spacing_mm: side of their pixels in mm.
        seed: seed of the split.
        splits: fractions of training, validation and test subjects, where the folders do not say.
        strict: refuse when any file is missing or corrupt.

    Returns:
        Path of ``datalist.json``.

    Raises:
        ConfigError: when ``output`` lies inside ``source``, where it would be taken for input the next time.
        DataError: when the folder is missing or not laid out as it should be, or nothing of it can be used.
    """
    source = require_folder(source).absolute()
    if Path(output).absolute().is_relative_to(source):
        raise ConfigError(f"output {output}: lies inside the source {source}; choose a folder elsewhere.")
    cut = VolumeSlices(slices, gap_mm, percentile, size, spacing_mm)
    settings = {"name": name, "license": license, "val_is_test": val_is_test}
    settings |= {**vars(cut), "seed": seed, "splits": list(splits)}
    out = Preparation(Source(name, license, f"Images of the folder {source.name}."), output, settings)
    found = _sections(out, source, val_is_test, splits, seed)
    for section, item in out.progress(found):
        files = [Path(item[key]) for key in ("image", "mask", "label") if key in item]
        out.add_case(item["image"], section, files, partial(_items, out, source, item, cut))
    return out.finish(strict)


def _sections(
    out: Preparation, source: Path, val_is_test: bool, splits: Sequence[float], seed: int
) -> list[tuple[str, Item]]:
    """Section and item of each image."""
    folders = section_folders(source)
    if not folders:
        items = folder_items(source, None)
        return list(zip(split_items(items, splits, seed), items, strict=True))
    inside = {folder.name for folder in folders.values()}
    outside = sum(path.relative_to(source).parts[0] not in inside for path in image_files(source))
    out.skipped.update({"outside of train, val and test": outside})
    found = [(name, item) for name, folder in folders.items() for item in folder_items(folder, name)]
    if not val_is_test:
        return found
    train, val, test = splits
    drawn = split_subjects((i["subject"] for s, i in found if s == "training"), (train + test, val, 0), seed)
    return [(drawn[item["subject"]] if name == "training" else "test", item) for name, item in found]


def _items(out: Preparation, source: Path, listed: Item, cut: VolumeSlices) -> list[Item]:
    path, healthy = Path(listed["image"]), listed.get("healthy", True)
    item: Item = {"healthy": healthy, "subject": listed["subject"]}
    if not healthy:
        item["kind"] = listed["kind"]
    image = LoadCheckedImage(channels=1)(path)
    if image.ndim == 4:
        volumes = {"image": orient(image)}
        if "mask" in listed:
            volumes["mask"] = read_mask(Path(listed["mask"]), volumes["image"])
            del item["healthy"]
        folders = (part for part in path.relative_to(source).parts[:-1] if part.lower() != "images")
        name = "_".join([*folders, image_stem(path)])
        return cut.write(out, name, cut.cut(volumes), item)
    for key in [key for key in ("mask", "label") if key in listed]:
        values = read_slice(Path(listed[key]))
        if values.shape != image.shape[1:]:
            raise ImageShapeError(
                f"{listed[key]}: has another size than its image {tuple(image.shape[1:])}; fit it."
            )
        if key == "label" or values.any():
            item[key] = out.external(Path(listed[key]))
    if "mask" in listed and "mask" not in item:
        # An empty mask says that there is nothing.
        item = {**{key: value for key, value in item.items() if key != "kind"}, "healthy": True}
    elif "mask" in item and healthy:
        raise DataError(
            f"{path}: lies in a folder of healthy images, but its mask {listed['mask']} is not empty."
        )
    return [{"image": out.external(path), **item}]


main = command(prepare)

if __name__ == "__main__":
    sys.exit(main())
