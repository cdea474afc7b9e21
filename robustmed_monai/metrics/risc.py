"""How well a classifier, or a finder of rotations, does at every rotation of its test images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from robustmed_monai.metrics.bootstrap import Estimate, resample_counts
from robustmed_monai.transforms.rotation import check_rotations, degrees
from robustmed_monai.utils.errors import DataError


def rotation_accuracy(
    correct: npt.ArrayLike,
    n_resamples: int = 1000,
    generator: np.random.Generator | None = None,
    subjects: npt.ArrayLike | None = None,
) -> dict[str, Estimate]:
    """Accuracy upright, over all rotations, at the worst one, and at each, with 95 % intervals.

    The bootstrap draws subjects, each with all its images in all rotations, so the intervals do not take K
    turned copies for K patients.

    Args:
        correct: (K, N), whether image n was classified correctly at rotation k; K is 4 or 8.
        n_resamples: bootstrap resamples.
        generator: source of the draws; None takes a new one seeded with 0.
        subjects: (N,) whose image it is; None takes every image for a subject of its own.

    Returns:
        `upright`, `rotated` (mean over all K, 0 included), `worst` (lowest of the K) and ``angle_<degrees>``.

    Raises:
        DataError: when there is no image.

    Example:
        >>> found = rotation_accuracy([[1, 1], [1, 0], [0, 0], [1, 1]])
        >>> [found[k].value for k in ("upright", "rotated", "worst", "angle_90")]
        [1.0, 0.625, 0.0, 0.5]
    """
    hits = np.asarray(correct, dtype=np.float64)
    if hits.ndim != 2 or not hits.shape[1]:
        raise DataError(f"correct: shape {hits.shape}; give (rotations, images), at least one image.")
    count, images = hits.shape
    check_rotations(count)
    blocks = resample_counts(np.zeros(images, dtype=np.int64), n_resamples, generator, subjects)
    resampled = np.concatenate([counts @ hits.T / counts.sum(1, keepdims=True) for counts in blocks])
    value = hits.mean(1)
    pairs = {
        "upright": (value[0], resampled[:, 0]),
        "rotated": (value.mean(), resampled.mean(1)),
        "worst": (value.min(), resampled.min(1)),
        **{f"angle_{degrees(k, count):g}": (value[k], resampled[:, k]) for k in range(count)},
    }
    return {name: Estimate(float(v), r) for name, (v, r) in pairs.items()}


def rotation_confusion(predicted: torch.Tensor) -> torch.Tensor:
    """Confusion matrix of rotation classes: row is the true rotation, column the predicted one.

    Args:
        predicted: (K, N), the class found for image n at rotation k.

    Returns:
        (K, K) counts.

    Example:
        >>> rotation_confusion(torch.tensor([[0, 0], [1, 3], [2, 2], [3, 3]]))[1]
        tensor([0, 1, 0, 1])
    """
    count = len(predicted)
    return torch.stack([torch.bincount(row, minlength=count) for row in predicted])


def angle_error(predicted: torch.Tensor) -> float:
    """Mean angle in degrees, 0 to 180, between the predicted (K, N) and the true rotation.

    >>> angle_error(torch.tensor([[0], [1], [2], [0]]))
    22.5
    """
    count = len(predicted)
    steps = (predicted - torch.arange(count, device=predicted.device)[:, None]) % count
    return float(torch.minimum(steps, count - steps).double().mean()) * 360 / count


def expected_accuracy(upright: float, rotated: float, rotnet: float, num_rotations: int) -> float:
    """Accuracy that hard correction should have, when RotNet errs alike at all angles and images.

    With K equally frequent rotations the accuracy of a turned image is w = (rotated - upright / K) /
    (1 - 1 / K), and a share ``rotnet`` of the images is turned upright: r * upright + (1 - r) * w. So
    correction helps when r is above 1 / K, and pays as much as r is above it.

    Args:
        upright: accuracy of the classifier on upright images.
        rotated: its accuracy over all rotations.
        rotnet: accuracy r of RotNet.
        num_rotations: K.

    Source: the fact sheet of RISC, section 2; the paper's own figures obey it to half a point.

    Example:
        >>> round(expected_accuracy(0.88, 0.70, 0.99, 4), 3)  # the paper reports .87 on PneumoniaMNIST
        0.878
    """
    check_rotations(num_rotations)
    turned = (rotated - upright / num_rotations) / (1 - 1 / num_rotations)
    return rotnet * upright + (1 - rotnet) * turned
