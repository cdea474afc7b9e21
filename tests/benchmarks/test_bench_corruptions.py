"""The benchmark of the corruptions: it runs, and the peers do the work that is compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import bench_corruptions
from robustmed_monai.utils.provenance import read_results


# torchvision 0.29 and MONAI 1.6 call torch.meshgrid the old way.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_script_runs_and_writes_rows(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    threads = torch.get_num_threads()
    bench_corruptions.main(["--quick", "--rounds", "1", "--output", str(output)])
    torch.set_num_threads(threads)
    rows = read_results(output)["rows"]
    assert [row["case"] for row in rows] == [
        f"twelve-step chain, {kind}{how}" for kind in ("grey", "RGB") for how in ("", ", image by image")
    ]
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows)


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
@pytest.mark.parametrize("channels", [1, 3])
def test_the_chain_of_monai_does_every_step(channels: int) -> None:
    images = bench_corruptions.images_of(channels, 2, 28)
    found = bench_corruptions.each(bench_corruptions.monai_chain(prob=1.0), images)
    assert found.shape == images.shape
    assert found.isfinite().all()
    assert (found - images / 255).abs().mean() > 0.1
    clean = bench_corruptions.each(bench_corruptions.monai_chain(prob=0.0), images)
    assert torch.allclose(clean, images / 255)
