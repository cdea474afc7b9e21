"""The conditions and the summary of ``stress.json``, pure functions of what was measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustmed_monai.apps.stress.data import StressData
from robustmed_monai.apps.stress.measure import case_wrong, changes_of, figures_of
from robustmed_monai.apps.stress.suites import CLEAN, condition_id, condition_text
from robustmed_monai.metrics.bootstrap import Estimate
from robustmed_monai.metrics.stress import area_under_curve, corruption_errors, first_drop
from robustmed_monai.transforms.corruption.suite import Case
from robustmed_monai.utils.errors import DataError

Found = Mapping[Case, Mapping[str, Any]]


def condition_rows(found: Found, data: StressData, labels: Sequence[int]) -> list[dict[str, Any]]:
    """What ``stress.json`` says of each condition.

    Args:
        found: condition to what ``measure`` gave, ``CLEAN`` first.
        data: the test set.
        labels: classes of the images.
    """
    rows = []
    clean = found[CLEAN]["models"]["model"]
    clean_figures = figures_of(clean, data, labels)
    for case, measured in found.items():
        models = measured["models"]
        ours, beside = models["model"], models.get("baseline")
        figures = {name: figures_of(models[name], data, labels) for name in models}
        fallen = changes_of(ours, clean, figures["model"], clean_figures, data)
        ahead = beside and changes_of(ours, beside, figures["model"], figures["baseline"], data)
        wrong = case_wrong(ours, clean, labels)
        rows.append(
            {
                "id": condition_id(case),
                "family": case.family,
                "name": case.name,
                "severity": case.severity,
                "description": condition_text(case),
                "figures": _as_json(figures["model"]),
                "changes": _as_json(fallen),
                "baseline_figures": beside and _as_json(figures["baseline"]),
                "advantages": ahead and _as_json(ahead),
                "gates": {
                    name: {
                        "warned": float(np.mean(warned)),
                        "warned_when_wrong": _share(np.asarray(warned) > 0, wrong),
                    }
                    for name, warned in measured["warned"].items()
                },
                "seconds": measured["seconds"],
            }
        )
    return rows


def summary_of(
    conditions: Sequence[Mapping[str, Any]],
    found: Found,
    labels: Sequence[int],
    data: StressData,
    main: str,
) -> dict[str, Any]:
    """The figures over all conditions.

    Args:
        conditions: from ``condition_rows``.
        found: condition to what ``measure`` gave.
        labels: classes of the images.
        data: the test set.
        main: name of the figure that counts.

    Raises:
        DataError: when it could not be measured on any image.
    """
    clean = conditions[0]
    if clean["figures"][main]["mean"] is None:
        raise DataError(f"{data.name}: its labels hold no structure at all, so nothing can be measured.")
    groups = _groups(conditions, main, "figures")
    curves = {
        name: {s: v for s, v in group.items() if s is not None}
        for name, group in groups.items()
        if None not in group
    }
    errors = {name: [1 - v for v in values.values()] for name, values in groups.items()}
    settings: dict[str, Any] = {}
    if clean["baseline_figures"] is not None:
        theirs = _groups(conditions, main, "baseline_figures")
        settings["other"] = {name: [1 - v for v in values.values()] for name, values in theirs.items()}
        settings["other_clean"] = 1 - clean["baseline_figures"][main]["mean"]
    own = clean["figures"][main]["mean"]
    others = [
        row for row in conditions if row["name"] != "clean" and row["figures"][main]["mean"] is not None
    ]
    values = [row["figures"][main]["mean"] for row in others]
    return {
        "clean": own,
        "mean_over_conditions": float(np.mean(values)) if values else own,
        **corruption_errors(errors, 1 - own, **settings),
        "first_drop": {name: first_drop(_intervals(conditions, name, main)) for name in curves},
        "worst_group": _worst_group(groups),
        "worst_condition": _worst_condition(others, main),
        "worst_class": _worst_class(found, labels, data),
        "areas": {name: area_under_curve(own, curve) for name, curve in curves.items()},
        "gates": _gates(found, labels),
    }


def _as_json(figures: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        name: {"mean": _number(e.value), "ci95": [_number(v) for v in e.ci95]} for name, e in figures.items()
    }


def _groups(
    conditions: Sequence[Mapping[str, Any]], main: str, key: str
) -> dict[str, dict[int | None, float]]:
    """``family/name`` to severity to figure."""
    groups: dict[str, dict[int | None, float]] = defaultdict(dict)
    for row in conditions:
        if row["name"] != "clean" and row[key][main]["mean"] is not None:
            groups[f"{row['family']}/{row['name']}"][row["severity"]] = row[key][main]["mean"]
    return {name: dict(sorted(g.items(), key=lambda pair: pair[0] or 0)) for name, g in groups.items()}


def _intervals(conditions: Sequence[Mapping[str, Any]], group: str, main: str) -> dict[Any, list[Any]]:
    """Severity to the interval of the change of ``family/name``, mildest first."""
    rows = [row for row in conditions if f"{row['family']}/{row['name']}" == group]
    rows.sort(key=lambda row: row["severity"] or 0)
    return {row["severity"]: row["changes"][main]["ci95"] for row in rows}


def _worst_group(groups: Mapping[str, Mapping[Any, float]]) -> dict[str, Any] | None:
    if not groups:
        return None
    means = {name: float(np.mean(list(group.values()))) for name, group in groups.items()}
    worst = min(means, key=lambda name: means[name])
    return {"family": worst.partition("/")[0], "name": worst.rpartition("/")[2], "mean": means[worst]}


def _worst_condition(rows: Sequence[Mapping[str, Any]], main: str) -> dict[str, Any] | None:
    if not rows:
        return None
    worst = min(rows, key=lambda row: float(row["figures"][main]["mean"]))
    return {"id": worst["id"], "mean": worst["figures"][main]["mean"]}


def _worst_class(found: Found, labels: Sequence[int], data: StressData) -> dict[str, Any] | None:
    """The class that loses most: its share of right answers on clean images and over all conditions."""
    if not labels or len(found) < 2:
        return None
    truth = np.asarray(labels)
    right = {
        case: np.asarray(m["models"]["model"]["probabilities"]).argmax(1) == truth
        for case, m in found.items()
    }
    rows: list[dict[str, Any]] = []
    for k in sorted(set(labels)):
        clean = float(right[CLEAN][truth == k].mean())
        mean = float(np.mean([r[truth == k].mean() for case, r in right.items() if case != CLEAN]))
        name = data.class_names[k] if k < len(data.class_names) else str(k)
        rows.append({"class": name, "clean": clean, "mean": mean})
    return max(rows, key=lambda row: row["clean"] - row["mean"])


def _gates(found: Found, labels: Sequence[int]) -> dict[str, dict[str, float | None]]:
    """Of each gate: false alarms, and the share of cases lost by a condition that it warned of."""
    clean = found[CLEAN]
    before = case_wrong(clean["models"]["model"], clean["models"]["model"], labels)
    result = {}
    for name, alarms in clean["warned"].items():
        said: list[np.ndarray[Any, Any]] = []
        for case, measured in found.items():
            if case != CLEAN:
                lost = case_wrong(measured["models"]["model"], clean["models"]["model"], labels) & ~before
                said.append(np.asarray(measured["warned"][name])[lost] > 0)
        lost_cases = np.concatenate(said) if said else np.zeros(0, bool)
        result[name] = {
            "warned_when_clean": float(np.mean(alarms)),
            "warned_when_lost": float(lost_cases.mean()) if len(lost_cases) else None,
            "lost": len(lost_cases),
        }
    return result


def _share(warned: np.ndarray[Any, Any], wrong: np.ndarray[Any, Any]) -> float | None:
    return float(warned[wrong].mean()) if wrong.any() else None


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
