"""The documentation site builds, and a warning is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_site_builds_without_a_warning(repository: Path, tmp_path: Path) -> None:
    for module in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(module, reason=f"{module} is not there: it comes with the extras dev and docs")
    options = ("-q", "-W", "--keep-going", "-b", "html", "-c", "docs", ".", str(tmp_path / "site"))
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, "-d", str(tmp_path / "cache")],
        cwd=repository,
        env={**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    pages = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.html")}
    assert {"index.html", "README.html", "bundles/ra/docs/README.html", "docs/notebooks/ra.html"} <= pages
    networks = (tmp_path / "site" / "docs" / "api" / "networks.html").read_text(encoding="utf-8")
    assert "robustmed_monai.networks.cifl.CIFL" in networks
    assert "docs/index.html" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
