"""Probes and tables by the configs, on tiny trained nets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from robustmed_monai.inferers.probe import load_heads
from robustmed_monai.utils.errors import WeightsError
from robustmed_monai.utils.files import sha256
from robustmed_monai.utils.provenance import read_results
from robustmed_monai.utils.weights import load_info, save_weights

Overrides = dict[str, Any]
Cells = dict[str, dict[str, dict[str, Any]]]
TABLES = (
    "reconstruction", "revision", "classification", "detection", "robustness_imagenet_c",
    "robustness_medmnist_c",
)  # fmt: skip
DISEASE_ROWS = {"unORANIC, E_A", "unORANIC, E_A and E_C", "AE", "denoising AE", "ResNet-18, supervised"}


def _cells(path: Path) -> Cells:
    cells: Cells = {}
    for row in read_results(path)["rows"]:
        cells.setdefault(row["row"], {})[row["column"]] = row
    return cells


class TestProbes:
    def test_are_measured_and_kept_with_the_weights(
        self, with_heads: Path, trained_nets: dict[str, Path]
    ) -> None:
        cells = _cells(with_heads / "probe.json")
        kinds = ("anatomy", "characteristics", "both")
        assert set(cells) == {f"{task}, {kind}" for task in ("disease", "corruption") for kind in kinds}
        # The frozen network is the one that was trained, to the bit; only what is known of it has grown.
        assert sha256(with_heads / "model.pt") == sha256(trained_nets["train"] / "model.pt")
        before, after = (load_info(f / "model.pt") for f in (trained_nets["train"], with_heads))
        assert before == after
        heads = load_heads(with_heads / "model.pt")
        assert heads["corruption"]["characteristics"].weight.shape == (2, 8)
        assert heads["disease"]["both"].weight.shape == (2, 16)
        assert load_heads(trained_nets["train"] / "model.pt") == {}

    def test_heads_of_other_weights_are_refused(self, with_heads: Path, tmp_path: Path) -> None:
        for suffix in (".pt", ".json"):
            shutil.copy(with_heads / f"model_heads{suffix}", tmp_path)
        save_weights({"a": torch.zeros(1)}, tmp_path / "model.pt")
        with pytest.raises(
            WeightsError, match=r"model_heads.pt: heads of other weights .* run train_probe.json"
        ):
            load_heads(tmp_path / "model.pt")


@pytest.fixture(scope="module")
def tables(
    unoranic: Any, medmnist_dir: Path, trained_nets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Output folder of `evaluate.json` on two runs of unORANIC and one of everything else."""
    folder = tmp_path_factory.mktemp("tables")
    data = {"dataset": "pneumoniamnist", "dataset_dir": str(medmnist_dir), "device": "cpu"}
    narrow = {"network_def#widen_factor": 0.125}
    trained: dict[str, list[str]] = {}
    for task in ("disease", "corruption"):
        output = folder / f"supervised-{task}"
        unoranic(
            "train_supervised.json", data | narrow | {"task": task, "max_epochs": 1}, output_dir=str(output)
        )
        trained[task] = [str(output / "model.pt")]
    weights = {k: str(v / "model.pt") for k, v in trained_nets.items()}
    overrides = data | {
        "channels": [4, 4, 4, 8],
        "checkpoints": {
            "unORANIC": [weights["train"]] * 2,
            "AE": [weights["ae"]],
            "denoising AE": [weights["dae"]],
        },
        "supervised": trained,
        "severities": [5],
        "draws": 1,
        "seeds": [0, 1],
        "resnet_def#widen_factor": 0.125,
        "detector_def#widen_factor": 0.125,
    }
    unoranic("evaluate.json", overrides, workflow_type="infer", output_dir=str(folder / "out"))
    return folder / "out"


class TestTables:
    def test_all_are_there_with_pictures(self, tables: Path) -> None:
        for name in TABLES:
            content = read_results(tables / f"{name}.json")
            assert content["seeds"] == [0, 1]
            assert [entry["split"] for entry in content["data"]] == ["training", "validation", "test"]
        assert {path.name for path in tables.glob("*.png")} == {
            "reconstruction_images.png",
            "revision_images.png",
            "robustness_imagenet_c_curves.png",
            "robustness_medmnist_c_curves.png",
        }

    def test_reconstruction(self, tables: Path) -> None:
        cells = _cells(tables / "reconstruction.json")
        assert set(cells) == {"unORANIC", "AE", "denoising AE"}
        assert (cells["unORANIC"]["full_psnr"]["n"], cells["unORANIC"]["full_psnr"]["std"]) == (2, 0)
        assert cells["unORANIC"]["full_psnr"] != cells["unORANIC"]["anatomy_psnr"]
        assert cells["AE"]["full_psnr"]["mean"] == cells["AE"]["anatomy_psnr"]["mean"]

    def test_revision_has_twelve_corruptions_and_the_input(self, tables: Path) -> None:
        cells = _cells(tables / "revision.json")
        assert list(cells)[-1] == "corrupted input"
        assert {len(row) for row in cells.values()} == {12}
        assert cells["corrupted input"]["gaussian_noise"]["mean"] > 31, "a variance of 50 cannot give less"

    def test_classification_and_detection_have_all_controls(self, tables: Path) -> None:
        assert set(_cells(tables / "classification.json")) == DISEASE_ROWS
        cells = _cells(tables / "detection.json")
        assert set(cells) == {"unORANIC, E_C"} | DISEASE_ROWS - {"unORANIC, E_A"}
        for row in cells.values():
            assert {"auc", "acc", "balanced_error"} < set(row)
            assert sum(column.startswith("auc_") for column in row) == 12

    def test_robustness_has_every_severity_and_be_where_defined(self, tables: Path) -> None:
        imagenet, medmnist = (_cells(tables / f"robustness_{k}_c.json") for k in ("imagenet", "medmnist"))
        assert set(imagenet) == set(medmnist) == DISEASE_ROWS
        row = imagenet["AE"]
        assert sum(column.startswith("auc_") and column.endswith("_5") for column in row) == 14
        assert not any(column.startswith("be_") for column in row)
        assert sum(column.startswith("be_") for column in medmnist["AE"]) == 14
