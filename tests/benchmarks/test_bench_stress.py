"""The benchmark of the stress test runs and writes its rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import bench_stress
from robustmed_monai.utils.provenance import read_results


@pytest.mark.slow
def test_quick_run_writes_all_rows(tmp_path: Path) -> None:
    output, threads = tmp_path / "stress.json", torch.get_num_threads()
    bench_stress.main(["--quick", "--rounds", "1", "--output", str(output)])
    torch.set_num_threads(threads)
    rows = read_results(output)["rows"]
    assert [row["case"] for row in rows] == [
        "slices of virtual heads, 8 images, 14 conditions",
        "slices of virtual heads, 8 images, 14 conditions, CPU time",
        "run again, nothing left to measure",
    ]
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows)
