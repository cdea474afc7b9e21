"""The version of the package, with the commit that it was made from."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from robustmed_monai import VERSION

# Folder that holds the package: the repository in an editable installation, site-packages otherwise.
CHECKOUT = Path(__file__).resolve().parents[2]
# What setup.py left in a wheel.
BUILT_FROM = Path(__file__).with_name("commit.txt")


@cache
def full_version() -> str:
    """Return ``VERSION`` with ``+g<commit>``: of the checkout, or of what the wheel was built from."""
    commit = git("rev-parse", "--short=12", "HEAD")
    if commit is None and BUILT_FROM.is_file():
        commit = BUILT_FROM.read_text(encoding="utf-8").strip()
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
