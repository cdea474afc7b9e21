"""Conditions that a model has to meet, such as ``dice=.8@gaussian_noise:3``, for the exit status."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from robustmed_monai.transforms.corruption.suite import Case
from robustmed_monai.utils.errors import ConfigError

_FORM = re.compile(r"(?P<metric>[\w.-]+)=(?P<bound>[-+.\deE]+)(@(?P<where>[^:]+)(:(?P<severity>\d))?)?")


class Requirement(NamedTuple):
    """A bound of a figure.

    Args:
        text: as it was given.
        metric: the figure.
        bound: at least this where higher is better, else at most this.
        where: name of a corruption, ``family/name``, a family, or ``*`` for all; "clean" without any.
        severity: None for all.
    """

    text: str
    metric: str
    bound: float
    where: str = "clean"
    severity: int | None = None

    def holds_for(self, case: Mapping[str, Any] | Case) -> bool:
        """Whether a condition is among those that it is about."""
        row = case._asdict() if isinstance(case, Case) else case
        names = (row["name"], row["family"], f"{row['family']}/{row['name']}")
        there = self.where in names or (self.where == "*" and row["name"] != "clean")
        return there and self.severity in (None, row["severity"])


def read_requirement(text: str) -> Requirement:
    """Read one.

    Args:
        text: ``<figure>=<bound>[@<where>[:<severity>]]``.

    Raises:
        ConfigError: when it is no such thing.

    Example:
        >>> read_requirement("dice=.8@gaussian_noise:3")[1:]
        ('dice', 0.8, 'gaussian_noise', 3)
        >>> read_requirement("accuracy=0.9").where
        'clean'
    """
    found = _FORM.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        bound = float(found["bound"])
    except ValueError:
        raise ConfigError(
            f"--fail-under {text}: write <figure>=<bound>[@<corruption>[:<severity>]], such as "
            "dice=.8@gaussian_noise:3."
        ) from None
    severity = int(found["severity"]) if found["severity"] else None
    return Requirement(text, found["metric"], bound, found["where"] or "clean", severity)


def check_requirements(
    requirements: Sequence[Requirement], cases: Sequence[Case], metrics: Mapping[str, Any]
) -> None:
    """Refuse what no condition or no figure is about, before anything is measured.

    Raises:
        ConfigError: when there is one.
    """
    for requirement in requirements:
        if requirement.metric not in metrics:
            raise ConfigError(
                f"--fail-under {requirement.text}: there is no figure {requirement.metric}; there are "
                f"{', '.join(metrics)}."
            )
        if not any(requirement.holds_for(case) for case in cases):
            known = ", ".join(sorted({case.name for case in cases}))
            raise ConfigError(f"--fail-under {requirement.text}: no condition is that; there are {known}.")


def judged(
    requirement: Requirement, conditions: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """What became of a requirement.

    Args:
        requirement: the bound.
        conditions: of ``stress.json``.
        metrics: of ``stress.json``.

    Returns:
        `text`, `value`: the worst of the conditions that it is about, and `passed`.
    """
    rows = [c["figures"].get(requirement.metric) for c in conditions if requirement.holds_for(c)]
    values = [row["mean"] for row in rows if row is not None and row["mean"] is not None]
    if not values:
        return {"text": requirement.text, "value": None, "passed": False}
    if metrics[requirement.metric]["higher_is_better"]:
        worst = min(values)
        return {"text": requirement.text, "value": worst, "passed": worst >= requirement.bound}
    worst = max(values)
    return {"text": requirement.text, "value": worst, "passed": worst <= requirement.bound}
