"""A stress test from the first condition to ``stress.json``; it goes on where it stopped."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from robustmed_monai.apps.stress.card import write_card
from robustmed_monai.apps.stress.data import StressData
from robustmed_monai.apps.stress.findings import findings
from robustmed_monai.apps.stress.gates import Gate
from robustmed_monai.apps.stress.html import write_html
from robustmed_monai.apps.stress.measure import check_labels, measure, metric_table, true_classes
from robustmed_monai.apps.stress.models import Model
from robustmed_monai.apps.stress.pictures import extreme_cases, write_cases
from robustmed_monai.apps.stress.reading import FORMAT
from robustmed_monai.apps.stress.remedies import Remedy, suggestions
from robustmed_monai.apps.stress.requirements import Requirement, check_requirements, judged
from robustmed_monai.apps.stress.suites import CLEAN, condition_id
from robustmed_monai.apps.stress.summary import condition_rows, summary_of
from robustmed_monai.metrics.stress import DROP
from robustmed_monai.transforms.corruption.suite import Case, CorruptionSuite
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.files import write_json
from robustmed_monai.utils.provenance import provenance

logger = logging.getLogger(__name__)


def stress(
    model: Model,
    data: StressData,
    suite: CorruptionSuite,
    output_dir: str | os.PathLike[str],
    *,
    baseline: Model | None = None,
    gates: Mapping[str, Gate] | None = None,
    remedies: Mapping[str, Remedy] | None = None,
    requirements: Sequence[Requirement] = (),
    batch_size: int = 64,
    device: str = "cpu",
    command: str | None = None,
) -> dict[str, Any]:
    """Stress a model and write what became of it.

    Args:
        model: from ``callable_model`` or ``bundle_model``.
        data: from ``tensor_data``, ``medmnist_data`` or ``datalist_data``.
        suite: what is done to the images, see ``suites.make_suite``.
        output_dir: gets ``report.html``, ``card.md``, ``stress.json``, ``suite.json``, ``pictures`` and a
            file for each condition; a second run measures only what is not there yet.
        baseline: a model to compare with, on the same images.
        gates: name to what could warn of an image, see ``gates``.
        remedies: name to a wrapper, see ``remedies``; each is measured on clean images and where the main
            figure fell by more than 5 points, at the highest severity.
        requirements: bounds, see ``requirements``.
        batch_size: images at once.
        device: where the models run, for the record.
        command: for the record; None takes that of the process.

    Returns:
        What ``stress.json`` holds.

    Raises:
        ConfigError: when a requirement is about nothing, a model does not fit the test set, a batch holds
            nothing, or the suite has MedMNIST-C of several data sets; before anything is measured.
    """
    folder = Path(output_dir)
    metrics = metric_table(data)
    main = next(iter(metrics))
    cases = [CLEAN, *suite.cases]
    check_requirements(requirements, cases, metrics)
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}; give at least 1.")
    if len(sets := sorted({case.dataset for case in suite.cases if case.dataset})) > 1:
        raise ConfigError(f"suite {suite.name}: has medmnist_c of {', '.join(sets)}; take one a run.")
    for given in (model, *([] if baseline is None else [baseline])):
        check_labels(data, given)
    # Said before the work: a checkout may move on meanwhile.
    record = _provenance(suite, data, device, command)
    folder.mkdir(parents=True, exist_ok=True)
    suite.to_json(folder / "suite.json")
    labels = true_classes(data)
    models = {"model": model, **({"baseline": baseline} if baseline is not None else {})}
    found = _measured(cases, suite, data, models, gates or {}, folder / "conditions", batch_size)
    conditions = condition_rows(found, data, labels)
    own = {case: measured["models"]["model"] for case, measured in found.items()}
    worst, least = extreme_cases(own, labels)
    content: dict[str, Any] = {
        "format": FORMAT,
        "model": {"name": model.name, "source": model.source, "weights_sha256": model.weights_sha256},
        "baseline": None if baseline is None else {"name": baseline.name, "source": baseline.source},
        "task": data.task,
        "data": {
            "name": data.name,
            "sha256": data.sha256,
            "images": len(data),
            "subjects": len(set(data.subjects)),
            "split": data.split,
        },
        "provenance": record,
        "main": main,
        "metrics": {name: about for name, about in metrics.items() if name in conditions[0]["figures"]},
        "conditions": conditions,
        "summary": summary_of(conditions, found, labels, data, main),
        "cases": {
            kind: write_cases(chosen, kind, own, labels, data, suite, model, folder)
            for kind, chosen in (("worst", worst), ("least", least))
        },
        "requirements": [judged(r, conditions, metrics) for r in requirements],
        **_suggestions(remedies or {}, conditions, suite, data, model, folder, batch_size, labels),
    }
    content["findings"] = findings(content)
    write_json(folder / "stress.json", content)
    write_html(content, folder)
    write_card(content, folder)
    return content


def _measured(
    cases: Sequence[Case],
    suite: CorruptionSuite,
    data: StressData,
    models: Mapping[str, Model],
    gates: Mapping[str, Gate],
    folder: Path,
    batch_size: int,
) -> dict[Case, dict[str, Any]]:
    with tqdm(total=len(cases) * len(data), desc="stress", unit="image", leave=False, disable=None) as bar:
        found = {}
        for case in cases:
            bar.set_postfix_str(condition_id(case))
            found[case] = measure(case, suite, data, models, gates, folder, batch_size, bar)
    return found


def _suggestions(
    remedies: Mapping[str, Remedy],
    conditions: Sequence[Mapping[str, Any]],
    suite: CorruptionSuite,
    data: StressData,
    model: Model,
    folder: Path,
    batch_size: int,
    labels: Sequence[int],
) -> dict[str, Any]:
    """Measure the remedies where the model was hurt, at the highest severity of each corruption.

    Returns:
        `suggestions`, and `remedies`: what was measured, of how many conditions; None where nothing was.
    """
    main = next(iter(metric_table(data)))
    clean = conditions[0]["figures"][main]["mean"]
    hurt: dict[tuple[str, str], Case] = {}
    mildest_first = sorted(zip(suite.cases, conditions[1:], strict=True), key=lambda it: it[0].severity or 0)
    for case, row in mildest_first:
        mean = row["figures"][main]["mean"]
        if mean is not None and mean < clean - DROP:
            hurt[case.family, case.name] = case
    if not remedies or not hurt:
        return {"remedies": None, "suggestions": []}
    models = {"model": model, **{name: remedy(model) for name, remedy in remedies.items()}}
    found = _measured([CLEAN, *hurt.values()], suite, data, models, {}, folder / "remedies", batch_size)
    rows = {case: measured["models"] for case, measured in found.items()}
    tried = {"names": list(remedies), "conditions": len(hurt)}
    return {"remedies": tried, "suggestions": suggestions(rows, CLEAN, labels, data.subjects)}


def _provenance(suite: CorruptionSuite, data: StressData, device: str, command: str | None) -> dict[str, Any]:
    entry = {"name": data.name, "sha256": data.sha256, "split": data.split}
    return {**provenance(command, [suite.seed], [entry], device), "seed": suite.seed, "suite": suite.name}
