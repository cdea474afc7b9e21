"""How well a classifier, or a finder of rotations, does at every rotation of its test images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.metrics.bootstrap import Estimate, resample_counts
from robustmed_monai.metrics.classification import classification_metrics
from robustmed_monai.metrics.result import Result
from robustmed_monai.transforms.rotation import check_rotations, degrees, rotate
from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.weight_parts import load_part, part_info
from robustmed_monai.visualize.risc import accuracy_by_angle, confusion_figure

_AT_ONCE = 256  # images that are rotated at once


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

    With K equally frequent rotations the accuracy of a rotated image is w = (rotated - upright / K) /
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


class Corrected(NamedTuple):
    """A classifier and how its images are corrected; without a classifier a RotNet alone.

    With ``oracle`` the true rotation is undone before: what a perfect RotNet would give.
    """

    inferer: RotationCorrectionInferer
    classifier: nn.Module | None = None
    oracle: bool = False


def load_corrected(
    *files: str | os.PathLike[str],
    inferer: RotationCorrectionInferer,
    classifier: nn.Module | None = None,
    oracle: bool = False,
    device: torch.device | str = "cpu",
) -> Corrected:
    """Load the weights of a row: of its classifier, then of its inferer's RotNet, as far as it has them.

    Args:
        files: weights files, each of a network alone or of both.
        inferer: how the images are corrected.
        classifier: image to class logits; None for a row of RotNet alone.
        oracle: undo the true rotation before.
        device: where the networks run.

    Raises:
        ConfigError: when there are not as many files as networks.
        WeightsError: when a file is missing, altered or does not fit.
    """
    parts = {"classifier": classifier, "rotnet": cast(nn.Module | None, inferer.rotnet)}
    networks = {name: network for name, network in parts.items() if network is not None}
    if len(files) != len(networks):
        raise ConfigError(
            f"rows: {len(files)} checkpoints for {list(networks)}; name one for each, in order."
        )
    for (name, network), file in zip(networks.items(), files, strict=True):
        load_part(network.to(device), file, name)
        if name == "rotnet":
            inferer.temperature = float(cast(float, part_info(file, name).get("temperature", 1.0)))
    return Corrected(inferer, classifier, oracle)


def measure_corrected(model: Corrected, test: Any, device: torch.device | str = "cpu") -> Result:
    """Classify all rotations of all test images, or ask RotNet about them.

    Args:
        model: of ``load_corrected``.
        test: upright images (N, C, X, Y) and their classes as `image` and `label`, maybe `subject`, in its
            ``tensors``.
        device: where the networks run.

    Returns:
        Figures of ``rotation_accuracy``. Of a classifier also `cross_entropy` and `auc` (MedMNIST's) over all
        rotations, `abstained` (share) where it may abstain, and for hard correction `expected`, what
        ``expected_accuracy`` expects of RotNet and the classifier alone. Of RotNet also `angle_error`.
    """
    images, labels = test.tensors["image"], test.tensors["label"].cpu()
    answers = _answers(model, images, device)
    count, found, subjects = model.inferer.num_rotations, answers.get("pred"), test.tensors.get("subject")
    truth = torch.arange(count)[:, None]
    if found is None:
        accuracy = rotation_accuracy((answers["rotation"] == truth).numpy(), subjects=subjects)
        figures: dict[str, float | Estimate] = {**accuracy, "angle_error": angle_error(answers["rotation"])}
        return Result(figures, shown={"confusion": rotation_confusion(answers["rotation"])})
    accuracy = rotation_accuracy((found.argmax(2) == labels).numpy(), subjects=subjects)
    repeated = labels.repeat(count)
    flat = found.flatten(0, 1)
    figures = {**accuracy, "cross_entropy": float(F.nll_loss(flat.clamp(min=1e-12).log(), repeated))}
    if len(labels.unique()) == found.shape[2]:
        figures["auc"] = classification_metrics(flat.numpy(), repeated.numpy())["auc"]
    if model.inferer.min_confidence > 0:
        figures["abstained"] = float(answers["abstained"].float().mean())
    if model.inferer.correction == "hard":
        alone = RotationCorrectionInferer(
            num_rotations=count,
            correction="none",
            mode=model.inferer.mode,
            amp=model.inferer.amp,
            outputs="logits",
        )
        plain = _answers(Corrected(alone, model.classifier), images, device)["pred"].argmax(2) == labels
        right = float((answers["rotation"] == truth).double().mean())
        upright, rotated = float(plain[0].double().mean()), float(plain.double().mean())
        figures["expected"] = expected_accuracy(upright, rotated, right, count)
    return Result(
        figures,
        shown={
            "angles": {
                degrees(k, count): accuracy[f"angle_{degrees(k, count):g}"].value for k in range(count)
            }
        },
    )


def rotation_pictures(results: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """Accuracy of every classifier by angle, mean over the seeds, and the confusion matrix of RotNet."""
    curves = {
        row: {
            angle: float(np.mean([r.shown["angles"][angle] for r in seeds]))
            for angle in seeds[0].shown["angles"]
        }
        for row, seeds in results.items()
        if "angles" in seeds[0].shown
    }
    confusions = [
        [r.shown["confusion"] for r in seeds] for seeds in results.values() if "confusion" in seeds[0].shown
    ]
    pictures = {"angles": accuracy_by_angle(curves)}
    return pictures | (
        {"confusion": confusion_figure(torch.stack(confusions[0]).sum(0))} if confusions else {}
    )


def _answers(model: Corrected, images: torch.Tensor, device: torch.device | str) -> dict[str, torch.Tensor]:
    """What is found at all K rotations: `pred` (K, N, classes), `rotation` and `abstained` (K, N)."""
    inferer, classifier = model.inferer, model.classifier
    rotations: list[dict[str, torch.Tensor]] = []
    for index in range(inferer.num_rotations):
        parts: list[dict[str, torch.Tensor]] = []
        for part in images.split(_AT_ONCE):
            view = rotate(part.to(device), index, inferer.num_rotations, inferer.mode)
            if model.oracle:
                view = rotate(view, -index, inferer.num_rotations, inferer.mode)
            if classifier is None:
                parts.append({"rotation": inferer.posterior(view).argmax(1)})
            else:
                parts.append(inferer(view, classifier))
        kept = [key for key in ("pred", "rotation", "abstained") if key in parts[0]]
        rotations.append({key: torch.cat([part[key] for part in parts]).cpu() for key in kept})
    return {key: torch.stack([rotation[key] for rotation in rotations]) for key in rotations[0]}
