"""One condition measured: every image made, shown to the models and the gates, and kept in one file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from robustmed_monai.apps.stress.data import StressData
from robustmed_monai.apps.stress.gates import Gate
from robustmed_monai.apps.stress.models import Model
from robustmed_monai.apps.stress.suites import CLEAN, condition_id, stressed
from robustmed_monai.apps.stress.views import Views
from robustmed_monai.metrics.bootstrap import Estimate
from robustmed_monai.metrics.stress import (
    case_mean,
    classification_figures,
    paired_change,
    segmentation_cases,
    segmentation_figures,
)
from robustmed_monai.transforms.corruption.suite import Case, CorruptionSuite
from robustmed_monai.utils.errors import ConfigError, DataError
from robustmed_monai.utils.files import read_json, write_json
from robustmed_monai.utils.fingerprint import digest_objects

Array = npt.NDArray[np.float64]
# A case of a segmentation is wrong where its Dice is this much lower than without corruption.
LOST = 0.1


def measure(
    case: Case,
    suite: CorruptionSuite,
    data: StressData,
    models: Mapping[str, Model],
    gates: Mapping[str, Gate],
    folder: Path,
    batch_size: int,
    bar: tqdm[Any] | None = None,
) -> dict[str, Any]:
    """Measure a condition, or read what an earlier run measured with the same models, data and settings.

    Args:
        case: the condition.
        suite: that it is of.
        data: the test set.
        models: by name; all see the same images.
        gates: by name.
        folder: where the files of the conditions are.
        batch_size: images at once.
        bar: is told of every image.

    Returns:
        `models`: name to `probabilities` (N, K), or to `dice` and `hd95` (N, structures), None for nothing to
        measure; `warned`: gate to (N,) of 0 and 1; `seconds`.
    """
    digests = [models[name].digest for name in models]
    fingerprint = digest_objects(
        digests, list(models), data.sha256, list(data.names), suite.seed, tuple(case), dict(gates)
    )
    path = folder / f"{condition_id(case).replace('/', '-')}.json"
    if path.is_file():
        try:
            known = read_json(path)
        except DataError:
            known = {}
        if isinstance(known, dict) and known.get("fingerprint") == fingerprint:
            if bar is not None:
                bar.update(len(data))
            return known
    start = time.perf_counter()
    rows: dict[str, dict[str, list[Any]]] = {name: {} for name in models}
    warned: dict[str, list[int]] = {name: [] for name in gates}
    for views in data.batches(batch_size):
        shown = stressed(suite, case, views)
        for name, model in models.items():
            for key, values in _rows(model, shown, data).items():
                rows[name].setdefault(key, []).extend(values)
        for name, gate in gates.items():
            warned[name] += [int(w) for w in gate(shown.images)]
        if bar is not None:
            bar.update(len(views))
    seconds = round(time.perf_counter() - start, 3)
    found = {
        "fingerprint": fingerprint,
        "id": condition_id(case),
        "models": rows,
        "warned": warned,
        "seconds": seconds,
    }
    write_json(path, found)
    return found


def figures_of(rows: Mapping[str, Any], data: StressData, labels: Sequence[int]) -> dict[str, Estimate]:
    """Figures of a model on a condition.

    Args:
        rows: of one model, from ``measure``.
        data: the test set.
        labels: (N,) classes; not looked at for segmentations.
    """
    if data.task == "classification":
        return classification_figures(rows["probabilities"], labels, data.subjects)
    return segmentation_figures(_array(rows["dice"]), _array(rows["hd95"]), structures(data), data.subjects)


def changes_of(
    rows: Mapping[str, Any],
    others: Mapping[str, Any],
    figures: Mapping[str, Estimate],
    other_figures: Mapping[str, Estimate],
    data: StressData,
) -> dict[str, Estimate]:
    """How much higher figures are than others of the same images; both see the same resamples of subjects.

    Args:
        rows: of one model, from ``measure``.
        others: of the same model on the clean images, or of another on the same; a case of a segmentation
            counts where both have a figure.
        figures: of the rows, from ``figures_of``.
        other_figures: of the others.
        data: the test set.
    """
    if data.task == "classification":
        return paired_change(figures, other_figures)
    dice, hd95 = (_array(rows[key]) - _array(others[key]) for key in ("dice", "hd95"))
    return segmentation_figures(dice, hd95, structures(data), data.subjects)


def case_scores(rows: Mapping[str, Any], labels: Sequence[int]) -> Array:
    """One number a case: the probability of its class, or its mean Dice."""
    if "probabilities" in rows:
        return np.asarray(rows["probabilities"], np.float64)[np.arange(len(labels)), list(labels)]
    return case_mean(_array(rows["dice"]))


def case_wrong(
    rows: Mapping[str, Any], clean: Mapping[str, Any], labels: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Whether the model fails on each case: another class, or a Dice more than 0.1 below the clean one."""
    if "probabilities" in rows:
        said: npt.NDArray[np.bool_] = np.asarray(rows["probabilities"]).argmax(1) != np.asarray(labels)
        return said
    lost: npt.NDArray[np.bool_] = case_scores(rows, labels) < case_scores(clean, labels) - LOST
    return lost


