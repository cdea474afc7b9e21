"""What the synthesis makes, as one picture: shapes, contrasts, deformations, artefacts, volumes and brains.

python tools/synthesis_gallery.py [--output docs/label_shapes.png]
"""

from __future__ import annotations

import argparse
import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustmed_monai.transforms.fields import warp
from robustmed_monai.transforms.synthesis import DiffeomorphicDeform, LabelShapes, LabelsToImage
from robustmed_monai.visualize.figures import INK, new_figure, save_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = tuple[str, Tensor]  # caption, (X, Y) grey in [0, 1] or labels of an integer type
Row = tuple[str, list[Picture]]

COLUMNS = 6
_BRAIN_MEANS = {
    # background, CSF, grey matter, white matter
    "T1-like": (0.0, 0.25, 0.6, 0.85),
    "T2-like": (0.0, 0.9, 0.55, 0.35),
    "FLAIR-like": (0.0, 0.1, 0.65, 0.5),
}
_OFF: dict[str, Any] = {
    "std": (0.0, 0.0),
    "zero_background": 0.0,
    "blur": 0.0,
    "bias_std": 0.0,
    "gamma_std": 0.0,
}
_ARTEFACTS: dict[str, dict[str, Any]] = {
    "means alone": {},
    "std": {"std": (0.06, 0.1)},
    "blur": {"blur": 3.0},
    "low_resolution": {"low_resolution": 1.0, "thickness": (6.0, 6.0)},
    "bias_std": {"bias_std": 0.6},
    "gamma_std": {"gamma_std": 0.8},
}


def synthesis_gallery(size: int = 160, seed: int = 0) -> Figure:
    """Rows of pictures made by the synthesis with its defaults where nothing else is said.

    Args:
        size: side of the 2-D maps in pixels; that of the volume is three fifths of it.
        seed: of everything.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [
        _shapes(size, generator),
        *(_contrasts(f"one map,\n{COLUMNS - 1} contrasts", size, generator) for _ in range(2)),
        _deformations(size, generator),
        _artefacts(size, seed),
        _volume(size * 3 // 5, generator),
        _brains(generator),
    ]
    figure = new_figure(1.25 * COLUMNS + 1.0, 1.4 * len(rows))
    axes = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        line[0].set_ylabel(name, fontsize=7, color=INK, rotation=0, ha="right", va="center")
        for axis, (caption, picture) in zip(line, pictures, strict=True):
            axis.set_title(caption, fontsize=6, color=INK, pad=2)
            # MONAI's axes are (x, y), a picture's are (rows, columns).
            shown = picture.T if picture.is_floating_point() else _coloured(picture.T)
            axis.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    return figure


def _coloured(labels: Tensor) -> Tensor:
    """(R, C) labels to (R, C, 3); labels that follow each other have colours far apart."""
    wheel = [colorsys.hsv_to_rgb(k * 0.618 % 1, 0.55, (0.95, 0.7)[k % 2]) for k in range(256)]
    return torch.tensor(wheel)[labels.long()]


def _shapes(size: int, generator: torch.Generator) -> Row:
    pictures: list[Picture] = []
    for kind in ("shared", "per_label"):
        shapes = LabelShapes(warp=kind)
        maps = shapes.apply(shapes.sample(COLUMNS // 2, (size, size), generator), (size, size))
        pictures += [(f'warp="{kind}"', labels[0]) for labels in maps]
    return "label shapes\nfrom noise", pictures


def _contrasts(name: str, size: int, generator: torch.Generator) -> Row:
    shapes, to_image, sides = LabelShapes(), LabelsToImage(), (size, size)
    labels = shapes.apply(shapes.sample(1, sides, generator), sides)
    images = to_image.apply(labels, to_image.sample(COLUMNS - 1, shapes.num_labels, sides, generator))
    return name, [("labels", labels[0, 0]), *(("image", image[0]) for image in images)]


def _deformations(size: int, generator: torch.Generator) -> Row:
    shapes, deform, sides = LabelShapes(6), DiffeomorphicDeform(), (size, size)
    labels = shapes.apply(shapes.sample(1, sides, generator), sides)
    lines = ((torch.arange(size) % (size // 12)) < max(1, size // 80)).float()
    grid = 1 - torch.maximum(lines[:, None], lines[None])
    fields = deform.apply(deform.sample(COLUMNS // 2 - 1, sides, generator), sides)
    pictures: list[Picture] = [("as it was", labels[0, 0])]
    pictures += [("deformed", warp(labels, field[None], "nearest", "border")[0, 0]) for field in fields]
    pictures += [("a grid", grid)]
    pictures += [
        ("deformed likewise", warp(grid[None, None], field[None], "bilinear", "border")[0, 0])
        for field in fields
    ]
    return "smooth\ndeformation", pictures


def _artefacts(size: int, seed: int) -> Row:
    sides, shapes = (size, size), LabelShapes(8)
    labels = shapes.apply(shapes.sample(1, sides, torch.Generator().manual_seed(seed)), sides)
    pictures: list[Picture] = []
    for name, switched in _ARTEFACTS.items():
        to_image = LabelsToImage(**{**_OFF, **switched})
        params = to_image.sample(1, 8, sides, torch.Generator().manual_seed(seed + 1))
        pictures.append((name, to_image.apply(labels, params)[0, 0]))
    return "each artefact\nalone", pictures


def _volume(size: int, generator: torch.Generator) -> Row:
    sides = (size,) * 3
    shapes, to_image = LabelShapes(), LabelsToImage()
    labels = shapes.apply(shapes.sample(1, sides, generator), sides)
    images = to_image.apply(labels, to_image.sample(2, shapes.num_labels, sides, generator))
    pictures: list[Picture] = []
    for level in (size // 3, size // 2):
        pictures.append((f"labels, z = {level}", labels[0, 0, :, :, level]))
        pictures += [("image", image[0, :, :, level]) for image in images]
    return f"volume of\n{size} x {size} x {size}", pictures


def _brains(generator: torch.Generator) -> Row:
    from robustmed_monai.data.virtual_subjects import virtual_subject

    labels = torch.from_numpy(virtual_subject(0, 1).labels[14:114, 8:118, 38].copy())[None, None]
    sides = tuple(labels.shape[2:])
    pictures: list[Picture] = [("labels of a virtual head", labels[0, 0])]
    for name, means in _BRAIN_MEANS.items():
        to_image = LabelsToImage(means=means, std=(0.0, 0.06), bias_std=0.1, gamma_std=0.0)
        pictures.append((name, to_image.apply(labels, to_image.sample(1, 4, sides, generator))[0, 0]))
    to_image = LabelsToImage(zero_background=1.0)
    images = to_image.apply(labels, to_image.sample(2, 4, sides, generator))
    return "from real\nlabel maps", [*pictures, *(("random", image[0]) for image in images)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the gallery."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/label_shapes.png"), help="PNG to write")
    parser.add_argument("--size", type=int, default=160, help="side of the maps in pixels (160)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (0)")
    chosen = parser.parse_args(arguments)
    save_png(synthesis_gallery(chosen.size, chosen.seed), chosen.output)


if __name__ == "__main__":
    main()
