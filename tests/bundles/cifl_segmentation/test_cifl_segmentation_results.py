"""Evaluation and inference of tiny networks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from robustmed_monai.utils.errors import ConfigError, ImageError
from robustmed_monai.utils.provenance import read_results

Overrides = dict[str, Any]


def test_table_has_all_rows_and_contrasts(
    segmentation: Any, trained: dict[str, Path], heads: Path, tmp_path: Path
) -> None:
    runs = {name: [str(file), str(file)] for name, file in trained.items()}
    runs["mine"] = runs["features"]
    settings = {"dataset_dir": str(heads), "image_size": 32, "device": "cpu", "seeds": [0, 1]}
    segmentation("evaluate.json", settings, checkpoints=runs, output_dir=str(tmp_path))
    results = read_results(tmp_path / "results.json")
    cells = {(row["row"], row["column"]): row for row in results["rows"]}
    assert {row for row, _ in cells} == {"T1", "CIFL features", "mine"}
    contrasts = {"t1", "inverted", "inverted_frame", "remapped", "t2_like"}
    assert {column for _, column in cells} == contrasts | {f"{c}_tissue" for c in contrasts}
    assert cells["T1", "t1"]["mean"] > 0.8 > cells["T1", "inverted"]["mean"]
    assert (cells["T1", "t1"]["n"], cells["T1", "t1"]["std"]) == (2, 0.0)
    assert cells["CIFL features", "t1"] == {**cells["mine", "t1"], "row": "CIFL features"}
    tests = json.loads((tmp_path / "results.json").read_text())["paired_tests"]
    assert {(t["row"], t["against"]) for t in tests} == {("CIFL features", "T1"), ("mine", "T1")}
    assert (tmp_path / "results_contrasts.png").stat().st_size > 10_000


class TestInference:
    def test_a_volume_keeps_its_geometry_and_has_volumes(
        self, segmentation: Any, made: Any, trained: dict[str, Path], heads: Path, tmp_path: Path
    ) -> None:
        slices = [np.asarray(Image.open(heads / f"images/test-{i}-0.png")) for i in range(3)]
        labels = [np.asarray(Image.open(heads / f"labels/test-{i}-0.png")) for i in range(3)]
        volume = np.stack([*slices, np.zeros_like(slices[0])], axis=-1).transpose(1, 0, 2)
        # "LPS" with an oblique turn: what must come back.
        affine = np.array([[-1.5, 0.1, 0, 9], [0.1, -1.5, 0, 4], [0, 0, 2.0, -3], [0, 0, 0, 1]])
        # Axes of the stack are (x right, y back, z up); the file's first axis runs to the left.
        nib.save(nib.Nifti1Image(volume[::-1].copy(), affine), tmp_path / "scan.nii.gz")
        out = tmp_path / "out"
        scan, weights = str(tmp_path / "scan.nii.gz"), str(trained["raw"])
        run = made("inference.json", weights=weights, input=scan, output_dir=str(out), workflow_type="infer")
        run.initialize()
        assert run.check_properties() == []
        # The drawn heads have no size in mm.
        segmentation("inference.json", weights=weights, input=scan, output_dir=str(out), spacing=None)
        found: Any = nib.load(out / "scan" / "labels.nii.gz")
        assert found.shape == (40, 48, 4)
        assert found.get_data_dtype() == np.uint8
        np.testing.assert_allclose(found.affine, affine)
        classes = np.asarray(found.dataobj)[::-1]
        true = np.stack(labels, axis=-1).transpose(1, 0, 2)
        assert (classes[:, :, :3] == true).mean() > 0.85
        assert not classes[:, :, 3].any()
        report = json.loads((out / "scan" / "volumes.json").read_text())["volumes"]
        voxel = abs(np.linalg.det(affine[:3, :3])) / 1000
        for number, name in enumerate(("background", "CSF", "grey matter", "white matter")):
            assert report[name]["voxels"] == (classes == number).sum()
            assert report[name]["ml"] == pytest.approx(report[name]["voxels"] * voxel, abs=1e-3)
        with (out / "scan" / "volumes.csv").open() as stream:
            rows = {row["class"]: row for row in csv.DictReader(stream)}
        assert float(rows["CSF"]["ml"]) == report["CSF"]["ml"]
        assert (out / "scan" / "slices.png").is_file()
        assert json.loads((out / "summary.json").read_text())["images"][0]["volumes"] == report

    def test_pictures_and_a_broken_file(
        self, segmentation: Any, trained: dict[str, Path], heads: Path, tmp_path: Path
    ) -> None:
        source = tmp_path / "in"
        source.mkdir()
        (source / "a.png").write_bytes((heads / "images/test-0-0.png").read_bytes())
        Image.fromarray(np.zeros((16, 20), np.uint8)).save(source / "black.png")
        (source / "broken.png").write_bytes(b"not a picture")
        out = tmp_path / "out"
        with pytest.raises((ImageError, RuntimeError)) as caught:
            segmentation(
                "inference.json", weights=str(trained["raw"]), input=str(source), output_dir=str(out)
            )
        assert "broken.png" in str(caught.value.__cause__)
        classes = np.asarray(Image.open(out / "a" / "labels.png"))
        assert classes.shape == (48, 40)
        assert set(np.unique(classes)) == {0, 1, 2, 3}
        report = json.loads((out / "a" / "volumes.json").read_text())["volumes"]
        assert report["CSF"] == {"voxels": int((classes == 1).sum()), "ml": None}
        black = json.loads((out / "black" / "volumes.json").read_text())
        assert black["volumes"]["background"]["voxels"] == 320
        assert "empty" in black["warnings"][0]

    def test_names_must_fit(
        self, segmentation: Any, trained: dict[str, Path], heads: Path, tmp_path: Path
    ) -> None:
        settings = {"weights": str(trained["raw"]), "input": str(heads / "images/test-0-0.png")}
        with pytest.raises((ConfigError, RuntimeError)) as caught:
            segmentation("inference.json", settings, class_names=["a"], output_dir=str(tmp_path))
        assert "class_names=['a'] for 4 classes" in str(caught.value.__cause__)
