from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import robustmed_monai
from robustmed_monai.utils import version


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder that the package believes to lie in."""
    version.full_version.cache_clear()
    monkeypatch.setattr(version, "CHECKOUT", tmp_path.resolve())
    yield tmp_path.resolve()
    version.full_version.cache_clear()


def _git(folder: Path, *words: str) -> str:
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", "-C", folder, *name, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_checkout_adds_its_commit(fresh: Path) -> None:
    _git(fresh, "init", "--quiet")
    assert robustmed_monai.__version__ == robustmed_monai.VERSION, "nothing is committed yet"
    version.full_version.cache_clear()
    _git(fresh, "commit", "--quiet", "--allow-empty", "-m", "first")
    head = _git(fresh, "rev-parse", "HEAD")[:12]
    assert robustmed_monai.__version__ == f"{robustmed_monai.VERSION}+g{head}"


def test_an_installation_has_the_release_alone(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert robustmed_monai.__version__ == robustmed_monai.VERSION
    version.full_version.cache_clear()
    # It may lie inside the repository of another project.
    _git(fresh, "init", "--quiet")
    _git(fresh, "commit", "--quiet", "--allow-empty", "-m", "another")
    (fresh / "site-packages").mkdir()
    monkeypatch.setattr(version, "CHECKOUT", fresh / "site-packages")
    assert robustmed_monai.__version__ == robustmed_monai.VERSION


def test_a_wheel_names_the_commit_that_it_was_built_from(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fresh / "commit.txt").write_text("0123456789ab\n", encoding="utf-8")
    monkeypatch.setattr(version, "BUILT_FROM", fresh / "commit.txt")
    assert robustmed_monai.__version__ == f"{robustmed_monai.VERSION}+g0123456789ab"


def test_import_starts_no_other_program() -> None:
    code = "import sys, robustmed_monai; print('subprocess' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
