"""What is said and shown of a segmented image: the volume of each class, the labels over the image."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robustmed_monai.transforms.same_grid import has_voxel_size
from robustmed_monai.transforms.slice_selection import in_distribution
from robustmed_monai.transforms.volume_slices import filled_slices
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.visualize.grids import evenly_spaced
from robustmed_monai.visualize.labels import label_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Where fewer of the slices look like the training images, the image is no head: of whole heads with neck and
# face about half do, of a leg, an abdomen or a phantom none.
_LEAST_SHARE = 0.25

TISSUES = ("background", "CSF", "grey matter", "white matter")
_INSIDE = "inside of the skull"
# An adult's skull holds 1.0 to 1.9 l. What is more has taken neck and face for tissue.
_MOST_ML = 2200.0


def volume_report(output: Mapping[str, Any], class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """What ``volumes.json`` says about an image.

    Args:
        output: of a FileEvaluator: `pred` (1, X, Y[, Z]) classes on the source's grid, in `network_space`
            `pred` (classes, ...) of the network, and `ood_reasons` where ``OODSlicesd`` looked at it.
        class_names: see ``names_of_classes``.

    Returns:
        `volumes`: name of a class to `voxels` and `ml`, which is None where the image has no size of a voxel,
        where less than a quarter of its slices, or none, looks like the training images, and where the
        tissues are more than a skull holds. Of tissues, `inside of the skull` comes last, all of them
        together.
    """
    labels = output["pred"]
    names = names_of_classes(class_names, output["network_space"]["pred"].shape[0])
    plain = torch.as_tensor(labels).as_subclass(torch.Tensor).long()
    counts = torch.bincount(plain.flatten(), minlength=len(names)).tolist()
    if all(any(tissue in name for name in names) for tissue in TISSUES[2:]):
        names, counts = [*names, _INSIDE], [*counts, sum(counts[1:])]
    solid = _is_known(output.get("ood_reasons")) and plain.ndim == 4 and has_voxel_size(output["image"])
    voxel = float(labels.affine[:3, :3].det().abs()) / 1000 if solid else None
    if voxel is not None and names[-1] == _INSIDE and counts[-1] * voxel > _MOST_ML:
        voxel = None
    return {
        "volumes": {
            name: {"voxels": count, "ml": None if voxel is None else round(count * voxel, 3)}
            for name, count in zip(names, counts, strict=True)
        },
    }


def warn_of_volume(output: Mapping[str, Any]) -> dict[str, Any]:
    """Add a warning where the tissues of a volume are more than a skull holds, see ``volume_report``."""
    labels = output["pred"].as_subclass(torch.Tensor)
    if labels.ndim != 4 or len(output["network_space"]["pred"]) != len(TISSUES):
        return dict(output)
    if not has_voxel_size(output["image"]):
        return dict(output)
    found = float((labels > 0).sum() * output["pred"].affine[:3, :3].det().abs()) / 1000
    if found <= _MOST_ML:
        return dict(output)
    said = (
        f"the tissues take up {found:.0f} ml, more than a skull holds, so no volume is given in ml: neck or "
        "face is taken for brain; whole heads need --overlay whole_head"
    )
    return {**output, "warnings": [said, *output.get("warnings", [])]}


def _is_known(reasons: Mapping[int, Sequence[str]] | None) -> bool:
    """Whether enough slices look like the training images; True where nobody has looked."""
    if reasons is None:
        return True
    kept = len(in_distribution(reasons))
    return kept > 0 and kept >= _LEAST_SHARE * len(reasons)


def write_volume_table(
    output: Mapping[str, Any], path: Path, class_names: Sequence[str] | None = None
) -> None:
    """Write the volumes of ``volume_report`` as CSV."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["class", "voxels", "ml"])
        for name, volume in volume_report(output, class_names)["volumes"].items():
            writer.writerow([name, volume["voxels"], "" if volume["ml"] is None else volume["ml"]])


def segmentation_sheet(
    output: Mapping[str, Any], class_names: Sequence[str] | None = None, count: int = 6
) -> Figure | None:
    """Evenly spaced slices with the labels over them, a legend, and the warnings across the top.

    Args:
        output: see ``volume_report``; where it has the mask `head` of ``HeadMaskd``, only what lies in it is
            shown.
        class_names: see ``names_of_classes``.
        count: number of slices.

    Returns:
        The figure, or None where no slice holds anything.
    """
    space = output["network_space"]
    image, scores = (torch.as_tensor(space[k]).as_subclass(torch.Tensor) for k in ("image", "pred"))
    filled = filled_slices(image)
    if not len(filled):
        return None
    chosen = evenly_spaced(filled, count)
    head = output["head"].as_subclass(torch.Tensor) if "head" in output else 1
    labels = scores.argmax(0, keepdim=True) * head
    names = names_of_classes(class_names, len(scores))
    shown = [stack[..., chosen].movedim(-1, 0) for stack in (image, labels)]
    titles = [f"slice {i}" for i in chosen.tolist()]
    return label_sheet(shown[0], shown[1], names, titles, "; ".join(output["warnings"]) or None)


def names_of_classes(class_names: Sequence[str] | None, count: int) -> list[str]:
    """Name of each class, the background first; None numbers them, or takes the tissues where there are four.

    Raises:
        ConfigError: when the names are not as many as the classes.

    Example:
        >>> names_of_classes(None, 2)
        ['class 0', 'class 1']
    """
    if class_names is None:
        return list(TISSUES) if count == len(TISSUES) else [f"class {i}" for i in range(count)]
    if len(class_names) != count:
        raise ConfigError(f"class_names={list(class_names)} for {count} classes; name each once.")
    return list(class_names)
