"""Laws of the one results table, whatever is measured."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustmed_monai.apps.results_table import ResultsTable
from robustmed_monai.data.tensor_dataset import TensorDataset
from robustmed_monai.metrics.bootstrap import bootstrap_mean
from robustmed_monai.metrics.result import Result
from robustmed_monai.utils.errors import ConfigError, WeightsError
from robustmed_monai.utils.provenance import data_digest, read_results

SUBJECTS = np.repeat(np.arange(10), 3)


def load(*files: str, shift: float = 0.0) -> float:
    return sum(float(Path(file).read_text()) for file in files) + shift


def measure(model: float) -> Result:
    cases = model + np.random.default_rng(0).random(30)
    return Result(
        {"dice": bootstrap_mean(cases, clusters=SUBJECTS), "undefined": float("nan")}, {"dice": cases}
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[str]]:
    """Checkpoints "a" and "b" of two seeds each."""
    found = {}
    for name, value in (("a", 1.0), ("b", 2.0)):
        found[name] = [str(tmp_path / f"{name}-{seed}") for seed in (0, 1)]
        for seed, path in enumerate(found[name]):
            Path(path).write_text(str(value + 0.1 * seed))
    return found


@pytest.fixture
def data(tmp_path: Path) -> TensorDataset:
    image = tmp_path / "image.png"
    image.write_bytes(b"an image")
    tensors = {"image": torch.zeros(30, 1, 2, 2), "subject": torch.from_numpy(SUBJECTS)}
    return TensorDataset(tensors, [{"image": str(image), "label": 3}])


ROWS: dict[str, dict[str, Any]] = {
    "shifted": {"checkpoints": "b", "shift": -1.0},
    "both": {"checkpoints": ["a", "b"]},
    "plain": {"checkpoints": "a"},
    "absent": {"checkpoints": "c"},
}
table = partial(ResultsTable, measure, load, ROWS)


def cells(path: Path) -> dict[str, dict[str, Any]]:
    return {row["row"]: row for row in read_results(path)["rows"]}


def test_rows_are_in_order_and_have_their_settings(files: dict[str, list[str]], tmp_path: Path) -> None:
    mine = {"mine": files["a"][:1]}
    found = cells(table({**files, **mine}, controls={"control": 0.5}).run(tmp_path))
    assert list(found) == ["shifted", "both", "plain", "mine", "control"]
    assert found["shifted"]["mean"] == pytest.approx(found["plain"]["mean"])
    assert found["both"]["mean"] == pytest.approx(found["plain"]["mean"] + 2.05)
    assert found["control"]["mean"] == pytest.approx(found["plain"]["mean"] - 0.55)
    assert [found[row]["n"] for row in found] == [2, 2, 2, 1, 1]
    assert found["plain"]["std"] == pytest.approx(0.1 / 2**0.5)


def test_the_same_twice_and_nothing_depends_on_the_other_rows(
    files: dict[str, list[str]], tmp_path: Path
) -> None:
    whole, again = (cells(table(files).run(tmp_path / name)) for name in ("one", "two"))
    alone = cells(table({"a": files["a"]}).run(tmp_path / "three"))
    assert whole == again
    assert alone == {"plain": whole["plain"]}


def test_a_row_may_be_measured_in_its_own_way(files: dict[str, list[str]], tmp_path: Path) -> None:
    rows = {"own": {"checkpoints": "a", "measure": lambda model: Result({"value": model})}}
    found = cells(ResultsTable(measure, load, rows, {"a": files["a"]}).run(tmp_path))
    assert (found["own"]["column"], found["own"]["mean"]) == ("value", pytest.approx(1.05))


def test_the_head_counts_images_and_subjects(
    files: dict[str, list[str]], data: TensorDataset, tmp_path: Path
) -> None:
    path = table(files, data={"test": data}, seeds=[4, 5], name="named", against=["plain"]).run(tmp_path)
    assert path == tmp_path / "named.json"
    head = json.loads(path.read_text())
    (entry,) = head["data"]
    assert (entry["split"], entry["images"], entry["subjects"]) == ("test", 30, 10)
    assert entry["sha256"] == data_digest(tmp_path / "image.png")
    assert head["seeds"] == [4, 5]
    assert {(t["row"], t["against"]) for t in head["paired_tests"]} == {
        ("shifted", "plain"),
        ("both", "plain"),
    }


def test_the_console_shows_the_table(
    files: dict[str, list[str]], data: TensorDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        made = table(files, controls={"a control": 0.0}, data={"test": data}, columns=["dice", "undefined"])
        path = made.run(tmp_path)
    text, last = (record.getMessage() for record in caplog.records[-2:])
    assert str(path) in last
    head, titles, *lines, footer = text.splitlines()
    assert head == "results: 30 test images of 10 subjects"
    assert titles.split() == ["dice"], "what no row has is no column"
    assert [line.split("  ")[0] for line in lines] == ["shifted", "both", "plain", "a control"]
    assert lines[2].endswith("± 0.071")
    assert lines[3].endswith("]")
    assert "over 2 seeds" in footer
    assert "bootstrap interval over subjects" in footer


def test_pictures_are_named_by_the_table(files: dict[str, list[str]], tmp_path: Path) -> None:
    from robustmed_monai.visualize.figures import new_figure

    seen: dict[str, Any] = {}

    def draw(results: Any) -> dict[str, Any]:
        seen.update(results)
        return {"sheet": new_figure(1, 1)}

    table({"a": files["a"]}, name="t", draw=draw).run(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"t.json", "t_sheet.png"}
    assert [len(seeds) for seeds in seen.values()] == [2]


def test_a_missing_checkpoint_is_named_before_anything_is_measured(
    files: dict[str, list[str]], tmp_path: Path
) -> None:
    def never(model: float) -> Result:
        raise AssertionError("measured")

    given = {"a": files["a"], "b": [str(tmp_path / "no.pt")]}
    with pytest.raises(WeightsError, match=r"no\.pt: no such file; train first"):
        ResultsTable(never, load, {"p": ROWS["plain"], "s": ROWS["shifted"]}, given).run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("checkpoints", "message"),
    [
        ({}, r"checkpoints: found \{\} files; give at least one file for one of \['a', 'b', 'c'\]"),
        ({"a": []}, r"checkpoints: found \{'a': 0\} files; give at least one file for one of"),
        ({"a": ["x"], "b": ["x", "y"]}, "row 'both': found .* files; give as many of each, one per seed"),
    ],
)
def test_checkpoints_that_make_no_row_are_refused(checkpoints: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        table(checkpoints)
