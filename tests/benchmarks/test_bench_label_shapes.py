"""The benchmark of label shapes runs and writes rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.bench_label_shapes import factory, main


@pytest.mark.slow
def test_quick_run(tmp_path: Path) -> None:
    main(["--quick", "--rounds", "2", "--output", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["case"] for row in rows] == ["64x64, new shapes", "64x64, shapes from a pool"]
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows)


def test_factory_makes_what_the_side_by_side_script_asks_for() -> None:
    peer = factory((32, 32), 4)
    labels = peer["labels"]()
    assert len(labels) == peer["batch"] == len(peer["view"](labels))
    assert len(peer["pair"]()["image"]) == 2 * peer["batch"], "view after view"
