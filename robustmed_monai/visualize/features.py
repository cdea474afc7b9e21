"""Channels of feature maps, those of several contrasts one under the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from robustmed_monai.losses.cifl import channel_similarity
from robustmed_monai.networks.cifl import unit_maps
from robustmed_monai.utils.errors import ImageShapeError
from robustmed_monai.visualize.figures import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def feature_sheet(
    images: Mapping[str, torch.Tensor], features: Mapping[str, torch.Tensor], per_row: int = 8
) -> Figure:
    """Images and their channels; with two images of one shape, each channel's similarity over the foreground.

    Args:
        images: name to image (1, X, Y) in [0, 1].
        features: the same names to features (C, X, Y), C alike. Middle grey is 0; a channel has one scale in
            all images, so that equal greys are equal values.
        per_row: channels side by side.

    Returns:
        The figure, for ``save_png``.

    Raises:
        ImageShapeError: when names or shapes do not fit.
    """
    counts = {len(maps) for maps in features.values()}
    sizes = {name: tuple(image.shape[1:]) for name, image in images.items()}
    if len(counts) != 1 or sizes != {name: tuple(maps.shape[1:]) for name, maps in features.items()}:
        shapes = {name: tuple(maps.shape) for name, maps in features.items()}
        raise ImageShapeError(
            f"images of {sizes} with features of {shapes}; give each image features of its size, "
            "as many channels as the others."
        )
    (count,) = counts
    per_row = min(per_row, count)
    blocks = -(-count // per_row)
    titles = _titles(images, features, count)
    limits = _limits(images, features)
    first = next(iter(images.values()))
    height = blocks * len(images) * 1.15 * first.shape[2] / first.shape[1]
    figure = new_figure(1.15 * (per_row + 1), height + 0.2 * blocks + 0.2)
    axes = figure.subplots(blocks * len(images), per_row + 1, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
    for row, name in enumerate([*images] * blocks):
        start = row // len(images) * per_row
        _draw(axes[row, 0], images[name][0], 0, 1)
        axes[row, 0].set_ylabel(name, fontsize=7, color=INK)
        for place, channel in enumerate(range(start, min(start + per_row, count)), 1):
            _draw(axes[row, place], features[name][channel], -limits[channel], limits[channel])
            if row % len(images) == 0:
                axes[row, place].set_title(titles[channel], fontsize=7, color=INK, pad=2)
    return figure


def _draw(axis: Axes, values: torch.Tensor, low: float, high: float) -> None:
    # MONAI's axes are (x, y), a picture's are (rows, columns).
    axis.imshow(values.detach().cpu().numpy().T, cmap="gray", vmin=low, vmax=high, interpolation="nearest")


def _limits(images: Mapping[str, torch.Tensor], features: Mapping[str, torch.Tensor]) -> list[float]:
    """Value of each channel that becomes white, in the foreground: zero padding makes borders brighter."""
    found = []
    for name, image in images.items():
        inside = image[0] > 0 if (image > 0).any() else torch.ones_like(image[0], dtype=torch.bool)
        found.append(features[name][:, inside].abs().quantile(0.99, dim=1))
    largest = torch.stack(found).amax(0)
    return torch.where(largest > 0, largest, 1.0).tolist()


def _titles(
    images: Mapping[str, torch.Tensor], features: Mapping[str, torch.Tensor], count: int
) -> list[str]:
    numbers = [str(channel) for channel in range(count)]
    maps = list(features.values())
    if len(maps) != 2 or maps[0].shape != maps[1].shape:
        return numbers
    inside = torch.stack([image > 0 for image in images.values()]).all(0)[None]
    cosines = channel_similarity(*(unit_maps(m[None], mask=inside) for m in maps))[0]
    return [f"{number}: {float(cosine):.2f}" for number, cosine in zip(numbers, cosines, strict=True)]
