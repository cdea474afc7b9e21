"""Every corruption at every severity as one picture.

    python tools/corruption_gallery.py [--output docs/corruptions.png] [--suite mine.json]

The images are a slice of a virtual head, and a drawn smear of cells for what acts on colour.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from robustmed_monai.transforms.corruption.medmnist_c import MEDMNIST_C
from robustmed_monai.transforms.corruption.suite import Case, CorruptionSuite
from robustmed_monai.utils.errors import ImageShapeError
from robustmed_monai.utils.files import atomic_path
from robustmed_monai.visualize.figures import INK, new_figure, to_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float32]
Part = tuple[CorruptionSuite, Tensor]

_CELL, _GAP, _MARGIN, _TOP = 88, 4, 128, 22  # pixels: side of a picture, gap, labels on the left, headings
_COLUMNS = 6  # the clean image and five severities
_FAMILIES = {
    "imagenet_c": "ImageNet-C",
    "medmnist_c": "MedMNIST-C",
    "mr": "MR",
    "geometry": "geometry",
    "unoranic": "unORANIC",
}
_COLOURED = ("pathmnist", "bloodmnist", "dermamnist", "retinamnist")


class _Strip(NamedTuple):
    label: str
    pictures: list[Array]
    captions: list[str]


def corruption_gallery(parts: Sequence[Part], blocks: int = 1) -> Figure:
    """One row per corruption: the clean image, then its severities; those without severities in a strip.

    Args:
        parts: suites, each with the image (C, X, Y) in [0, 1] to show it on, grey or RGB.
        blocks: columns of rows beside each other.

    Returns:
        The figure, for ``save_png`` or ``to_array``.

    Raises:
        ImageShapeError: when an image is neither grey nor RGB, or not 2-D.
    """
    strips = [strip for suite, image in parts for strip in _strips(suite, image)]
    per_block = -(-len(strips) // blocks)
    width, height = _MARGIN + _COLUMNS * (_CELL + _GAP), _TOP + per_block * (_CELL + _GAP)
    # One picture with text at places in pixels: hundreds of axes would take matplotlib half a minute.
    canvas = np.ones((height, width * blocks, 3), np.float32)
    figure = new_figure(width * blocks / 120, height / 120)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width * blocks), ylim=(height, 0))
    axes.axis("off")
    for number, strip in enumerate(strips):
        block, row = divmod(number, per_block)
        _put(canvas, axes, strip, block * width, _TOP + row * (_CELL + _GAP))
        if row == 0:
            _headings(axes, block * width)
    axes.imshow(canvas, extent=(0, width * blocks, height, 0), interpolation="nearest", aspect="auto")
    return figure


def brain_image(size: int = 224) -> Tensor:
    """An axial slice of a virtual head, (1, size, size)."""
    from robustmed_monai.data.virtual_subjects import virtual_subject

    # The middle 102 of 128 pixels: the margin of air would show nothing.
    head = torch.from_numpy(virtual_subject(0, 1).image[13:115, 13:115, 38].copy())[None, None]
    return F.interpolate(head, (size, size), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def colour_image(size: int = 224) -> Tensor:
    """A drawn smear of red cells and a few purple ones, (3, size, size): nobody's data.

    Example:
        >>> colour_image(32).shape
        torch.Size([3, 32, 32])
    """
    rng = np.random.default_rng(5)
    x, y = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
    picture = np.array([0.95, 0.87, 0.85])[:, None, None] - 0.05 * np.stack([0 * x, x, x * y])
    for cell in range(19):
        nucleus = cell >= 16
        u, v, radius = rng.uniform(-0.05, 1.05), rng.uniform(-0.05, 1.05), rng.uniform(0.07, 0.1)
        distance = np.hypot(x - u, (y - v) * rng.uniform(0.8, 1.2)) / radius
        colour = np.array([0.78, 0.68, 0.86] if nucleus else [0.86, 0.48, 0.47])[:, None, None]
        # Red cells are pale in the middle.
        shade = colour + (0.1 * np.exp(-4 * distance**2) if not nucleus else 0.0)
        inside = np.clip((1.0 + 0.5 * nucleus - distance) / 0.12, 0.0, 1.0)
        picture = picture + inside * (shade - picture)
        if nucleus:
            lobes = 0.15 * np.sin(5 * np.arctan2(x - u, y - v))
            core = np.clip((0.85 + lobes - distance) / 0.1, 0.0, 1.0)
            picture = picture + core * (np.array([0.42, 0.22, 0.55])[:, None, None] - picture)
    return torch.from_numpy(picture.clip(0.0, 1.0).astype(np.float32))


def every_corruption(size: int = 224) -> list[Part]:
    """All corruptions of all families, those that act on colour on a colour image.

    MedMNIST-C has each corruption for several data sets, with parameters of their own; one is shown.
    """
    brain, cells = brain_image(size), colour_image(size)
    imagenet, artifacts, turned = (
        CorruptionSuite.imagenet_c(),
        CorruptionSuite.mr(),
        CorruptionSuite.geometry(),
    )
    shown = {name: dataset for dataset in reversed(MEDMNIST_C) for name in MEDMNIST_C[dataset]}
    datasets = sorted(set(shown.values()), key=list(MEDMNIST_C).index)
    rows = {
        dataset: {
            "family": "medmnist_c",
            "dataset": dataset,
            "name": [name for name in MEDMNIST_C[dataset] if shown[name] == dataset],
            "severity": [1, 2, 3, 4, 5],
        }
        for dataset in datasets
    }
    medmnist = [
        (CorruptionSuite(dataset, 0, [row]), cells if dataset in _COLOURED else brain)
        for dataset, row in rows.items()
    ]
    unoranic = CorruptionSuite.unoranic()
    return [
        (imagenet, brain),
        *medmnist,
        (artifacts, brain),
        (turned, brain),
        (unoranic, brain),
        (unoranic, cells),
    ]


def _strips(suite: CorruptionSuite, image: Tensor) -> Iterator[_Strip]:
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ImageShapeError(
            f"gallery: an image of shape {tuple(image.shape)}; give (1, X, Y), or (3, X, Y) for RGB."
        )
    for (family, dataset, name), group in groupby(suite.cases, lambda case: _row_of(case)):
        cases = list(group)
        pictures = [_picture(suite.apply(image[None], case)[0]) for case in cases]
        if cases[0].severity is not None:
            label = "\n".join(filter(None, (name.replace("_", " "), _FAMILIES[family], dataset)))
            yield _Strip(label, [_picture(image), *pictures], [])
            continue
        for start in range(0, len(cases), _COLUMNS):
            captions = [case.name.replace("_", " ") for case in cases[start : start + _COLUMNS]]
            yield _Strip(_FAMILIES[family], pictures[start : start + _COLUMNS], captions)


def _row_of(case: Case) -> tuple[str, str | None, str]:
    return case.family, case.dataset, case.name if case.severity is not None else ""


def _picture(image: Tensor) -> Array:
    """Shown size, (rows, columns, 3); MONAI's axes are (x, y)."""
    small = F.interpolate(image[None], (_CELL, _CELL), mode="area")[0]
    picture: Array = small.expand(3, -1, -1).permute(2, 1, 0).numpy()
    return picture


