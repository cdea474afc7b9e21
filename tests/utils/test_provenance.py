from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import robustmed_monai
from robustmed_monai.utils import provenance as module
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.provenance import data_digest, provenance, read_results, write_results

ROW = {"row": "RA", "column": "pixel_ap", "mean": 0.5, "std": 0.1, "n": 3}
CASE = {
    "case": "map",
    "ours": 1.0,
    "peer": 20.0,
    "peer_name": "skimage",
    "unit": "ms",
    "ratio": 20.0,
    "iqr": 0.1,
}


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path.resolve() / "checkout"
    root.mkdir()
    (root / "code.py").write_text("pass\n")
    _git(root, "init", "--quiet")
    monkeypatch.setattr(module, "CHECKOUT", root)
    return root


def test_head_has_every_key_and_survives_json() -> None:
    data = [{"name": "embedded", "sha256": "0" * 64, "split": "test"}]
    head = provenance(seeds=(1, 2), data=data)
    assert set(head) == {"command", "commit", "date", "versions", "hardware", "data", "seeds"}
    assert json.loads(json.dumps(head)) == head
    assert head["seeds"] == [1, 2]
    assert head["data"] == data
    assert head["versions"]["robustmed_monai"] == robustmed_monai.__version__
    assert head["versions"]["python"] == sys.version.split()[0]
    assert {"monai", "torch", "numpy"} <= head["versions"].keys()
    assert head["hardware"]["threads"] == 1
    assert head["hardware"]["cpu"]


def test_data_entry_without_a_digest_is_refused() -> None:
    with pytest.raises(DataError, match="sha256"):
        provenance(data=[{"name": "embedded", "split": "test"}])


def test_the_command_has_no_path_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTMED_DATA", "/some/where/data")
    config = str(module.CHECKOUT / "bundles" / "ra" / "configs" / "evaluate.json")
    words = ["/usr/bin/python3", "-m", "monai.bundle", "run", "--config_file", config]
    monkeypatch.setattr(sys, "orig_argv", [*words, "--dataset_dir", "/some/where/data/ixi", "--input", "a b"])
    assert provenance()["command"] == (
        "python -m monai.bundle run --config_file bundles/ra/configs/evaluate.json "
        "--dataset_dir \"$ROBUSTMED_DATA/ixi\" --input 'a b'"
    )


def test_commit_is_that_of_the_checkout_and_says_when_code_differs(checkout: Path) -> None:
    assert provenance()["commit"] is None, "there is no commit yet"
    _git(checkout, "add", ".")
    _git(checkout, "commit", "--quiet", "-m", "first")
    commit = provenance()["commit"]
    assert len(commit) == 40
    (checkout / "README.md").write_text("text")
    results = checkout / "docs" / "results"
    results.mkdir(parents=True)
    (results / "a.json").write_text("{}")
    assert provenance()["commit"] == commit
    (checkout / "new.py").write_text("pass\n")
    assert provenance()["commit"] == f"{commit}+dirty"


def test_a_package_inside_another_repository_has_no_commit(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _git(checkout, "add", ".")
    _git(checkout, "commit", "--quiet", "-m", "first")
    inner = checkout / "site-packages"
    inner.mkdir()
    monkeypatch.setattr(module, "CHECKOUT", inner)
    assert provenance()["commit"] is None


def test_digest_depends_on_names_and_bytes_only(tmp_path: Path) -> None:
    first = tmp_path / "first"
    for name in ("b/2.png", "a/1.png"):
        (first / name).parent.mkdir(parents=True, exist_ok=True)
        (first / name).write_text(name)
    moved = Path(shutil.copytree(first, tmp_path / "second"))
    digest = data_digest(first)
    assert len(digest) == 64
    assert data_digest(moved) == digest
    assert data_digest([first / "b" / "2.png", first / "a" / "1.png"]) == digest
    (moved / "a" / "1.png").write_text("altered")
    assert data_digest(moved) != digest
    shutil.move(first / "a" / "1.png", first / "a" / "3.png")
    assert data_digest(first) != digest


def test_digest_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file to digest"):
        data_digest(tmp_path)
    with pytest.raises(DataError, match=r"missing\.npz: no such file"):
        data_digest(tmp_path / "missing.npz")


@pytest.mark.parametrize("rows", [[ROW, {**ROW, "row": "VAE", "ci95": [0.4, 0.6]}], [CASE]])
def test_results_come_back_as_they_were(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    head = provenance()
    path = write_results(tmp_path / "table.json", rows, head)
    assert read_results(path) == {**head, "rows": rows}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{**ROW, "mean": float("nan")}], "mean is nan"),
        ([{**ROW, "ci95": [0.1, float("inf")]}], "ci95 is"),
        ([{**ROW, "n": 1.5}], "n is 1.5"),
        ([{**ROW, "n": True}], "n is True"),
        ([{"row": "RA", "column": "pixel_ap", "mean": 0.5, "n": 1}], "'std'"),
        ([{**ROW, "median": 0.5}], "'median'"),
        ([ROW, ROW], "given twice"),
        ([ROW, CASE], "lacks or adds"),
        ([{**CASE, "ratio": "20x"}], "ratio is '20x'"),
    ],
)
def test_wrong_rows_are_refused_before_anything_is_written(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write_results(tmp_path / "table.json", rows, provenance())
    assert list(tmp_path.iterdir()) == []


def test_a_head_without_a_command_is_refused(tmp_path: Path) -> None:
    head = provenance()
    del head["command"]
    with pytest.raises(DataError, match=r"table\.json: lacks \['command'\]"):
        write_results(tmp_path / "table.json", [ROW], head)
