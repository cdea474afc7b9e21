"""The peers of the audit in an environment of their own: folders come in, what was flagged goes out.

    python benchmarks/scanners.py picklescan|modelscan

Each line of the input is a JSON list of folders, each line of the output a JSON list of true and false.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path


def picklescan() -> Callable[[str], bool]:
    """Whether picklescan finds anything dangerous in a folder, or cannot read a file of it."""
    from picklescan.scanner import scan_directory_path  # type: ignore[import-not-found]

    def scan(folder: str) -> bool:
        found = scan_directory_path(folder)
        return bool(found.issues_count or found.suspicious_count or found.scan_err)

    return scan


def modelscan() -> Callable[[str], bool]:
    """Whether modelscan has an issue or an error with a folder."""
    from modelscan.modelscan import ModelScan  # type: ignore[import-not-found]
    from modelscan.settings import DEFAULT_SETTINGS  # type: ignore[import-not-found]

    def scan(folder: str) -> bool:
        found = ModelScan(settings=DEFAULT_SETTINGS).scan(Path(folder))
        return bool(found["summary"]["total_issues"] or found["errors"])

    return scan


def main() -> None:
    """Answer line by line."""
    logging.disable()
    scan = {"picklescan": picklescan, "modelscan": modelscan}[sys.argv[1]]()
    for line in sys.stdin:
        sys.stdout.write(json.dumps([_flagged(scan, folder) for folder in json.loads(line)]) + "\n")
        sys.stdout.flush()


def _flagged(scan: Callable[[str], bool], folder: str) -> bool:
    try:
        return scan(folder)
    except Exception:
        # A scanner that breaks off lets nothing pass.
        return True


if __name__ == "__main__":
    main()
