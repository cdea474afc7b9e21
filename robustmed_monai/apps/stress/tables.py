"""Tables of a stress report: what becomes of the main figure at each severity, and every figure there is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element

from robustmed_monai.apps.stress.markup import Content, tag
from robustmed_monai.apps.stress.reading import (
    Condition,
    Kind,
    Outcome,
    Stress,
    breaks,
    clean_condition,
    condition_title,
    defined,
    family_title,
    in_points,
    kinds,
    loss,
    lost,
    main_figure,
    metric_label,
    number,
    outcome,
    percent,
    severity_text,
    with_interval,
)
from robustmed_monai.metrics.stress import DROP

WORDS: dict[Outcome, str] = {
    "broken": "breaks",
    "hurt": "hurts",
    "withstood": "withstood",
    "open": "not decided",
}


def overview(stress: Stress) -> Element:
    """A row per kind of stress and a column per severity; the colour says how much is lost."""
    steps = max((len(kind.steps) for kind in kinds(stress)), default=0)
    clean = number(main_figure(stress, clean_condition(stress))["mean"])
    families: dict[str, list[Kind]] = {}
    for kind in kinds(stress):
        families.setdefault(kind.family, []).append(kind)
    bodies = [_family_rows(stress, family, members, steps) for family, members in families.items()]
    label = metric_label(stress, stress["main"])
    words = f"{label} by severity; clean {clean}. Bold: surely more than 5 points lost."
    table = scrolling(tag("table", bodies, class_="overview"))
    return tag("div", tag("p", words, class_="quiet"), table)


def everything(stress: Stress) -> Element:
    """A row per condition with all figures and their intervals, the baseline and the gates."""
    metrics = [name for name in stress["metrics"] if any(name in c["figures"] for c in stress["conditions"])]
    gates = list(dict.fromkeys(name for c in stress["conditions"] for name in c.get("gates") or {}))
    baseline = stress.get("baseline")
    heads = ["Condition", *(metric_label(stress, name) for name in metrics)]
    if baseline:
        heads.append(f"{metric_label(stress, stress['main'])} of {baseline['name']}")
    for gate in gates:
        heads += [f"{gate}: warned", f"{gate}: warned when wrong"]
    rows = [_row(stress, condition, metrics, gates) for condition in stress["conditions"]]
    return scrolling(plain_table(heads, rows))


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[Content]]) -> Element:
    """A table whose first column names the rows."""
    head = tag("thead", tag("tr", [tag("th", text, scope="col") for text in heads]))
    body = [
        tag("tr", tag("th", first, scope="row"), [tag("td", cell) for cell in cells])
        for first, *cells in rows
    ]
    return tag("table", head, tag("tbody", body))


def scrolling(table: Element) -> Element:
    """A table that is moved sideways where it is wider than the page."""
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="table")


def shade(stress: Stress, condition: Condition) -> str:
    """Class of a cell by what is lost: better, same (up to 1 point), less (5), lost (15), gone.

    >>> changed = lambda mean: {"changes": {"a": {"mean": mean}}, "family": "mr"}
    >>> stress = {"main": "a", "metrics": {"a": {"higher_is_better": True}}}
    >>> [shade(stress, changed(mean)) for mean in (0.05, 0.0, -0.04, -0.1, -0.7)]
    ['better', 'same', 'less', 'lost', 'gone']
    """
    fallen = loss(stress, condition)
    bounds = ((-0.01, "better"), (0.01, "same"), (DROP, "less"), (3 * DROP, "lost"))
    return next((name for bound, name in bounds if fallen <= bound), "gone")


def _family_rows(stress: Stress, family: str, members: Sequence[Kind], steps: int) -> Element:
    longest = max(members, key=lambda kind: len(kind.steps))
    same = all(
        [s["severity"] for s in kind.steps] == [s["severity"] for s in longest.steps] for kind in members
    )
    scaled = all(step["severity"] is not None for step in longest.steps)
    names = [severity_text(step) for step in longest.steps] if same and scaled else [""] * len(longest.steps)
    head = [
        tag("th", family_title(family), scope="colgroup"),
        *(tag("th", name, scope="col") for name in names),
        *(tag("td") for _ in range(steps - len(names))),
        tag("th", "", scope="col"),
    ]
    rows = [tag("tr", head, class_="family")]
    for kind in members:
        cells: list[Element] = []
        for step in kind.steps:
            value = number(main_figure(stress, step)["mean"])
            inside = tag("b", value) if breaks(stress, step) else value
            told = f"severity {severity_text(step)}: {with_interval(main_figure(stress, step))}, "
            told += f"{in_points(lost(stress, step))} lost"
            cells.append(tag("td", inside, class_=shade(stress, step), title=told))
        cells += [tag("td") for _ in range(steps - len(kind.steps))]
        state = outcome(stress, kind)
        cells.append(tag("td", WORDS[state], class_=f"outcome {state}"))
        rows.append(tag("tr", tag("th", kind.title, scope="row"), cells))
    return tag("tbody", rows)


def _row(stress: Stress, condition: Condition, metrics: Sequence[str], gates: Sequence[str]) -> list[Content]:
    figures = condition["figures"]
    row: list[Content] = [condition_title(condition)]
    row += [with_interval(figures[name]) if defined(figures.get(name)) else "–" for name in metrics]
    if stress.get("baseline"):
        theirs = (condition.get("baseline_figures") or {}).get(stress["main"])
        row.append(with_interval(theirs) if defined(theirs) else "–")
    for gate in gates:
        said = (condition.get("gates") or {}).get(gate, {})
        row += [percent(said.get("warned")), percent(said.get("warned_when_wrong"))]
    return row
