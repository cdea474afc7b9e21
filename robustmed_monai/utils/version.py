"""The version of the package, with the commit when it runs from a checkout."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from robustmed_monai import VERSION

# Folder that holds the package: the repository in an editable installation, site-packages otherwise.
CHECKOUT = Path(__file__).resolve().parents[2]


@cache
def full_version() -> str:
    """Return ``VERSION``, with ``+g<commit>`` in a checkout."""
    commit = git("rev-parse", "--short=12", "HEAD")
    return f"{VERSION}+g{commit}" if commit else VERSION


def git(*arguments: str) -> str | None:
    """Return what git says of the checkout; None outside of one.

    An installation may lie inside some other project's repository: only our own top folder counts.
    """

    def ask(*words: str) -> str:
        command = ["git", "-C", str(CHECKOUT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        ours = ask("rev-parse", "--show-toplevel") == str(CHECKOUT)
        return ask(*arguments) if ours else None
    except (OSError, subprocess.SubprocessError):
        return None
