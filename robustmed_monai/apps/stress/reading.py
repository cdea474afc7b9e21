"""What a stress result says: its kinds of stress, their figures as text, and what became of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeGuard, get_args

from robustmed_monai.metrics.stress import DROP
from robustmed_monai.utils.errors import DataError

FORMAT = "robustmed stress 2"
Condition = Mapping[str, Any]
Figure = Mapping[str, Any]
Stress = Mapping[str, Any]
Outcome = Literal["broken", "hurt", "open", "withstood"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
ROUNDING = 1e-12  # of figures that are 5 points apart but for their last bit

_FAMILIES = {
    "imagenet_c": "ImageNet-C",
    "imagenet_c_published": "ImageNet-C as published",
    "medmnist_c": "MedMNIST-C",
    "unoranic": "unORANIC",
    "mr": "MR artefacts",
}
_WORDS = {"jpeg": "JPEG", "corr": "correction", "gaussian": "Gaussian", "mr": "MR"}
_PLAIN_FAMILIES = {
    "labelled": "other contrasts",
    "orientation": "orientation, header wrong",
    "orientation_true": "orientation, header true",
}


class Kind(NamedTuple):
    """One kind of stress.

    Args:
        family: such as "imagenet_c".
        name: such as "gaussian_noise".
        steps: its conditions, mildest first.
    """

    family: str
    name: str
    steps: tuple[Condition, ...]

    @property
    def title(self) -> str:
        """The name in words."""
        return in_words(self.name)


def check_format(stress: Stress, place: str) -> None:
    """Refuse what is no stress result, or of another version.

    Raises:
        DataError: with ``place``, what was found and what to do.
    """
    found = stress.get("format") if isinstance(stress, Mapping) else None
    if found != FORMAT:
        raise DataError(
            f"{place}: format {found!r}, not {FORMAT!r}; give the stress.json of `robustmed stress`."
        )
    if not any(condition["family"] == "clean" for condition in stress["conditions"]):
        raise DataError(f"{place}: no condition of the family clean; run `robustmed stress` again.")
    if not defined(clean_condition(stress)["figures"].get(stress["main"])):
        raise DataError(f"{place}: no {stress['main']} of the clean images; give it images that have one.")


def clean_condition(stress: Stress) -> Condition:
    """The condition of the images as given."""
    return next(condition for condition in stress["conditions"] if condition["family"] == "clean")


def kinds(stress: Stress) -> list[Kind]:
    """Kinds of stress in the order of the file, their conditions by severity; without what has no figure."""
    grouped: dict[tuple[str, str], list[Condition]] = {}
    for condition in stress["conditions"]:
        measured = defined(condition["figures"].get(stress["main"]))
        if condition["family"] != "clean" and measured:
            grouped.setdefault((condition["family"], condition["name"]), []).append(condition)
    return [
        Kind(family, name, tuple(sorted(steps, key=lambda step: float(step["severity"] or 0))))
        for (family, name), steps in grouped.items()
    ]


def in_words(name: str) -> str:
    """A name of a program as words.

    >>> in_words("gaussian_noise"), in_words("gamma_corr_up")
    ('Gaussian noise', 'gamma correction up')
    """
    return " ".join(_WORDS.get(word, word) for word in str(name).replace("_", " ").split())


def family_title(family: str) -> str:
    """What a family of stresses is called, as a heading.

    >>> family_title("imagenet_c"), family_title("field_of_view")
    ('ImageNet-C', 'Field of view')
    """
    return capital(family_name(family))


def family_name(family: str) -> str:
    """What a family of stresses is called, within a sentence.

    >>> family_name("imagenet_c"), family_name("field_of_view")
    ('ImageNet-C', 'field of view')
    """
    return _FAMILIES.get(family) or _PLAIN_FAMILIES.get(family) or in_words(family)


def capital(text: str) -> str:
    """Text with a capital first letter, but for names such as unORANIC."""
    first = text.split(" ")[0]
    return text if first[1:] != first[1:].lower() else text[:1].upper() + text[1:]


def main_figure(stress: Stress, condition: Condition) -> Figure:
    """The main figure of a condition."""
    figure: Figure = condition["figures"][stress["main"]]
    return figure


def defined(figure: Figure | None) -> TypeGuard[Figure]:
    """Whether there is such a figure, and it is a number."""
    return figure is not None and figure["mean"] is not None


def metric_label(stress: Stress, metric: str) -> str:
    """What a metric is called."""
    return str(stress["metrics"].get(metric, {}).get("label") or in_words(metric))


def number(value: float | None, digits: int = 2) -> str:
    """A figure as text; what is undefined is a dash.

    >>> number(0.123), number(None)
    ('0.12', '–')
    """
    if value is None or value != value:
        return "–"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def percent(share: float | None) -> str:
    """A share as text.

    >>> percent(0.034), percent(None)
    ('3 %', '–')
    """
    return "–" if share is None or share != share else f"{100 * share:.0f} %"


def with_interval(figure: Figure) -> str:
    """A figure with its interval.

    >>> with_interval({"mean": 0.5, "ci95": [0.4, 0.61]})
    '0.50 [0.40, 0.61]'
    """
    interval = interval_of(figure)
    if interval is None:
        return number(figure["mean"])
    return f"{number(figure['mean'])} [{number(interval[0])}, {number(interval[1])}]"


def in_points(worse: tuple[float, float, float]) -> str:
    """What is lost in points, with its interval.

    >>> in_points((0.06, 0.1, 0.144)), in_points((-math.inf, -0.0002, math.inf))
    ('10.0 points [6.0, 14.4]', '0.0 points')
    """
    low, mean, high = (number(100 * value, 1) for value in worse)
    return (
        f"{mean} points" if math.isinf(worse[0]) or math.isinf(worse[2]) else f"{mean} points [{low}, {high}]"
    )


def interval_of(figure: Figure | None) -> tuple[float, float] | None:
    """The interval of a figure, if it has one.

    >>> interval_of({"mean": 0.5, "ci95": [0.4, None]}) is None
    True
    """
    low, high = (figure or {}).get("ci95") or (None, None)
    return None if low is None or high is None else (low, high)


def loss(stress: Stress, condition: Condition, metric: str | None = None) -> float:
    """How much worse than clean a figure is, on the same images; negative where it is better."""
    return lost(stress, condition, metric)[1]


def lost(stress: Stress, condition: Condition, metric: str | None = None) -> tuple[float, float, float]:
    """What is lost on the same images, between the ends of its interval; infinite ends where it has none.

    Example:
        >>> change = {"mean": -0.1, "ci95": [-0.14, -0.06]}
        >>> stress = {"main": "dice", "metrics": {"dice": {"higher_is_better": True}}}
        >>> lost(stress, {"family": "mr", "changes": {"dice": change}})
        (0.06, 0.1, 0.14)
    """
    if condition["family"] == "clean":
        return 0.0, 0.0, 0.0
    metric = metric or stress["main"]
    return _worse(condition["changes"][metric], stress["metrics"][metric]["higher_is_better"])


def behind(stress: Stress, condition: Condition) -> tuple[float, float, float]:
    """How much worse than the baseline the main figure is, as ``lost``."""
    main = stress["main"]
    return _worse(condition["advantages"][main], stress["metrics"][main]["higher_is_better"])


def ends(figure: Figure) -> tuple[float, float, float]:
    """A figure between the ends of its interval, which are infinite where it has none."""
    low, high = interval_of(figure) or (-math.inf, math.inf)
    return low, float(figure["mean"]), high


def opposite(figure: tuple[float, float, float]) -> tuple[float, float, float]:
    """Minus a figure between its ends."""
    low, mean, high = figure
    return -high, -mean, -low


def _worse(change: Figure, higher_is_better: bool) -> tuple[float, float, float]:
    return opposite(ends(change)) if higher_is_better else ends(change)


def step_outcome(stress: Stress, condition: Condition) -> Outcome:
    """What became of the model in one condition, by the interval of what is lost.

    Broken: it lies beyond 5 points. Withstood: within them. Hurt: surely some points, which may be more than
    5. Open: all else.

    Example:
        >>> stress = {"main": "dice", "metrics": {"dice": {"higher_is_better": True}}}
        >>> ends = ([-0.2, -0.06], [-0.2, -0.04], [-0.04, -0.01], [-0.2, 0.1])
        >>> rows = ({"family": "mr", "changes": {"dice": {"mean": sum(e) / 2, "ci95": e}}} for e in ends)
        >>> [step_outcome(stress, row) for row in rows]
        ['broken', 'hurt', 'withstood', 'open']
    """
    least, _, most = lost(stress, condition)
    if least > DROP + ROUNDING:
        return "broken"
    if most <= DROP + ROUNDING:
        return "withstood"
    return "hurt" if least > 0 else "open"


def breaks(stress: Stress, condition: Condition) -> bool:
    """Whether more than 5 points are lost for sure."""
    return step_outcome(stress, condition) == "broken"


def outcome(stress: Stress, kind: Kind) -> Outcome:
    """What became of the model under a kind of stress: the worst of its severities, sure before unsure."""
    found = {step_outcome(stress, step) for step in kind.steps}
    return next(name for name in OUTCOMES if name in found)


def worst_step(stress: Stress, steps: Sequence[Condition]) -> Condition:
    """The condition in which the main figure is worst; the mildest of equals."""
    return max(steps, key=lambda step: loss(stress, step))


def condition_title(condition: Condition, severity: bool = True) -> str:
    """A condition in words, such as "Gaussian noise, severity 3 (ImageNet-C)".

    Args:
        condition: of a stress result.
        severity: whether to name it.
    """
    if condition["family"] == "clean":
        return "clean"
    step = f", severity {severity_text(condition)}" if severity and condition["severity"] is not None else ""
    return f"{in_words(condition['name'])}{step} ({family_name(condition['family'])})"


def severity_text(condition: Condition) -> str:
    """The severity without needless decimals."""
    severity = condition["severity"]
    return (
        "–" if severity is None else f"{severity:g}" if isinstance(severity, int | float) else str(severity)
    )
