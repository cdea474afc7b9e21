"""The stress report as a short Markdown card, for the pages of a bundle."""

from __future__ import annotations

import os
import re
from pathlib import Path

from robustmed_monai.apps.stress.findings import grouped_findings, verdict
from robustmed_monai.apps.stress.markup import plain
from robustmed_monai.apps.stress.reading import (
    Stress,
    breaks,
    check_format,
    clean_condition,
    family_title,
    kinds,
    main_figure,
    metric_label,
    number,
    outcome,
    with_interval,
)
from robustmed_monai.apps.stress.tables import WORDS
from robustmed_monai.utils.files import atomic_path

# What Markdown or HTML would read as more than text.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def card_markdown(stress: Stress) -> str:
    """The card: verdict, findings, one row per kind of stress, and how it was made.

    Args:
        stress: content of a `stress.json`.

    Raises:
        DataError: when it is no stress result.
    """
    check_format(stress, "stress.json")
    lines = [f"# {_text(stress['model']['name'])} under stress", "", _text(verdict(stress)), ""]
    for title, sentences in grouped_findings(stress).items():
        lines += [f"**{title}**", "", *(f"- {_text(sentence)}" for sentence in sentences), ""]
    return "\n".join([*lines, *_table(stress), *_made(stress)]) + "\n"


def write_card(stress: Stress, folder: str | os.PathLike[str]) -> Path:
    """Write ``card.md`` beside the result, atomically, and return its path.

    Raises:
        DataError: as :func:`card_markdown`.
    """
    text = card_markdown(stress)
    path = Path(folder) / "card.md"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _table(stress: Stress) -> list[str]:
    found = kinds(stress)
    if not found:
        return []
    label = _text(metric_label(stress, stress["main"]))
    clean = with_interval(main_figure(stress, clean_condition(stress)))
    about = f"{label} from the mildest severity to the worst; clean {_text(clean)}."
    rows = [f"{about} Bold: surely more than 5 points lost.", ""]
    rows += ["| stress | family | " + f"{label} | |", "| --- | --- | --- | --- |"]
    for kind in found:
        figures = [(number(main_figure(stress, step)["mean"]), breaks(stress, step)) for step in kind.steps]
        cells = " ".join(f"**{value}**" if broken else value for value, broken in figures)
        state = WORDS[outcome(stress, kind)]
        rows.append(f"| {_text(kind.title)} | {_text(family_title(kind.family))} | {cells} | {state} |")
    return [*rows, ""]


def _made(stress: Stress) -> list[str]:
    data, made = stress["data"], stress.get("provenance") or {}
    subjects = f", {data['subjects']} subjects" if data.get("subjects") else ""
    parts = [f"{_text(data['name'])}: {data['images']} images{subjects}"]
    parts += [f"{key} {_text(made[key])}" for key in ("date", "commit", "seed") if made.get(key) is not None]
    lines = [f"{'; '.join(parts)}. Intervals: 95 %, bootstrap over subjects."]
    if made.get("command"):
        # Long enough a fence that nothing within closes it.
        command = " ".join(plain(str(made["command"])).split())
        longest = max((len(run) for run in re.findall("`+", command)), default=0)
        fence = "`" * max(3, longest + 1)
        lines += ["", fence, command, fence]
    return lines


def _text(value: object) -> str:
    """Text on one line that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(plain(str(value)).split()))
