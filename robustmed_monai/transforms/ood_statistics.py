"""What training images have in common, kept with the weights, and what sets another image apart from them.

Two questions are asked of an image: whether each of a few figures lies in the range of the training images
(brightness, contrast, how much of the frame is filled, colour), and how far its appearance lies from theirs:
coarse layout, grey values and texture together, by the Mahalanobis distance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustmed_monai.transforms.unit_range import unit_range

Statistics = Mapping[str, Mapping[str, Any]]

# What is brighter is foreground.
_AIR = 0.1
# Figures may lie beyond all but this share of the training images by this share of their range, or of the
# middle of it where they are all alike.
_RARE, _WIDER, _SLACK = 0.001, 0.15, 0.1
# The appearance may be this much further away than all but that share of images that were left out.
_FAR, _FURTHER = 0.002, 1.1
_FOLDS = 5
_GRID = 5
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
# Values of the appearance spread by no less than this, however alike the training images are.
_SPREAD = 0.05
_DIGITS = 5
_APPEARANCE, _COLOUR = "appearance", "colour"


def image_figures(images: Tensor) -> dict[str, Tensor]:
    """Figures by which images of one kind resemble each other.

    Args:
        images: (B, C, X, Y) in [0, 1].

    Returns:
        `brightness` (mean intensity of the foreground, what is above 0.1), `contrast` (its standard
        deviation), `foreground` (its share of the pixels), `foreground_width` and `foreground_height` (share
        of columns and rows that hold some), and of colour images `colour` (first less last channel by their
        sum, such as red less blue), each (B,).
    """
    grey = unit_range(images, "training_statistics").float().mean(1)
    inside = grey > _AIR
    count = inside.flatten(1).sum(1).clamp(min=1)
    mean = (grey * inside).flatten(1).sum(1) / count
    variance = ((grey - mean[:, None, None]).square() * inside).flatten(1).sum(1) / count
    figures = {
        "brightness": mean,
        "contrast": variance.sqrt(),
        "foreground": inside.flatten(1).float().mean(1),
        "foreground_width": inside.any(2).float().mean(1),
        "foreground_height": inside.any(1).float().mean(1),
    }
    if images.shape[1] > 1:
        first, *_, last = images.float().mean((2, 3)).T
        figures[_COLOUR] = (first - last) / (first + last).clamp(min=1e-6)
    return figures


def image_appearance(images: Tensor) -> Tensor:
    """Coarse layout, grey values and texture of images.

    Args:
        images: (B, C, X, Y) in [0, 1].

    Returns:
        (B, 33) float64: the mean of the channels averaged in 5 x 5 fields and freed of brightness and
        contrast, five of its quantiles, and the decimal logarithms of its variance, of the energy of its
        gradient by that, and of its second differences by those of its first ones. Noise is high, blur low in
        the last two.
    """
    grey = images.double().mean(1)
    fields = F.adaptive_avg_pool2d(grey[:, None], _GRID).flatten(1)
    layout = (fields - fields.mean(1, keepdim=True)) / (fields.std(1, keepdim=True) + _SPREAD)
    levels = torch.quantile(grey.flatten(1), torch.tensor(_LEVELS, dtype=grey.dtype, device=grey.device), 1)
    variance, first, second = (
        values + 1e-4 for values in (grey.flatten(1).var(1), _energy(grey, 1), _energy(grey, 2))
    )
    texture = torch.stack([variance, first / variance, second / first], 1).log10()
    return torch.cat([layout, levels.T, texture], 1)


def training_statistics(
    images: Any,
    transform: Callable[[dict[str, Tensor], torch.Generator], Mapping[str, Tensor]] | None = None,
    value_range: Sequence[float] = (0.0, 1.0),
) -> dict[str, dict[str, Any]]:
    """What images of a training set have in common, as numbers for JSON.

    Args:
        images: (N, C, X, Y) in ``value_range``, or a data set in memory that has them as `image`.
        transform: batch transform that brings them to what the network sees.
        value_range: values that are black and white.

    Returns:
        `low` and `high` of each of ``image_figures``, and of the `appearance` its `mean`, `std` and
        `correlation` (lower triangle, row by row), and the `limit` of the distance from the mean, within
        which nearly all of the images lie when they are left out.
    """
    images = images if isinstance(images, Tensor) else images.tensors["image"]
    if transform is not None:
        images = transform({"image": images}, torch.Generator())["image"]
    images = (images - value_range[0]) / (value_range[1] - value_range[0])
    statistics: dict[str, dict[str, Any]] = {}
    for name, values in image_figures(images).items():
        low, high = (float(torch.quantile(values.double(), q)) for q in (_RARE, 1 - _RARE))
        margin = max(_WIDER * (high - low), _SLACK * abs(low + high) / 2)
        least = -1.0 if name == _COLOUR else 0.0
        statistics[name] = {
            "low": round(max(low - margin, least), _DIGITS),
            "high": round(min(high + margin, 1.0), _DIGITS),
        }
    appearance = image_appearance(images).cpu()
    limit = _FURTHER * max(1.0, float(torch.quantile(_left_out(appearance), 1 - _FAR)))
    return {**statistics, _APPEARANCE: {**_fitted(appearance), "limit": round(limit, _DIGITS)}}


def ood_reasons(images: Tensor, statistics: Statistics, tolerance: float = 1.0) -> list[str]:
    """Say by what images are unlike the training data.

    Args:
        images: slices (B, C, X, Y) in [0, 1]; the median over them counts.
        statistics: from ``training_statistics``.
        tolerance: the appearance may be this many times as far away as that of the training images, and the
            figures this many times as far beyond theirs. Images of one study are so much alike that another
            scanner lies beyond; other kinds of images lie at more than five times their distance.

    Returns:
        One sentence per figure out of range; empty when the images look like the training data.

    Example:
        >>> grey = torch.full((4, 1, 8, 8), 0.5)
        >>> ood_reasons(grey, training_statistics(grey))
        []
        >>> ood_reasons(grey * 0, training_statistics(grey))[0]
        'brightness is 0.00; the training images have 0.45 to 0.55'
    """
    sentences = []
    for name, values in image_figures(images).items():
        trained, found = statistics[name], float(values.median())
        beyond = (tolerance - 1) * _WIDER / (1 + 2 * _WIDER) * (trained["high"] - trained["low"])
        if not trained["low"] - beyond <= found <= trained["high"] + beyond:
            sentences.append(
                f"{name} is {found:.2f}; the training images have {trained['low']:.2f} to "
                f"{trained['high']:.2f}"
            )
    trained = statistics[_APPEARANCE]
    found, limit = float(_distance(image_appearance(images).cpu(), trained).median()), trained["limit"]
    if found > tolerance * limit:
        times = "" if tolerance == 1 else f" ({tolerance:g} times that is allowed)"
        sentences.append(
            f"layout and texture are {found:.1f} standard deviations from the training images; theirs are "
            f"within {limit:.1f}{times}"
        )
    return sentences


def appearance_distance(images: Tensor, statistics: Statistics) -> Tensor:
    """How far the appearance of each image is from the training images, in units of the limit.

    Args:
        images: (B, C, X, Y) in [0, 1].
        statistics: from ``training_statistics``.

    Returns:
        (B,) float64; above 1 is further than nearly all training images.
    """
    trained = statistics[_APPEARANCE]
    return _distance(image_appearance(images).cpu(), trained) / float(trained["limit"])


def is_unlike(images: Tensor, statistics: Statistics) -> Tensor:
    """Whether each image for itself is unlike the training data, as ``ood_reasons`` says of several.

    Args:
        images: (B, C, X, Y) in [0, 1].
        statistics: from ``training_statistics``.

    Returns:
        (B,) bool on the CPU.

    Example:
        >>> grey = torch.full((4, 1, 8, 8), 0.5)
        >>> is_unlike(torch.cat([grey[:1], grey[:1] * 0]), training_statistics(grey)).tolist()
        [False, True]
    """
    beyond = appearance_distance(images, statistics) > 1
    for name, values in image_figures(images).items():
        trained = statistics[name]
        found = values.double().cpu()
        beyond = beyond | (found < trained["low"]) | (found > trained["high"])
    return beyond


def _energy(grey: Tensor, order: int) -> Tensor:
    """Mean square of the differences along both axes of (B, X, Y)."""
    along = (torch.diff(grey, order, axis).square().mean((1, 2)) for axis in (1, 2))
    return torch.stack(list(along)).sum(0)


def _fitted(appearance: Tensor) -> dict[str, Any]:
    """Mean, spread and correlation; drawn towards none where there are few images for so many values."""
    count, size = appearance.shape
    mean, std = appearance.mean(0), appearance.std(0, correction=0).clamp(min=_SPREAD)
    scaled = (appearance - mean) / std
    found = scaled.T @ scaled / count
    known = count / (count + size)
    correlation = known * found + (1 - known) * torch.eye(size, dtype=found.dtype)
    rows = [[round(v, _DIGITS) for v in row[: i + 1]] for i, row in enumerate(correlation.tolist())]
    return {
        "mean": [round(v, _DIGITS) for v in mean.tolist()],
        "std": [round(v, _DIGITS) for v in std.tolist()],
        "correlation": rows,
    }


def _distance(appearance: Tensor, fitted: Mapping[str, Any]) -> Tensor:
    """Mahalanobis distance of each row, per root of the number of values: about 1 for a training image."""
    mean, std = (torch.tensor(fitted[key], dtype=appearance.dtype) for key in ("mean", "std"))
    correlation = torch.eye(len(mean), dtype=appearance.dtype)
    for i, row in enumerate(fitted["correlation"]):
        correlation[i, : i + 1] = correlation[: i + 1, i] = torch.tensor(row, dtype=appearance.dtype)
    scaled = (appearance - mean) / std
    squares: Tensor = (torch.linalg.solve(correlation, scaled.T).T * scaled).sum(1)
    return squares.div(len(mean)).clamp(min=0).sqrt()


def _left_out(appearance: Tensor) -> Tensor:
    """Distance of each row from what the others of five parts have in common."""
    part = torch.arange(len(appearance)) % min(_FOLDS, len(appearance))
    distance = torch.empty(len(appearance), dtype=appearance.dtype)
    for fold in part.unique():
        others = appearance[part != fold] if len(part) > 1 else appearance
        distance[part == fold] = _distance(appearance[part == fold], _fitted(others))
    return distance
