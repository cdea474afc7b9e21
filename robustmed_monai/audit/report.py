"""The report of an audit as text, JSON and SARIF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robustmed_monai import VERSION
from robustmed_monai.audit.verdicts import Finding, Report, Verdict

FORMATS = ("text", "json", "sarif")
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Verdict.SAFE: "note", Verdict.UNKNOWN: "warning", Verdict.DANGEROUS: "error"}
_MEANING = {
    Verdict.SAFE: "everything it names is allowed",
    Verdict.UNKNOWN: "something is not known to be safe: read it before you run it",
    Verdict.DANGEROUS: "do not run it",
}


def as_text(report: Report, everything: bool = False) -> str:
    """The report for a person: what is not safe by file, then one line of verdict.

    Args:
        report: of ``audit_bundle``.
        everything: whether to list what is safe as well.
    """
    shown = report.findings if everything else report.refused()
    lines: list[str] = []
    for file in dict.fromkeys(finding.file for finding in shown):
        lines.append(file or report.bundle)
        lines += [_line(finding) for finding in shown if finding.file == file]
    counts = ", ".join(f"{count} {word}" for word, count in report.counts().items())
    verdict = report.verdict
    nothing = "" if report.findings else "; it holds nothing that could be judged"
    lines.append(f"{report.bundle}: {verdict.word}: {_MEANING[verdict]} ({counts}{nothing})")
    return "\n".join(lines)


def as_json(report: Report) -> str:
    """The report with every finding, for programs."""
    content = {
        "bundle": report.bundle,
        "verdict": report.verdict.word,
        "counts": report.counts(),
        "version": VERSION,
        "findings": [
            {
                "file": finding.file,
                "key": finding.key,
                "form": finding.form,
                "text": finding.text,
                "verdict": finding.verdict.word,
                "reason": finding.reason,
            }
            for finding in report.findings
        ],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def as_sarif(report: Report) -> str:
    """What is not safe as SARIF 2.1.0, which code-scanning services show beside the file."""
    refused = report.refused()
    rules = sorted({f"{finding.form}-{finding.verdict.word}" for finding in refused})
    driver = {
        "name": "robustmed audit",
        "version": VERSION,
        "informationUri": "https://github.com/Project-MONAI/MONAI/security/advisories/GHSA-873f-pvrv-4x83",
        "rules": [
            {"id": rule, "name": rule, "shortDescription": {"text": _described(rule)}} for rule in rules
        ],
    }
    run = {"tool": {"driver": driver}, "results": [_result(finding, report, rules) for finding in refused]}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _line(finding: Finding) -> str:
    place = f"{finding.key}: " if finding.key else ""
    text = "" if finding.text in (finding.file, Path(finding.file).name) else f"{_plain(finding.text)} -- "
    return f"  {finding.verdict.word:9} {finding.form}  {_plain(place)}{text}{_plain(finding.reason)}"


def _plain(text: str) -> str:
    """Text of a bundle without what would steer a terminal."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _described(rule: str) -> str:
    form, _, word = rule.rpartition("-")
    return f"A form of kind {form} whose verdict is {word}"


def _result(finding: Finding, report: Report, rules: list[str]) -> dict[str, Any]:
    rule = f"{finding.form}-{finding.verdict.word}"
    message = f"{finding.key or finding.file}: {finding.text}: {finding.reason}"
    place: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": finding.file or report.bundle}},
    }
    if finding.key:
        place["logicalLocations"] = [{"fullyQualifiedName": finding.key}]
    return {
        "ruleId": rule,
        "ruleIndex": rules.index(rule),
        "level": _LEVELS[finding.verdict],
        "message": {"text": message},
        "locations": [place],
    }
