"""Charts of a stress report as SVG: curves over severity, dots with intervals, warnings against losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from robustmed_monai.apps.stress.markup import tag
from robustmed_monai.apps.stress.reading import (
    Condition,
    Figure,
    Kind,
    Stress,
    breaks,
    clean_condition,
    condition_title,
    defined,
    family_title,
    interval_of,
    loss,
    main_figure,
    metric_label,
    percent,
    severity_text,
    with_interval,
)

_WIDTH, _HEIGHT = 220, 148
_LEFT, _RIGHT, _TOP, _BOTTOM = 30, 8, 8, 20


class Scale(NamedTuple):
    """A range of values on a range of pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Place of a value; beyond the ends it is the end."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 2)


def value_range(stress: Stress) -> tuple[float, float]:
    """Lowest and highest value on the axis of all charts: what the main figure reaches, rounded outwards."""
    main = stress["main"]
    values: list[float] = []
    for condition in stress["conditions"]:
        for key in ("figures", "baseline_figures"):
            figure = (condition.get(key) or {}).get(main)
            values += [figure["mean"], *(interval_of(figure) or [])] if defined(figure) else []
    low, high = min(values), max(values)
    ends = stress["metrics"][main].get("range")
    step = 0.2 if high - low <= 2 else 10 ** math.floor(math.log10(high - low))
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if ends and ends[0] is not None and ends[1] is not None:
        low, high = max(low, ends[0]), min(high, ends[1])
    return (low, high) if high > low else (low, low + step)


def curve(stress: Stress, kind: Kind, identity: str, ends: tuple[float, float]) -> Element:
    """The main figure of a kind of stress over severity, with its band, the clean level and the baseline.

    Args:
        stress: the result.
        kind: of several steps.
        identity: of this chart on its page.
        ends: lowest and highest value of the axis.
    """
    clean = clean_condition(stress)
    steps = [clean, *kind.steps]
    x = Scale(0, len(steps) - 1, _LEFT + 6, _WIDTH - _RIGHT - 4)
    y = Scale(*ends, _HEIGHT - _BOTTOM, _TOP)
    main, level = stress["main"], y(main_figure(stress, clean)["mean"])
    ours = [main_figure(stress, step) for step in steps]
    theirs = [(step.get("baseline_figures") or {}).get(main) for step in steps]
    drawn = [
        *_frame(x, y, [severity_text(step) for step in steps]),
        tag("line", class_="clean", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=level, y2=level),
        _band(ours, x, y),
        _line(theirs, x, y, "theirs"),
        _line(ours, x, y, "ours"),
        *(_dot(stress, step, x(index), y) for index, step in enumerate(steps)),
    ]
    title = f"{kind.title} ({family_title(kind.family)})"
    told = "; ".join(
        f"severity {severity_text(s)}: {with_interval(main_figure(stress, s))}" for s in kind.steps
    )
    words = f"{metric_label(stress, main)}, clean {with_interval(main_figure(stress, clean))}; {told}"
    return _chart(identity, title, words, _WIDTH, _HEIGHT, drawn)


def strip(stress: Stress, condition: Condition, identity: str, ends: tuple[float, float]) -> Element:
    """One condition as a dot with its interval on a line, the clean level marked."""
    x = Scale(*ends, 6, 214)
    figure, main = main_figure(stress, condition), stress["main"]
    clean = x(main_figure(stress, clean_condition(stress))["mean"])
    theirs = (condition.get("baseline_figures") or {}).get(main)
    low, high = interval_of(figure) or (figure["mean"], figure["mean"])
    state = "dot broken" if breaks(stress, condition) else "dot"
    drawn = [
        tag("line", class_="grid", x1=6, x2=214, y1=10, y2=10),
        tag("line", class_="clean", x1=clean, x2=clean, y1=1, y2=19),
        tag("line", class_="range", x1=x(low), x2=x(high), y1=10, y2=10),
        tag("circle", class_="dot theirs", cx=x(theirs["mean"]), cy=10, r=3) if defined(theirs) else None,
        tag("circle", class_=state, cx=x(figure["mean"]), cy=10, r=3.5),
    ]
    words = f"{metric_label(stress, main)} {with_interval(figure)}"
    return _chart(identity, condition_title(condition, severity=False), words, 220, 20, drawn)


