"""``robustmed audit``: the audit from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from robustmed_monai.audit.bundle import audit_bundle
from robustmed_monai.audit.report import FORMATS, as_json, as_sarif, as_text
from robustmed_monai.audit.verdicts import Report, Verdict
from robustmed_monai.utils.bundle import bundle_names, bundle_root
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.files import atomic_path

DESCRIPTION = (
    "Say what a MONAI bundle would run, without running any of it: every _target_, every $ expression, "
    "logging files, scripts and files of weights. Exit status: 0 all safe, 1 something unknown, 2 something "
    "dangerous, 3 no audit."
)


def audit_command(words: Sequence[str]) -> int:
    """Run ``robustmed audit``.

    Args:
        words: what follows ``audit``.

    Returns:
        0 for safe, 1 for unknown, 2 for dangerous, 3 when there was nothing to audit.
    """
    parser = argparse.ArgumentParser(prog="robustmed audit", description=DESCRIPTION, exit_on_error=False)
    parser.add_argument("bundle", help="folder of the bundle, one config file, or a method of this package")
    parser.add_argument(
        "configs", nargs="*", help="configs from elsewhere that are laid over it (args files)"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="text, JSON or SARIF 2.1.0")
    parser.add_argument("--output", metavar="FILE", help="write the report there and one line to the console")
    parser.add_argument("--all", action="store_true", help="list in the text what is safe, too")
    try:
        options = parser.parse_intermixed_args(words)
        known = not Path(options.bundle).exists() and options.bundle in bundle_names()
        report = audit_bundle(bundle_root(options.bundle) if known else options.bundle, options.configs)
        texts = {"json": as_json, "sarif": as_sarif}
        write = texts.get(options.format)
        _put(write(report) if write else as_text(report, options.all), report, options.output)
    except (argparse.ArgumentError, ConfigError) as error:
        sys.stderr.write(f"robustmed audit: {error}\n")
        return 3
    return int(report.verdict)


def refusal(bundle: Path) -> tuple[Verdict, str]:
    """The verdict on a bundle and, where it is not safe, the report.

    Args:
        bundle: folder of the bundle.
    """
    report = audit_bundle(bundle)
    return report.verdict, "" if report.verdict is Verdict.SAFE else as_text(report)


def _put(text: str, report: Report, output: str | None) -> None:
    if output is None:
        sys.stdout.write(f"{text}\n")
        return
    with atomic_path(output) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    sys.stdout.write(f"{as_text(report).splitlines()[-1]}\n")
