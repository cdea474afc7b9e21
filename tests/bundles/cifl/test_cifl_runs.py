"""Tiny trainings of CIFL, what ends them, and inference with their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from robustmed_monai.networks.cifl import CIFL
from robustmed_monai.networks.on_features import feature_settings
from robustmed_monai.utils.errors import ConfigError, TrainingError
from robustmed_monai.utils.weights import load_info, load_into, load_weights

Overrides = dict[str, Any]


def _causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found


class TestTraining:
    def test_weights_say_what_they_are(self, trained: Path) -> None:
        info = load_info(trained / "model.pt")
        assert (info["spatial_dims"], info["out_channels"], info["channels"]) == (2, 4, 4)
        assert (info["metric"], info["steps"], info["tau_g"]) == ("brains_margin", 6, 0.3)
        settings = feature_settings(trained / "model.pt")
        assert settings is not None
        load_into(CIFL(**settings), trained / "model.pt")

    def test_all_figures_are_logged(self, cifl: Any, tiny: Overrides, tmp_path: Path) -> None:
        workflow = cifl("train.json", {**tiny, "max_epochs": 1}, output_dir=str(tmp_path))
        metrics = workflow.parser.get_parsed_content("validate#evaluator").state.metrics
        figures = ("s_same", "s_inverted", "s_other", "overlap", "rank", "margin")
        assert {f"{kind}_{name}" for kind in ("shapes", "brains") for name in figures} <= set(metrics)

    def test_resuming_gives_the_same_bits(
        self, cifl: Any, trained: Path, tiny: Overrides, tmp_path: Path
    ) -> None:
        whole = {"steps": 6, "output_dir": str(tmp_path)}
        cifl("train.json", {**tiny, **whole, "max_epochs": 1})
        cifl("train.json", {**tiny, **whole}, resume=True)
        first, again = (torch.load(p / "checkpoint.pt", weights_only=True) for p in (trained, tmp_path))
        for name, value in first["state"]["network"].items():
            assert torch.equal(value, again["state"]["network"][name])

    def test_bfloat16_and_three_dimensions(self, cifl: Any, tiny: Overrides, tmp_path: Path) -> None:
        volumes = {"spatial_dims": 3, "spatial_size": [20, 20, 20], "depth": 4, "amp": True, "max_epochs": 1}
        for k in range(2):
            pixels = np.random.default_rng(k).integers(1, 255, (20, 20, 20)).astype(np.uint8)
            nib.save(nib.Nifti1Image(pixels, np.eye(4)), tmp_path / f"{k}.nii.gz")
        content = {
            "name": "x",
            "license": "x",
            "description": "x",
            "validation": [{"image": f"{k}.nii.gz"} for k in "01"],
        }
        (tmp_path / "datalist.json").write_text(json.dumps(content))
        data = {"dataset_dir": str(tmp_path), "image_size": 20}
        cifl("train.json", {**tiny, **volumes, **data}, output_dir=str(tmp_path / "out"))
        assert load_weights(tmp_path / "out" / "model.pt")["maps.0.weight"].ndim == 5

    def test_channels_that_are_all_one_end_it(self, cifl: Any, tiny: Overrides, tmp_path: Path) -> None:
        with pytest.raises((RuntimeError, TrainingError)) as caught:
            cifl(
                "train.json",
                {**tiny, "out_channels": 1, "min_epochs_before_best": 1},
                output_dir=str(tmp_path),
            )
        assert any(
            "effective rank of 1.00" in str(e) for e in _causes(caught.value) if isinstance(e, TrainingError)
        )

    def test_a_bad_setting_is_named(self, cifl: Any, tiny: Overrides, tmp_path: Path) -> None:
        with pytest.raises((RuntimeError, ConfigError)) as caught:
            cifl("train.json", {**tiny, "tau_g": 0}, output_dir=str(tmp_path))
        assert any(
            "give positive numbers" in str(e) for e in _causes(caught.value) if isinstance(e, ConfigError)
        )


class TestInference:
    def test_two_contrasts(self, cifl: Any, trained: Path, tmp_path: Path) -> None:
        affine = np.array([[0, -1.5, 0, 20], [-1.2, 0, 0, 30], [0, 0, 2.0, -10], [0, 0, 0, 1.0]])
        volume = np.random.default_rng(0).integers(1, 200, (24, 20, 5)).astype(np.uint8)
        for name, values in (("T1", volume), ("T2", 255 - volume)):
            nib.save(nib.Nifti1Image(values, affine), tmp_path / f"{name}.nii.gz")
        images = [str(tmp_path / f"{name}.nii.gz") for name in ("T1", "T2")]
        out = tmp_path / "out"
        weights = str(trained / "model.pt")
        cifl("inference.json", input=images, weights=weights, output_dir=str(out), workflow_type="infer")
        for name in ("T1", "T2"):
            features: Any = nib.load(out / name / "features.nii.gz")
            assert features.shape == (24, 20, 5, 4)
            assert np.allclose(features.affine, affine, atol=1e-6)
        assert (out / "side_by_side.png").stat().st_size > 0

    def test_a_folder(self, cifl: Any, trained: Path, dataset_dir: Path, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        for k in (0, 2):
            (tmp_path / "in" / f"{k}.png").write_bytes((dataset_dir / f"test-{k}.png").read_bytes())
        settings = {"input": str(tmp_path / "in"), "weights": str(trained / "model.pt")}
        cifl("inference.json", settings, output_dir=str(tmp_path / "out"), workflow_type="infer")
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert [image["channels"] for image in summary["images"]] == [4, 4]
