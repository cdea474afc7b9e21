"""Pictures of the worst and the least hurt cases: PNG, of segmentations with labels over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from robustmed_monai.apps.stress.data import StressData
from robustmed_monai.apps.stress.measure import case_scores
from robustmed_monai.apps.stress.models import Model
from robustmed_monai.apps.stress.suites import CLEAN, explain, stressed
from robustmed_monai.apps.stress.views import Views
from robustmed_monai.transforms.corruption.suite import Case, CorruptionSuite
from robustmed_monai.utils.files import atomic_path

COUNT = 6
# Colours of the labels 1, 2, ...: blue, orange, green, purple, yellow, cyan.
_COLOURS = ((86, 156, 255), (255, 140, 0), (60, 200, 90), (190, 110, 255), (240, 220, 60), (60, 210, 220))
_OVER = 0.45  # opacity of the labels


def extreme_cases(
    found: Mapping[Case, Mapping[str, Any]], labels: Sequence[int], count: int = COUNT
) -> tuple[list[tuple[int, Case]], list[tuple[int, Case]]]:
    """The most and the least hurt cases, each of another image and another corruption as far as there are.

    Args:
        found: condition to rows of the model, ``CLEAN`` among them.
        labels: classes of the images.
        count: how many of each.

    Returns:
        Image and condition of each. Least hurt are those with the smallest change among the strongest
        conditions, of images on which the model did well before.
    """
    before = case_scores(found[CLEAN], labels)
    cases = [case for case in found if case != CLEAN]
    if not cases:
        return [], []
    change = np.stack([before - case_scores(found[case], labels) for case in cases])
    strongest: dict[tuple[str, str], int] = {}
    for place, case in enumerate(cases):
        key = (case.family, case.name)
        if key not in strongest or (case.severity or 0) >= (cases[strongest[key]].severity or 0):
            strongest[key] = place
    good = before >= np.nanmedian(before)
    least = np.full_like(change, np.inf)
    for place in strongest.values():
        least[place] = np.where(good, np.abs(change[place]), np.inf)
    return _chosen(-change, cases, count), _chosen(least, cases, count)


def write_cases(
    chosen: Sequence[tuple[int, Case]],
    kind: str,
    found: Mapping[Case, Mapping[str, Any]],
    labels: Sequence[int],
    data: StressData,
    suite: CorruptionSuite,
    model: Model,
    folder: Path,
) -> list[dict[str, Any]]:
    """Write pictures of cases and return what ``stress.json`` says of them.

    Args:
        chosen: image and condition of each.
        kind: "worst" or "least", the beginning of the files' names.
        found: condition to rows of the model.
        labels: classes of the images.
        data: the test set.
        suite: the conditions.
        model: the model.
        folder: that holds ``pictures``.
    """
    entries = []
    for number, (index, case) in enumerate(chosen):
        views = data.views(index)
        shown = stressed(suite, case, views)
        said = model.predict(shown)[0]
        entry = {
            "image": data.names[index],
            "subject": data.subjects[index],
            "condition": str(case),
            "before": float(case_scores(found[CLEAN], labels)[index]),
            "after": float(case_scores(found[case], labels)[index]),
            "label": _class_name(data, labels[index]) if labels else None,
            "prediction": _class_name(data, int(said.argmax())) if labels else None,
            "description": explain(suite, case, views.images.shape[1:], index),
        }
        layers: dict[str, tuple[Views, Tensor | None]] = {"clean": (views, None), "stressed": (shown, None)}
        if not labels:
            layers["truth"] = (shown, shown.truth[0])
            layers["clean_prediction"] = (views, model.predict(views)[0])
            layers["prediction"] = (shown, said)
        for layer, (source, over) in layers.items():
            name = f"pictures/{kind}_{number + 1}_{layer}.png"
            write_picture(source, over, folder / name)
            entry[f"{layer}_png"] = name
        entries.append(entry)
    return entries


def write_picture(views: Views, labels: Tensor | None, path: Path) -> None:
    """Write the first image, rows from top to bottom; of a volume the slice with most labels, or the middle.

    Args:
        views: one image.
        labels: (1, X, Y[, Z]) to lay over it, or None.
        path: of the PNG.
    """
    image = views.images[0].cpu()
    if image.ndim == 4:
        truth = views.truth[0] if views.truth.ndim > 1 else torch.zeros(1, *image.shape[1:])
        area = (truth > 0).sum((0, 1, 2))
        place = int(area.argmax()) if area.any() else image.shape[3] // 2
        image, labels = image[..., place], None if labels is None else labels[..., place]
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy().transpose(2, 1, 0)
    pixels = pixels[..., 0] if pixels.shape[2] != 3 else pixels
    if labels is not None:
        pixels = _laid_over(pixels, labels[0].cpu().numpy().T)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def _laid_over(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    colour = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels
    table = np.array([_COLOURS[(k - 1) % len(_COLOURS)] for k in range(int(labels.max()) + 1)])
    over = _OVER * (labels > 0)[..., None]
    result: npt.NDArray[np.uint8] = (colour * (1 - over) + table[labels] * over).round().astype(np.uint8)
    return result


def _chosen(cost: npt.NDArray[np.float64], cases: Sequence[Case], count: int) -> list[tuple[int, Case]]:
    """Pairs of the lowest cost, no image and, while there are others, no corruption twice."""
    order = np.argsort(cost, axis=None, kind="stable")
    order = order[np.isfinite(cost.ravel()[order])]
    chosen: list[tuple[int, Case]] = []
    for once in (True, False):
        for flat in order:
            place, index = divmod(int(flat), cost.shape[1])
            if len(chosen) == count:
                return chosen
            names = {(case.family, case.name) for _, case in chosen}
            taken = index in {i for i, _ in chosen}
            if not taken and not (once and (cases[place].family, cases[place].name) in names):
                chosen.append((index, cases[place]))
    return chosen


def _class_name(data: StressData, label: int) -> str | int:
    return data.class_names[label] if label < len(data.class_names) else label
