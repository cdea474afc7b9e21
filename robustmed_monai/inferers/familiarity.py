"""Is an image of the kind that a network was trained on? Plain figures of intensity and geometry."""

from __future__ import annotations

from collections.abc import Mapping

import torch

# Outside this many training spreads (and never within this share of the mean) a figure counts as foreign.
_SPREADS = 6.0
_SLACK = 0.1


def image_figures(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Figures by which images of one kind resemble each other.

    Args:
        images: (B, C, X, Y) in [0, 1].

    Returns:
        `brightness` (mean intensity of the head), `contrast` (its standard deviation), `head_area` (share of
        pixels above 0.1), `head_width` and `head_height` (share of columns and rows that hold the head), each
        (B,).
    """
    grey = images.float().mean(1)
    head = grey > 0.1
    count = head.flatten(1).sum(1).clamp(min=1)
    mean = (grey * head).flatten(1).sum(1) / count
    variance = ((grey - mean[:, None, None]).square() * head).flatten(1).sum(1) / count
    return {
        "brightness": mean,
        "contrast": variance.sqrt(),
        "head_area": head.flatten(1).float().mean(1),
        "head_width": head.any(2).float().mean(1),
        "head_height": head.any(1).float().mean(1),
    }


def image_reference(images: torch.Tensor) -> dict[str, dict[str, float]]:
    """Mean and spread of the figures of training images (B, C, X, Y), to be stored with the weights."""
    figures = image_figures(images)
    return {k: {"mean": float(v.mean()), "std": float(v.std(correction=0))} for k, v in figures.items()}


def unfamiliar(image: torch.Tensor, reference: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Say in which figures images lie far outside the training data.

    Args:
        image: slices (B, C, X, Y) in [0, 1]; the median over them is judged, so that a volume's ends do not
            count.
        reference: from ``image_reference``.

    Returns:
        One sentence per foreign figure; empty when the images look like the training data.

    Example:
        >>> grey = torch.full((4, 1, 8, 8), 0.5)
        >>> unfamiliar(grey, image_reference(grey))
        []
        >>> unfamiliar(grey * 0, image_reference(grey))[0]
        'brightness is 0.00; the training images have 0.50 +- 0.00'
    """
    sentences = []
    for name, values in image_figures(image).items():
        known, found = reference[name], float(values.median())
        allowed = max(_SPREADS * known["std"], _SLACK * abs(known["mean"]))
        if abs(found - known["mean"]) > allowed:
            sentences.append(
                f"{name} is {found:.2f}; the training images have {known['mean']:.2f} +- {known['std']:.2f}"
            )
    return sentences


def ood_slices(
    stack: torch.Tensor, index: torch.Tensor, reference: Mapping[str, Mapping[str, float]] | None
) -> dict[int, list[str]]:
    """What is foreign about each slice: slice to sentences, none where it looks like the training data.

    Args:
        stack: slices (S, C, X, Y) in [0, 1].
        index: those to judge (N,).
        reference: from ``image_reference``; None finds nothing foreign.
    """
    return {i: unfamiliar(stack[i : i + 1], reference) if reference else [] for i in index.tolist()}


def in_distribution_slices(strange: Mapping[int, list[str]]) -> list[int]:
    """Slices that look like the training data, or all where none does."""
    return [i for i, sentences in strange.items() if not sentences] or list(strange)


def ood_warnings(
    stack: torch.Tensor,
    strange: Mapping[int, list[str]],
    reference: Mapping[str, Mapping[str, float]] | None,
) -> list[str]:
    """Sentences for a report about an image: how many of its slices are foreign, and in what.

    Args:
        stack: slices (S, C, X, Y) in [0, 1].
        strange: from ``ood_slices``.
        reference: as there.
    """
    if not strange:
        return ["the image is empty: no voxel is above 0"]
    if not reference:
        return ["the weights do not say what they were trained on; the scores cannot be put into relation"]
    alien = sum(bool(sentences) for sentences in strange.values())
    if not alien:
        return []
    share = f"{alien} of {len(strange)} slices lie far outside the training data; see their entries"
    return [share, *unfamiliar(stack[list(strange)], reference)]
