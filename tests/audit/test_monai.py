"""Why the audit reads what it reads: MONAI runs it. Each trick leaves a folder behind when it runs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from robustmed_monai.audit import Verdict, audit_bundle

NETWORK = {"_target_": "torch.nn.Identity"}


def _bundle(folder: Path, config: dict[str, Any], metadata: dict[str, Any] | None = None) -> Path:
    (folder / "configs").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata or {}))
    return folder


def _made(mark: Path) -> str:
    return f"$__import__('os').mkdir({str(mark)!r})"


@pytest.mark.parametrize("place", ["_desc_", "_requires_", "_disabled_"])
def test_what_is_no_argument_is_evaluated(place: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    root = _bundle(tmp_path, {"run": {**NETWORK, place: _made(mark)}})
    assert audit_bundle(root).verdict is Verdict.DANGEROUS
    assert not mark.exists()
    ConfigParser({"run": {**NETWORK, place: _made(mark)}}).get_parsed_content("run")
    assert mark.exists()


def test_arguments_of_a_disabled_component_are_evaluated(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    config = {"run": {**NETWORK, "_disabled_": True, "x": _made(mark)}}
    assert audit_bundle(_bundle(tmp_path, config)).verdict is Verdict.DANGEROUS
    ConfigParser(config).get_parsed_content("run")
    assert mark.exists()


def test_metadata_and_imports_that_nothing_names_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "audit_marks.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    root = _bundle(tmp_path, {"run": "$1"}, {"authors": "$import audit_marks"})
    assert audit_bundle(root).verdict is not Verdict.SAFE
    assert not mark.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        workflow = ConfigWorkflow(str(root / "configs" / "inference.json"), logging_file=False)
        workflow.initialize()
        workflow.run()
    assert mark.exists()


@pytest.mark.parametrize("called", [False, True])
def test_a_reader_is_imported_and_called(called: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    component = {"_target_": "LoadImage", "path": str(mark)}
    config: dict[str, Any] = {"run": {**component, "reader": "$'os.' + 'mkdir'"}}
    if called:
        data = {
            "_target_": "Dataset",
            "data": ["$'os.' + 'mkdir'"],
            "transform": {**component, "_mode_": "callable"},
        }
        config = {"data": data, "run": "$@data[0]"}
    assert audit_bundle(_bundle(tmp_path, config)).verdict is not Verdict.SAFE
    assert not mark.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of readers that are not installed, and of one that is none
        ConfigParser(config).get_parsed_content("run")
    assert mark.exists()
