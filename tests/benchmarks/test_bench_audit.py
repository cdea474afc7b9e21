"""The benchmark of the audit runs, and the page says of the corpus what the results hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bench_audit
from robustmed_monai.utils.provenance import read_results


@pytest.mark.slow
def test_quick_run_writes_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    bench_audit.main(["--quick", "--rounds", "1", "--output", str(path)])
    found = read_results(path)
    assert [row["case"] for row in found["rows"]] == ["our bundles", "their weights alone", "hostile corpus"]
    assert found["flagged"]["hostile corpus"] == {"ours": 3, "again": 3}
    assert found["flagged"]["our bundles"] == {"ours": 0, "again": 0}


def test_page_says_how_many_are_flagged(repository: Path) -> None:
    found = read_results(repository / "benchmarks/results/audit.json")
    hostile, own = found["flagged"]["hostile corpus"], found["flagged"]["our bundles"]
    assert hostile["ours"] == found["bundles"]["hostile corpus"]
    assert own["ours"] == 0
    page = " ".join((repository / "benchmarks/README.md").read_text(encoding="utf-8").split())
    counts = ", ".join(f"{name} {count}" for name, count in hostile.items() if name != "ours")
    assert f"the audit refuses all {hostile['ours']}; flagged by {counts}." in page