def true_classes(data: StressData) -> list[int]:
    """Classes of all images; nothing for segmentations."""
    return [int(data.read(i)[1]) for i in range(len(data))] if data.task == "classification" else []


def structures(data: StressData) -> list[str]:
    """Names of the structures of a segmentation, without the background."""
    named = list(data.class_names) if len(data.class_names) == data.num_classes else []
    return named[1:] or [str(k) for k in range(1, data.num_classes)]


def metric_table(data: StressData) -> dict[str, dict[str, Any]]:
    """What the figures are: whether higher is better, their range and their name."""
    unit = [0, 1]
    if data.task == "classification":
        return {
            "accuracy": {"higher_is_better": True, "range": unit, "label": "Accuracy"},
            "auc": {"higher_is_better": True, "range": unit, "label": "AUC"},
            "ece": {"higher_is_better": False, "range": unit, "label": "Expected calibration error"},
        }
    parts = structures(data) if data.num_classes > 2 else []
    length = "mm" if data.sample.images.ndim == 5 else "pixels"
    return {
        "dice": {"higher_is_better": True, "range": unit, "label": "Dice"},
        **{f"dice_{n}": {"higher_is_better": True, "range": unit, "label": f"Dice, {n}"} for n in parts},
        "hd95": {"higher_is_better": False, "range": [0, None], "label": f"HD95 in {length}"},
    }


def check_labels(data: StressData, model: Model) -> None:
    """Refuse a model that has other classes than the test set, before anything is measured.

    Raises:
        ConfigError: when it has fewer.
    """
    prediction = model.predict(stressed(CorruptionSuite.geometry(), CLEAN, data.sample))[0]
    if data.task == "classification" and len(prediction) < data.num_classes:
        raise ConfigError(
            f"{model.name}: tells {len(prediction)} classes apart, {data.name} has {data.num_classes}."
        )


def _rows(model: Model, shown: Views, data: StressData) -> dict[str, list[Any]]:
    predictions = model.predict(shown)
    if data.task == "classification":
        return {"probabilities": [[float(v) for v in p.double()] for p in predictions]}
    rows: dict[str, list[Any]] = {"dice": [], "hd95": []}
    spacing = shown.spacing() if data.sample.images.ndim == 5 else None
    for predicted, truth in zip(predictions, shown.truth, strict=True):
        inside = torch.where(predicted < data.num_classes, predicted, 0)
        found = segmentation_cases(inside, truth, data.num_classes, spacing)
        for key, values in zip(rows, found, strict=True):
            rows[key].append([None if np.isnan(v) else float(v) for v in values])
    return rows


def _array(rows: Sequence[Sequence[float | None]]) -> Array:
    return np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=np.float64)
