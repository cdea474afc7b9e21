"""Label maps in colours over their images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from robustmed_monai.utils.errors import ImageShapeError
from robustmed_monai.visualize.figures import INK, new_figure, write_note

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers; they repeat for more than seven classes.
_COLOURS = ("#0072b2", "#e69f00", "#f0f0f0", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")
_PANEL = 1.6  # inches
# Letters of a legend in one row.
_LEGEND = 32


def label_sheet(
    images: torch.Tensor,
    labels: torch.Tensor,
    names: Sequence[str],
    titles: Sequence[str],
    note: str | None = None,
) -> Figure:
    """One row per slice: the image, and the labels in colours over it.

    Args:
        images: (N, 1, X, Y) in [0, 1].
        labels: (N, 1, X, Y), class numbers; 0, the background, is left as it is.
        names: name of each class.
        titles: N short texts beside the rows.
        note: what a reader has to know before looking, written across the top.

    Returns:
        The figure, for ``save_png``.

    Raises:
        ImageShapeError: when shapes differ or there is no image.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    if images.shape != labels.shape or images.ndim != 4 or images.shape[1] != 1 or not len(images):
        raise ImageShapeError(
            f"images of {tuple(images.shape)}, labels of {tuple(labels.shape)}; give (N, 1, X, Y) of both."
        )
    colours = {k: _COLOURS[(k - 1) % len(_COLOURS)] for k in range(1, len(names))}
    figure = new_figure(2 * _PANEL + 1.0, _PANEL * len(images) + 0.6)
    axes = figure.subplots(len(images), 2, squeeze=False)
    for row, image, classes, title in zip(axes, images, labels, titles, strict=True):
        # MONAI's axes are (x, y), a picture's are (rows, columns).
        grey = image[0].float().clamp(0, 1).T[..., None].repeat(1, 1, 3)
        painted = grey.clone()
        for k, colour in colours.items():
            painted[k == classes[0].T] = torch.tensor(to_rgb(colour))
        for axis, picture in zip(row, (grey, 0.45 * grey + 0.55 * painted), strict=True):
            axis.imshow(picture.numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(title, fontsize=8, color=INK)
    axes[0, 0].set_title("image", fontsize=9, color=INK)
    axes[0, 1].set_title("labels", fontsize=9, color=INK)
    patches = [Patch(facecolor=c, edgecolor=INK, linewidth=0.4, label=names[k]) for k, c in colours.items()]
    # Long names would run over both edges.
    columns = 4 if sum(map(len, names[1:])) <= _LEGEND else 2
    figure.legend(
        handles=patches, loc="outside lower center", ncols=min(columns, len(patches)), frameon=False,
        fontsize=8, labelcolor=INK,
    )  # fmt: skip
    write_note(figure, note)
    return figure
