"""Other contrasts of a batch of images in [0, 1]: inverted, randomly remapped, painted from tissue labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from robustmed_monai.transforms.brain_region import fill_holes
from robustmed_monai.transforms.synthesis.labels_to_image import LabelsToImage
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError, DataError, ImageShapeError

# What ``shown_contrasts`` can show.
CONTRASTS = ("t1", "inverted", "inverted_frame", "remapped", "t2_like")

# Points of a curve's table; between them it is linear.
_TABLE = 256

# Intensities of a T2-weighted head: background, CSF, grey matter, white matter, and the two classes that
# ``head_classes`` adds, muscle and fat.
T2_MEANS = ((0.0, 0.04), (0.9, 1.0), (0.5, 0.6), (0.33, 0.43), (0.15, 0.3), (0.55, 0.75))


def invert(images: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return 1 - x, inside a mask or everywhere.

    Args:
        images: (B, C, *spatial) in [0, 1].
        mask: (B, 1, *spatial), above 0 where the image is inverted; None inverts the full frame.

    Raises:
        ImageShapeError: when the mask has another size.
        ImageError: when the images are not in [0, 1].

    Example:
        >>> invert(torch.tensor([[[0.25, 1.0]]]), torch.tensor([[[1, 0]]]))
        tensor([[[0.7500, 1.0000]]])
    """
    images = unit_range(images, "invert")
    if mask is None:
        return 1 - images
    if (len(mask), mask.shape[2:]) != (len(images), images.shape[2:]):
        raise ImageShapeError(f"mask {tuple(mask.shape)} for images {tuple(images.shape)}; give one of each.")
    return torch.where(mask > 0, 1 - images, images)


def brain_mask(labels: torch.Tensor) -> torch.Tensor:
    """Where tissue is, without holes.

    Args:
        labels: (B, 1, *spatial), 0 where there is no tissue.

    Returns:
        (B, 1, *spatial) bool.
    """
    return fill_holes(labels > 0)


def sample_curves(
    rows: int, generator: torch.Generator, knots: int = 8, dark_prob: float = 0.5
) -> torch.Tensor:
    """Draw one smooth curve of intensities per image.

    The values at evenly spaced intensities are uniform and joined by cubic convolution; the curve is then
    stretched to [0, 1], so that no draw takes the contrast away.

    Args:
        rows: number of images B.
        generator: source of the draw.
        knots: values drawn; more of them make a wilder curve.
        dark_prob: share of the curves that leave 0 at the dark end, as a background is.

    Returns:
        (B, 256) float32 in [0, 1] on the CPU, the new intensity of 0, 1/255, ..., 1.

    Raises:
        ConfigError: for fewer than two knots, or a probability out of range.
    """
    if knots < 2 or not 0 <= dark_prob <= 1:
        raise ConfigError(f"knots={knots}, dark_prob={dark_prob}; give at least 2 and a share in [0, 1].")
    drawn = torch.rand(rows, knots + 1, generator=generator)
    values, dark = drawn[:, :knots], drawn[:, knots:] < dark_prob
    table = F.interpolate(values[:, None, None], (1, _TABLE), mode="bicubic", align_corners=True)[:, 0, 0]
    table = table - table.amin(1, keepdim=True)
    fade = torch.linspace(0, knots - 1, _TABLE).clamp(max=1)
    table = torch.where(dark, table * fade, table)
    return table / table.amax(1, keepdim=True).clamp(min=1e-6)


def apply_curves(images: torch.Tensor, curves: torch.Tensor) -> torch.Tensor:
    """Replace intensities by what ``sample_curves`` drew.

    Args:
        images: (B, C, *spatial) in [0, 1].
        curves: (B, K), the new values of 0 to 1 in K - 1 equal steps.

    Returns:
        (B, C, *spatial).

    Example:
        >>> apply_curves(torch.tensor([[[0.0, 0.5, 0.75]]]), torch.tensor([[1.0, 0.0, 1.0]]))
        tensor([[[1.0000, 0.0000, 0.5000]]])
    """
    images = unit_range(images, "apply_curves")
    table = curves.to(images)
    place = images.flatten(1) * (table.shape[1] - 1)
    below = place.detach().floor().clamp(max=table.shape[1] - 2).long()
    share = place - below
    low, high = table.gather(1, below), table.gather(1, below + 1)
    return (low + (high - low) * share).reshape(images.shape)


