"""What probes tell apart: disease, and whether an image is corrupted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.transforms.corruption.core import Corruption
from robustmed_monai.transforms.corruption.suite import detection_set
from robustmed_monai.transforms.corruption.unoranic import unoranic_detection
from robustmed_monai.utils.errors import DataError


class ProbeData(NamedTuple):
    """Images and labels of one task by section: "training", "validation", "test"; see ``fit_probe``."""

    images: Mapping[str, torch.Tensor]
    labels: Mapping[str, torch.Tensor]
    class_weight: str | None = None


def task_classes(task: str, training: TensorDataset) -> int:
    """Classes of a task: 2 for "corruption", as many as the training images have for "disease"."""
    return 2 if task == "corruption" else int(training.tensors["label"].max()) + 1


def disease_data(training: Any, validation: Any, test: Any, class_weight: str | None = None) -> ProbeData:
    """Clean images and the classes of the data set.

    Args:
        training: data set in memory with `image` (N, C, X, Y) and `label` (N,).
        validation: the same.
        test: the same.
        class_weight: see ``fit_probe``.

    Raises:
        DataError: when an image may have several labels.
    """
    sections = {"training": training, "validation": validation, "test": test}
    images = {k: v.tensors["image"] for k, v in sections.items()}
    labels = {k: v.tensors["label"] for k, v in sections.items()}
    if labels["test"].ndim != 1:
        raise DataError("images with several labels each; linear probes need one label per image.")
    return ProbeData(images, labels, class_weight)


def detection_data(
    training: Any,
    validation: Any,
    test: Any,
    corruption: Corruption | None = None,
    draws: int = 4,
    seed: int = 0,
) -> ProbeData:
    """Images of which every second one is corrupted (label 1), by one of unORANIC's twelve corruptions.

    All draws are fixed: the same bits for every method, run and machine.

    Args:
        training: data set in memory with `image` (N, C, X, Y).
        validation: the same.
        test: the same.
        corruption: chooses what is done; None takes ``unoranic_detection()``.
        draws: times that each training image is drawn anew; the authors draw in every epoch.
        seed: of the test draw; validation and training take the numbers after it.
    """
    chosen = corruption or unoranic_detection()
    sets = {
        "test": [detection_set(test.tensors["image"], chosen, seed)],
        "validation": [detection_set(validation.tensors["image"], chosen, seed + 1)],
        "training": [detection_set(training.tensors["image"], chosen, seed + 2 + k) for k in range(draws)],
    }
    return ProbeData(
        {k: torch.cat([s.images for s in v]) for k, v in sets.items()},
        {k: torch.cat([s.labels for s in v]) for k, v in sets.items()},
    )


def detection_dataset(data: Any, seed: int) -> TensorDataset:
    """A fixed draw of the detection task as a data set with `image` and `label`, for validation.

    Args:
        data: data set in memory with `image` (N, C, X, Y).
        seed: chooses the draw.
    """
    drawn = detection_set(data.tensors["image"], unoranic_detection(), seed)
    return TensorDataset({"image": drawn.images, "label": drawn.labels}, data.data)
