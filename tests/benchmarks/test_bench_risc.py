"""The benchmark runs from end to end at tiny sizes, and its works do what they are timed for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import bench_risc
from robustmed_monai.utils.provenance import read_results

TINY = {"depth": 10, "stem": "small", "width": 0.125}


@pytest.mark.slow
def test_quick_run_writes_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_risc, "NETWORKS", {"ResNet-18 x 0.5": TINY, "ResNet-50": TINY})
    path = tmp_path / "risc.json"
    bench_risc.main(["--quick", "--rounds", "1", "--output", str(path)])
    cases = [row["case"] for row in read_results(path)["rows"]]
    assert len(cases) == 10
    assert {"RISC, batch 1, ResNet-18 x 0.5", "RotNet, training", "RotNet, making the views"} <= set(cases)


def test_latency_is_of_whole_answers() -> None:
    answer = bench_risc.risc(TINY, 3, "cpu")()
    assert isinstance(answer, dict)
    assert answer["pred"].shape == (3, 2)


def test_both_sides_train_on_as_many_views(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = torch.nn.functional.cross_entropy

    def counting(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(len(logits))
        return real(logits, labels)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", counting)
    works = bench_risc.training(TINY, 8, 4, "cpu")
    for name in ("batched", "loader"):
        seen.clear()
        works[name]()
        assert sum(seen) == 32, name
