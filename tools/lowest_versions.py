"""Writes constraints that hold every requirement of setup.cfg at the lowest version that it allows.

python tools/lowest_versions.py > lowest.txt
"""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"


def lowest_versions(extra: str = "dev") -> list[str]:
    """Lines ``name==version`` for what the package and an extra require from some version on."""
    config = configparser.ConfigParser()
    config.read(SETUP, encoding="utf-8")
    lines = config["options"]["install_requires"] + config["options.extras_require"][extra]
    found = re.findall(r"^([\w.-]+)(?:\[.*\])?\s*(?:>=|~=)\s*([\w.]+)\s*$", lines, re.MULTILINE)
    return sorted(f"{name}=={version}" for name, version in found)


if __name__ == "__main__":
    sys.stdout.write("".join(f"{line}\n" for line in lowest_versions()))