def smooth_remap(
    images: torch.Tensor, generator: torch.Generator, knots: int = 8, dark_prob: float = 0.5
) -> torch.Tensor:
    """Remap the intensities of each image by a random smooth curve of its own.

    Args:
        images: (B, C, *spatial) in [0, 1].
        generator: source of the curves.
        knots: see ``sample_curves``.
        dark_prob: see ``sample_curves``.
    """
    return apply_curves(images, sample_curves(len(images), generator, knots, dark_prob))


def head_classes(
    images: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int = 4,
    bounds: Sequence[float] = (0.1, 0.45),
) -> torch.Tensor:
    """Tell apart by intensity what tissue labels leave in the background: air and bone, muscle, fat.

    A synthesised image of tissue labels alone has no scalp; an image with its skull has.

    Args:
        images: T1 images (B, 1, *spatial) in [0, 1] whose labels these are.
        labels: (B, 1, *spatial), 0 background.
        num_classes: tissue labels are below it; the classes of the head are counted on from it.
        bounds: intensities at which a class of the background ends, rising.

    Returns:
        (B, 1, *spatial) uint8: the labels, with ``num_classes``, ``num_classes + 1``, ... in the brighter
        background. The labels of skull-stripped images stay, but for voxels that they forgot.

    Raises:
        ImageError: for images that are not in [0, 1].
        DataError: for labels that are not below ``num_classes``.

    Source: SynthSeg clusters the intensities outside of the brain to the same end (Billot et al., 2023).
    """
    if labels.numel() and int(labels.max()) >= num_classes:
        raise DataError(
            f"head_classes: labels go to {int(labels.max())}, tissues are 0 to {num_classes - 1}; give "
            "num_classes."
        )
    unit = unit_range(images, "head_classes").float()
    levels = torch.bucketize(unit, torch.tensor(bounds, device=images.device))
    extra = torch.where(levels > 0, levels + num_classes - 1, 0)
    return torch.where(labels == 0, extra, labels).to(torch.uint8)


def tissue_contrast(
    labels: torch.Tensor,
    means: Sequence[float | Sequence[float]] = T2_MEANS,
    generator: torch.Generator | None = None,
    std: float = 0.03,
    blur: float = 0.7,
    bias_std: float = 0.1,
) -> torch.Tensor:
    """Paint an image of a wanted contrast from labels, such as a T2-weighted head.

    Args:
        labels: (B, 1, *spatial) integers, 0 to ``len(means) - 1``.
        means: intensity of each label in [0, 1], or the range that each image's is drawn from.
        generator: source of the draw; None takes a new one seeded with 0.
        std: largest standard deviation of the noise within a label.
        blur: largest standard deviation of the blur in voxels.
        bias_std: largest standard deviation of the logarithm of the bias field.

    Returns:
        (B, 1, *spatial) float32 in [0, 1].
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    paint = LabelsToImage(
        means=means, std=(0.0, std), zero_background=0.0, blur=blur, bias_std=bias_std, gamma_std=0.0
    )
    return paint.apply(labels, paint.sample(len(labels), len(means), labels.shape[2:], generator))


def shown_contrasts(
    images: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int = 4,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> dict[str, torch.Tensor]:
    """The same anatomies in several contrasts.

    Args:
        images: T1 (N, 1, X, Y) in [0, 1].
        labels: (N, 1, X, Y) tissue labels.
        num_classes: labels are below it. The T2-like contrast needs background, CSF, grey and white matter.
        seed: seed of what is drawn.
        names: contrasts to return, in this order; None returns all.

    Returns:
        `t1`; `inverted`, inside the brain; `inverted_frame`, everywhere; `remapped`, each by a random smooth
        curve; with four classes `t2_like`, painted from the labels and the head around them. (N, 1, X, Y)
        each.

    Raises:
        ConfigError: for an unknown contrast.
    """
    generator = torch.Generator().manual_seed(seed)
    shown = {
        "t1": images,
        "inverted": invert(images, brain_mask(labels)),
        "inverted_frame": invert(images),
        "remapped": smooth_remap(images, generator),
    }
    if num_classes == 4:
        classes = head_classes(images, labels, num_classes)
        shown["t2_like"] = tissue_contrast(classes, T2_MEANS, generator)
    unknown = set(names or ()) - set(CONTRASTS)
    if unknown:
        raise ConfigError(f"contrasts: {sorted(unknown)} unknown; choose of {list(CONTRASTS)}.")
    return {name: shown[name] for name in (names or CONTRASTS) if name in shown}