def warnings_chart(stress: Stress, gate: str, identity: str) -> Element:
    """How many images a gate warned of (upwards) by how far the main figure fell (to the right)."""
    shown = [
        (loss(stress, c), c["gates"][gate]["warned"], c)
        for c in stress["conditions"]
        if gate in (c.get("gates") or {}) and defined(c["figures"].get(stress["main"]))
    ]
    shown = [entry for entry in shown if entry[1] is not None]
    furthest = max([0.1, *(fallen for fallen, _, _ in shown)])
    furthest = math.ceil(furthest * 10 - 1e-9) / 10
    x, y = Scale(0, furthest, 40, 352), Scale(0, 1, 180, 10)
    drawn: list[Element | None] = []
    for share in (0.0, 0.5, 1.0):
        drawn.append(tag("line", class_="grid", x1=40, x2=352, y1=y(share), y2=y(share)))
        drawn.append(tag("text", percent(share), x=34, y=y(share) + 3, text_anchor="end"))
    for points in (0.0, furthest / 2, furthest):
        drawn.append(tag("text", f"{100 * points:.0f}", x=x(points), y=196, text_anchor="middle"))
    for fallen, warned, condition in shown:
        text = f"{condition_title(condition)}: {100 * fallen:.0f} points lost, {percent(warned)} warned of"
        state = (
            "clean" if condition["family"] == "clean" else "broken" if breaks(stress, condition) else "held"
        )
        dot = tag("circle", tag("title", text), class_=f"gate {state}", cx=x(fallen), cy=y(warned), r=4)
        drawn.append(dot)
    words = f"{len(shown)} conditions; the table of all conditions has the numbers"
    return _chart(identity, f"Share of images that {gate} warns of, by points lost", words, 360, 204, drawn)


def _frame(x: Scale, y: Scale, names: Sequence[str]) -> list[Element]:
    """Horizontal lines with their values, and the names of the steps."""
    middle = (y.low + y.high) / 2
    drawn = []
    for value in (y.low, middle, y.high):
        drawn.append(tag("line", class_="grid", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y(value), y2=y(value)))
        drawn.append(tag("text", f"{value:.3g}", x=_LEFT - 5, y=y(value) + 3, text_anchor="end"))
    sparse = max(1, math.ceil(len(names) / 8))
    for index, name in enumerate(names):
        if index % sparse == 0:
            drawn.append(tag("text", name, x=x(index), y=_HEIGHT - 5, text_anchor="middle"))
    return drawn


def _band(figures: Sequence[Figure], x: Scale, y: Scale) -> Element | None:
    bounds = [(index, ends) for index, figure in enumerate(figures) if (ends := interval_of(figure))]
    if len(bounds) < 2:
        return None
    upper = [f"{x(index):g},{y(high):g}" for index, (_, high) in bounds]
    lower = [f"{x(index):g},{y(low):g}" for index, (low, _) in reversed(bounds)]
    return tag("polygon", class_="band", points=" ".join([*upper, *lower]))


def _line(figures: Sequence[Figure | None], x: Scale, y: Scale, name: str) -> Element | None:
    points = [f"{x(i):g},{y(figure['mean']):g}" for i, figure in enumerate(figures) if defined(figure)]
    return tag("polyline", class_=f"line {name}", points=" ".join(points)) if len(points) > 1 else None


def _dot(stress: Stress, condition: Condition, x: float, y: Scale) -> Element:
    figure = main_figure(stress, condition)
    state = "dot broken" if condition["family"] != "clean" and breaks(stress, condition) else "dot"
    return tag(
        "circle",
        tag("title", f"{condition_title(condition)}: {with_interval(figure)}"),
        class_=state,
        cx=x,
        cy=y(figure["mean"]),
        r=3,
    )


def _chart(
    identity: str, title: str, words: str, width: int, height: int, drawn: Sequence[Element | None]
) -> Element:
    return tag(
        "svg",
        tag("title", title, id=f"{identity}-title"),
        tag("desc", words, id=f"{identity}-words"),
        drawn,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_labelledby=f"{identity}-title {identity}-words",
    )
