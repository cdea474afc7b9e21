"""The table of features: tiny networks and the controls on shapes and brains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

from robustmed_monai.networks.on_features import load_feature_net
from robustmed_monai.utils.errors import WeightsError
from robustmed_monai.utils.provenance import read_results

FIGURES = ("s_same", "s_inverted", "s_other", "overlap", "rank", "margin")


@pytest.fixture
def evaluate(cifl: Any, dataset_dir: Path, tmp_path: Path) -> Any:
    """`evaluate(runs)` measures weights at a tiny size and returns the cells of the table."""
    small = {"spatial_size": [32, 32], "image_size": 32, "num_shapes": 4, "batch_size": 2, "crop": 4}

    def run(runs: dict[str, list[str]], **more: Any) -> dict[tuple[str, str], dict[str, Any]]:
        settings = {**small, "dataset_dir": str(dataset_dir), "device": "cpu", "output_dir": str(tmp_path)}
        done: ConfigWorkflow = cifl("evaluate.json", settings, checkpoints=runs, **more)
        assert done.parser["section"] == "test"
        rows = read_results(tmp_path / "results.json")["rows"]
        return {(row["row"], row["column"]): row for row in rows}

    return run


def test_rows_of_all_runs_beside_the_controls(evaluate: Any, trained: Path) -> None:
    weights = str(trained / "model.pt")
    cells = evaluate({"features": [weights, weights], "C 8": [weights, weights]}, seeds=[0, 1])
    columns = {f"{kind}_{name}" for kind in ("shapes", "brains") for name in FIGURES}
    assert {column for row, column in cells if row == "CIFL"} == columns
    assert cells["CIFL", "brains_rank"] == {**cells["C 8", "brains_rank"], "row": "CIFL"}
    assert (cells["CIFL", "shapes_s_same"]["n"], cells["CIFL", "shapes_s_same"]["std"]) == (2, 0.0)
    # What an image is to its inverse, everywhere; one channel does not overlap with any other.
    assert cells["image", "shapes_s_inverted"]["mean"] == pytest.approx(-1, abs=1e-3)
    assert cells["image", "shapes_rank"]["mean"] == pytest.approx(1)
    assert {column for row, column in cells if row == "image"} == columns - {
        "shapes_overlap",
        "brains_overlap",
    }
    # Hand-made features do not see an inversion.
    assert cells["MIND-SSC", "shapes_s_inverted"]["mean"] > 0.99
    assert cells["MIND-SSC", "shapes_rank"]["mean"] <= 4


def test_weights_build_their_network(trained: Path, tmp_path: Path) -> None:
    network = load_feature_net(trained / "model.pt")
    assert (network.spatial_dims, network.out_channels) == (2, 4)
    with pytest.raises(WeightsError):
        load_feature_net(tmp_path / "none.pt")
