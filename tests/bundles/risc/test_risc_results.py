"""Evaluation, heat maps and inference of a tiny RISC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from robustmed_monai.utils.errors import ImageError
from robustmed_monai.utils.provenance import read_results
from robustmed_monai.utils.weight_parts import load_part
from robustmed_monai.utils.weights import load_info, load_weights, save_weights

Overrides = dict[str, Any]


@pytest.fixture
def evaluated(tiny: Overrides) -> Overrides:
    """The overrides of `evaluate.json`."""
    return {k: v for k, v in tiny.items() if k != "max_epochs"}


def cells(path: Path) -> dict[tuple[str, str], float]:
    return {(row["row"], row["column"]): row["mean"] for row in read_results(path)["rows"]}


class TestEvaluation:
    def test_table_has_all_rows_and_obeys_the_laws(
        self, risc: Any, evaluated: Overrides, trained: Path, tmp_path: Path
    ) -> None:
        weights = str(trained / "model.pt")
        part = str(trained / "classifier" / "model.pt")
        checkpoints = {"rotnet": [weights], "classifier": [weights], "augmented": [part]}
        risc("evaluate.json", evaluated, checkpoints=checkpoints, output_dir=str(tmp_path), amp=False)
        found = cells(tmp_path / "results.json")
        rows = {row for row, _ in found}
        assert {
            "RotNet",
            "RotNet, rotation set",
            "no correction",
            "RISC",
            "RISC, soft",
            "augmentation",
        } <= rows
        assert "group-pooled ResNet" not in rows, "it was not trained"
        assert found["oracle", "worst"] == found["oracle", "upright"] == found["no correction", "upright"]
        assert found["RISC, rotation set", "worst"] == found["RISC, rotation set", "upright"]
        assert found["averaging", "worst"] == found["averaging", "upright"]
        assert found["RotNet, rotation set", "worst"] == found["RotNet, rotation set", "upright"]
        assert found["RISC", "rotated"] == pytest.approx(found["RISC", "expected"], abs=0.15)
        assert {p.name for p in tmp_path.glob("*.png")} == {"results_angles.png", "results_confusion.png"}

    def test_each_row_has_its_own_weights(
        self, risc: Any, evaluated: Overrides, trained: Path, tmp_path: Path
    ) -> None:
        part = trained / "classifier" / "model.pt"
        weights = load_weights(part)
        # Of two classes, the opposite one.
        opposite = {k: v.flip(0) if k.startswith("fc.") else v for k, v in weights.items()}
        assert any(k.startswith("fc.") for k in weights)
        save_weights(opposite, tmp_path / "opposite.pt", load_info(part))
        checkpoints = {"classifier": [str(part)], "augmented": [str(tmp_path / "opposite.pt")]}
        risc("evaluate.json", evaluated, checkpoints=checkpoints, output_dir=str(tmp_path / "out"), amp=False)
        found = cells(tmp_path / "out" / "results.json")
        assert found["no correction", "auc"] != 0.5
        assert found["augmentation", "auc"] == pytest.approx(1 - found["no correction", "auc"])

    def test_seeds_are_averaged(self, risc: Any, evaluated: Overrides, trained: Path, tmp_path: Path) -> None:
        file = str(trained / "model.pt")
        checkpoints = {"rotnet": [file, file], "classifier": [file, file]}
        risc("evaluate.json", evaluated, checkpoints=checkpoints, seeds=[0, 1], output_dir=str(tmp_path))
        (row,) = [
            row
            for row in read_results(tmp_path / "results.json")["rows"]
            if (row["row"], row["column"]) == ("RISC", "rotated")
        ]
        assert (row["n"], row["std"]) == (2, 0.0)

    def test_rows_of_different_numbers_of_seeds_are_refused(
        self, risc: Any, evaluated: Overrides, tmp_path: Path
    ) -> None:
        checkpoints = {"rotnet": ["a", "b"], "classifier": ["a"]}
        with pytest.raises(RuntimeError) as caught:
            risc("evaluate.json", evaluated, checkpoints=checkpoints, output_dir=str(tmp_path))
        assert "give as many of each, one per seed" in str(caught.value.__cause__)

    def test_heat_maps_are_scored_and_shown(
        self, risc: Any, evaluated: Overrides, trained: Path, tmp_path: Path
    ) -> None:
        checkpoints = {k: [str(trained / "model.pt")] for k in ("rotnet", "classifier")}
        files = ["evaluate.json", "explain.json"]
        risc(files, evaluated, checkpoints=checkpoints, max_cases=4, output_dir=str(tmp_path))
        found = cells(tmp_path / "heatmaps.json")
        columns = {column for _, column in found}
        assert columns == {"consistency", "deletion", "insertion"}
        assert found["layer2, RISC", "consistency"] > found["layer2, no correction", "consistency"]
        assert (tmp_path / "heatmaps_sheet.png").stat().st_size > 10_000


class TestInference:
    def test_a_folder_of_pictures(self, risc: Any, trained: Path, pictures: Path, tmp_path: Path) -> None:
        source = tmp_path / "in"
        source.mkdir()
        for k in range(4):
            pixels = np.asarray(Image.open(pictures / "test" / "disk" / "disk-0.png"))
            Image.fromarray(np.rot90(pixels, k)).save(source / f"turned-{90 * k}.png")
        out = tmp_path / "out"
        # After two epochs RotNet leaves some on their side, which are unlike the training images.
        asked = {"postprocessing#transforms#0#refuse": False}
        weights = str(trained / "model.pt")
        risc("inference.json", weights=weights, input=str(source), output_dir=str(out), **asked)
        found = {d["folder"]: d for d in json.loads((out / "summary.json").read_text())["images"]}
        assert len(found) == 4
        for name, entry in found.items():
            assert set(entry["probabilities"]) == {"cross", "disk"}
            assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-4)
            report = json.loads((out / name / "prediction.json").read_text())
            assert report["angles"][f"{report['angle']:g}"] == pytest.approx(report["confidence"], abs=1e-5)
            corrected = np.asarray(Image.open(out / name / "corrected.png"))
            given = np.asarray(Image.open(source / f"{name}.png"))
            back = np.rot90(given, -round(report["angle"] / 90))
            assert np.corrcoef(corrected.ravel(), back.ravel())[0, 1] > 0.99
            assert np.asarray(Image.open(out / name / "heatmap.png")).shape == (32, 32)
            assert (out / name / "heatmaps.png").is_file()

    def test_a_volume_is_turned_as_a_whole(self, risc: Any, trained: Path, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        voxels = rng.random((20, 26, 5)).astype(np.float32)
        voxels[..., 4] = 0
        affine = np.array([[-2.0, 0, 0, 10], [0, 1.5, 0, -4], [0, 0, 3, 7], [0, 0, 0, 1]])
        nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "scan.nii.gz")
        out = tmp_path / "out"
        file, scan = str(trained / "model.pt"), str(tmp_path / "scan.nii.gz")
        asked = {"upper_percentile": 100.0, "postprocessing#transforms#0#refuse": False}
        risc("inference.json", weights=file, input=scan, output_dir=str(out), **asked)
        report = json.loads((out / "scan" / "prediction.json").read_text())
        assert [s["slice"] for s in report["slices"]] == [0, 1, 2, 3]
        heat: Any = nib.load(out / "scan" / "heatmap.nii.gz")
        assert heat.shape == (20, 26, 5)
        np.testing.assert_allclose(heat.affine, affine)
        corrected: Any = nib.load(out / "scan" / "corrected.nii.gz")
        assert corrected.shape == (26, 26, 5)
        # Turned on again, the values lie where the affine says.
        turned = np.rot90(corrected.get_fdata(), round(report["angle"] / 90), (1, 0))
        place = np.array([4, 11, 2, 1])
        voxel = np.linalg.inv(corrected.affine) @ affine @ place
        found = turned[tuple(np.rint(voxel[:3]).astype(int))]
        assert found == pytest.approx(voxels[4, 11, 2] / voxels.max(), abs=1e-4)

    def test_a_broken_file_does_not_end_the_others(
        self, risc: Any, trained: Path, pictures: Path, tmp_path: Path
    ) -> None:
        source = tmp_path / "in"
        source.mkdir()
        (source / "a.png").write_bytes(b"not a picture")
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(source / "b.png")
        (source / "c.png").write_bytes((pictures / "test" / "cross" / "cross-1.png").read_bytes())
        with pytest.raises((ImageError, RuntimeError)):
            risc(
                "inference.json",
                weights=str(trained / "model.pt"),
                input=str(source),
                output_dir=str(tmp_path / "out"),
                layers=None,
            )
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert [Path(d["image"]).name for d in summary["images"]] == ["c.png"]
        assert sorted(Path(p).name for p in summary["failed"]) == ["a.png", "b.png"]

    def test_an_empty_folder_is_refused(self, risc: Any, trained: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(RuntimeError) as caught:
            risc(
                "inference.json",
                weights=str(trained / "model.pt"),
                input=str(tmp_path / "empty"),
                output_dir=str(tmp_path / "out"),
            )
        assert "holds no image" in str(caught.value.__cause__)

    def test_parts_are_found_in_the_joined_file(self, trained: Path) -> None:
        from robustmed_monai.networks.risc import resnet2d

        networks = [
            load_part(resnet2d(2, 1, 10, "small", 0.125), trained / name, "classifier").eval()
            for name in ("model.pt", "classifier/model.pt")
        ]
        image = torch.rand(1, 1, 32, 32)
        assert torch.equal(networks[0](image), networks[1](image))
