"""Every hostile bundle is refused, for its trick, and nothing of it runs."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from robustmed_monai.audit import audit_bundle


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hostile", Path(__file__).with_name("hostile.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a part of an archive of two parts of one name
        spec.loader.exec_module(module)
    return module


hostile = _load()


def test_the_bundle_below_the_tricks_is_safe(tmp_path: Path) -> None:
    report = audit_bundle(hostile.build(tmp_path))
    assert report.refused() == []
    assert report.counts()["safe"] > 15


@pytest.mark.parametrize("trick", hostile.KEYS)
def test_keys(trick: str, tmp_path: Path) -> None:
    report = audit_bundle(hostile.build(tmp_path, hostile.KEYS[trick]))
    refused = report.refused()
    assert refused, f"{trick}: {[f for f in report.findings if f.key.startswith('x')]}"
    assert all(finding.reason for finding in refused)


@pytest.mark.parametrize("trick", hostile.FILES)
def test_files(trick: str, tmp_path: Path) -> None:
    files = hostile.FILES[trick]
    report = audit_bundle(hostile.build(tmp_path, files=files))
    assert {finding.file for finding in report.refused()} & set(files), report.findings