def _put(canvas: Array, axes: Any, strip: _Strip, left: int, top: int) -> None:
    axes.text(
        left + _MARGIN - 8, top + _CELL / 2, strip.label, ha="right", va="center", fontsize=7, color=INK
    )
    for column, picture in enumerate(strip.pictures):
        x = left + _MARGIN + column * (_CELL + _GAP)
        canvas[top : top + _CELL, x : x + _CELL] = picture
        if strip.captions:
            axes.text(
                x + _CELL / 2, top + _CELL - 3, strip.captions[column], ha="center", va="bottom", fontsize=5,
                color=INK, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.0},
            )  # fmt: skip


def _headings(axes: Any, left: int) -> None:
    for column, heading in enumerate(("clean", *map(str, range(1, _COLUMNS)))):
        x = left + _MARGIN + column * (_CELL + _GAP) + _CELL / 2
        axes.text(x, _TOP - 5, heading, ha="center", va="bottom", fontsize=7, color=INK)


def _save_small(figure: Figure, path: Path) -> None:
    """PNG of 33 levels per channel: noise is dear to compress, and this halves the file."""
    from PIL import Image

    levels = ((to_array(figure).astype(np.int16) + 4) // 8 * 8).clip(0, 255).astype(np.uint8)
    with atomic_path(path) as temporary:
        Image.fromarray(levels).save(temporary, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the gallery, or that of one suite file on the virtual head."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/corruptions.png"), help="PNG to write")
    parser.add_argument("--suite", type=Path, help="suite file to draw instead of all corruptions")
    chosen = parser.parse_args(arguments)
    if chosen.suite:
        figure = corruption_gallery([(CorruptionSuite.from_json(chosen.suite), brain_image())])
    else:
        figure = corruption_gallery(every_corruption(), blocks=2)
    _save_small(figure, chosen.output)


if __name__ == "__main__":
    main()
