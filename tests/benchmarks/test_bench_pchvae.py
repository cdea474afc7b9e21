"""The benchmark of pchVAE: it runs, and its steps train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import bench_pchvae
from robustmed_monai.networks.pchvae import pchvae
from robustmed_monai.utils.provenance import read_results


@pytest.mark.slow
def test_script_runs_and_writes_rows(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    with torch.random.fork_rng():
        bench_pchvae.main(["--quick", "--rounds", "1", "--output", str(output)])
    rows = read_results(output)["rows"]
    assert [row["peer_name"] for row in rows] == [*list(bench_pchvae.MODELS)[1:], "allowed"]
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows)


def test_a_step_changes_every_weight() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = pchvae(channels=(4, 6, 6, 8))
    before = [p.detach().clone() for p in network.parameters()]
    bench_pchvae.training_step(network, bench_pchvae.MODELS["pchVAE"][1], 2, "cpu")()
    assert all(not torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))
