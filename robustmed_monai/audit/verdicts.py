"""Verdicts of the audit, the findings that carry them and the report that holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum


class Verdict(IntEnum):
    """How far a form is known; the number is the exit status of the command."""

    SAFE = 0
    UNKNOWN = 1
    DANGEROUS = 2

    @property
    def word(self) -> str:
        """The verdict as it is printed."""
        return self.name.lower()


@dataclass(frozen=True)
class Opinion:
    """A verdict with its reason in words."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Finding:
    """One form of a bundle, where it stands, and what is known of it.

    Attributes:
        file: path relative to the bundle.
        key: MONAI id of the place (``train::trainer``), or the part of an archive; empty for a whole file.
        form: what it is: ``target``, ``expression``, ``import``, ``argument``, ``file``, ``model``, ...
        text: the form as it is written, cut where it is long.
        verdict: how far it is known.
        reason: why, in words.
    """

    file: str
    key: str
    form: str
    text: str
    verdict: Verdict
    reason: str


@dataclass
class Report:
    """Everything that was found in a bundle."""

    bundle: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings; a bundle without any config is unknown."""
        return max((finding.verdict for finding in self.findings), default=Verdict.UNKNOWN)

    def counts(self) -> dict[str, int]:
        """Number of findings by the word of their verdict."""
        found = Counter(finding.verdict for finding in self.findings)
        return {verdict.word: found[verdict] for verdict in Verdict}

    def refused(self) -> list[Finding]:
        """Findings that are not safe, the worst first."""
        bad = [finding for finding in self.findings if finding.verdict is not Verdict.SAFE]
        return sorted(bad, key=lambda finding: (-finding.verdict, finding.file, finding.key))


def safe(reason: str) -> Opinion:
    """A form that is known to do nothing but what the reason says."""
    return Opinion(Verdict.SAFE, reason)


def unknown(reason: str) -> Opinion:
    """A form of which too little is known."""
    return Opinion(Verdict.UNKNOWN, reason)


def dangerous(reason: str) -> Opinion:
    """A form that runs code, reads or writes what it should not."""
    return Opinion(Verdict.DANGEROUS, reason)


def worst(opinions: Iterable[Opinion]) -> Opinion:
    """The first of the worst opinions; there has to be one."""
    return max(opinions, key=lambda opinion: opinion.verdict)
