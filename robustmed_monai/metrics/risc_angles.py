"""How well a classifier, or a finder of rotations, does when its test images lie at any angle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from robustmed_monai.metrics.bootstrap import Estimate, resample_counts
from robustmed_monai.metrics.result import Result
from robustmed_monai.metrics.risc import Corrected
from robustmed_monai.transforms.rotation import degrees, rotate_by
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.visualize.risc import accuracy_by_angle

_AT_ONCE = 256  # images that are rotated at once


def angles_between(step: float) -> list[float]:
    """Angles from 0 up to 360 degrees.

    Args:
        step: degrees between two of them; 45 must be a multiple, so that the rotations that are undone are
            among them.

    Raises:
        ConfigError: for another step.

    Example:
        >>> angles_between(22.5)[:3], len(angles_between(7.5))
        ([0.0, 22.5, 45.0], 48)
    """
    if step <= 0 or not (45 / step).is_integer():
        raise ConfigError(f"step={step}; give one that divides 45 degrees, such as 7.5.")
    return [number * step for number in range(round(360 / step))]


def angles_off(angles: npt.ArrayLike, num_rotations: int) -> npt.NDArray[np.float64]:
    """How far angles lie from the nearest multiple of 360 / ``num_rotations``, all in degrees.

    >>> angles_off([0.0, 60.0, 350.0], 4).tolist()
    [0.0, 30.0, 10.0]
    """
    between = 360 / num_rotations
    rest = np.asarray(angles, dtype=np.float64) % between
    found: npt.NDArray[np.float64] = np.minimum(rest, between - rest)
    return found


def accuracy_over_angles(
    correct: npt.ArrayLike,
    num_rotations: int,
    n_resamples: int = 1000,
    subjects: npt.ArrayLike | None = None,
) -> dict[str, Estimate]:
    """Accuracy over all angles, at the worst, by the distance from a rotation that is undone, and at each.

    Args:
        correct: (A, N), whether image n was classified correctly at angle a; the angles are equally spaced
            from 0.
        num_rotations: rotations that are undone, 4 or 8.
        n_resamples: bootstrap resamples of subjects, each with its images at all angles.
        subjects: (N,) whose image it is; None takes every image for a subject of its own.

    Returns:
        `any` (mean over all angles), `lowest`, ``off_<degrees>`` and ``angle_<degrees>``.

    Example:
        >>> found = accuracy_over_angles([[1, 1], [0, 1], [1, 1], [0, 0]] * 2, num_rotations=4)
        >>> [found[k].value for k in ("any", "lowest", "off_0", "off_45")]
        [0.625, 0.0, 1.0, 0.25]
    """
    hits = np.asarray(correct, dtype=np.float64)
    angles = angles_between(360 / len(hits))
    blocks = resample_counts(np.zeros(hits.shape[1], dtype=np.int64), n_resamples, None, subjects)
    drawn = np.concatenate([counts @ hits.T / counts.sum(1, keepdims=True) for counts in blocks])
    value, off = hits.mean(1), angles_off(angles, num_rotations)
    groups = {f"off_{distance:g}": np.flatnonzero(off == distance) for distance in np.unique(off)}
    groups |= {f"angle_{angle:g}": np.array([number]) for number, angle in enumerate(angles)}
    found = {"any": Estimate(float(value.mean()), drawn.mean(1))}
    found["lowest"] = Estimate(float(value.min()), drawn.min(1))
    for name, places in groups.items():
        found[name] = Estimate(float(value[places].mean()), drawn[:, places].mean(1))
    return found


def measure_any_angle(
    model: Corrected,
    test: Any,
    step: float = 7.5,
    mode: str = "isotropic",
    device: torch.device | str = "cpu",
) -> Result:
    """Classify all test images at angles all around, or ask RotNet about them.

    Args:
        model: of ``load_corrected``.
        test: upright images (N, C, S, S) and their classes as `image` and `label`, maybe `subject`, in its
            ``tensors``.
        step: degrees between two angles.
        mode: how the test images are turned, see ``rotate_by``.
        device: where the networks run.

    Returns:
        Figures of ``accuracy_over_angles``; of RotNet an answer is right when it is the nearest rotation.
        Where there is a RotNet also `left`: degrees by which the corrected image is off, on average.
    """
    labels = test.tensors["label"].cpu()
    correct, left = [], []
    for angle in angles_between(step):
        found = _answers(model, test.tensors["image"], angle, mode, device)
        if "angle" in found:
            off = ((found["angle"] - angle + 180) % 360 - 180).abs()
            left.append(float(off.double().mean()))
        hits = (
            found["pred"].argmax(1) == labels if "pred" in found else off <= 180 / model.inferer.num_rotations
        )
        correct.append(hits.numpy())
    count, subjects = model.inferer.num_rotations, test.tensors.get("subject")
    accuracy = accuracy_over_angles(np.stack(correct), count, subjects=subjects)
    figures: dict[str, float | Estimate] = {**accuracy, **({"left": float(np.mean(left))} if left else {})}
    curve = dict(zip(angles_between(step), (float(hits.mean()) for hits in correct), strict=True))
    return Result(figures, shown={"angles": curve} if model.classifier else {})


def angle_pictures(results: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """Accuracy of every classifier over the angle, mean over the seeds."""
    curves = {}
    for row, seeds in results.items():
        if "angles" in seeds[0].shown:
            points = [seed.shown["angles"] for seed in seeds]
            curves[row] = {angle: float(np.mean([p[angle] for p in points])) for angle in points[0]}
    return {"angles": accuracy_by_angle(curves)}


def _answers(
    model: Corrected, images: torch.Tensor, angle: float, mode: str, device: torch.device | str
) -> dict[str, torch.Tensor]:
    """What is found at an angle: `pred` (N, classes) and `angle` (N,), as far as the model has them."""
    parts: list[dict[str, torch.Tensor]] = []
    for part in images.split(_AT_ONCE):
        view = rotate_by(part.to(device), angle, mode)
        if model.classifier is None:
            index = model.inferer.posterior(view).argmax(1)
            parts.append({"angle": index * degrees(1, model.inferer.num_rotations)})
        else:
            parts.append(model.inferer(view, model.classifier))
    kept = [key for key in ("pred", "angle") if key in parts[0]]
    return {key: torch.cat([part[key] for part in parts]).cpu() for key in kept}
