"""RA on the stroke volume, whose affine is oblique: with the shipped weights, or untrained without them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from robustmed_monai.networks.ra import ReversedAutoEncoder
from robustmed_monai.utils.files import read_json
from robustmed_monai.utils.weights import save_weights

pytestmark = pytest.mark.slow

FILES = ("pseudo_healthy", "anomaly_map", "anomaly_mask")


@pytest.fixture(scope="module")
def network(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Overrides of inference.json: none for the shipped weights, a tiny untrained network without them."""
    if (repository / "bundles" / "ra" / "models" / "model.pt").is_file():
        return {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny = ReversedAutoEncoder(1, 32, (4, 8, 8), 8, "batch")
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    thresholds = {"thresholds": {"0.05": 0.01}}
    save_weights(tiny.state_dict(), path, {"calibration": thresholds})
    return {"weights": str(path), "image_size": 32, "channels": [4, 8, 8], "latent_size": 8}


@pytest.fixture(scope="module")
def inferred(
    network: dict[str, Any], data_root: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, float]:
    """Output folder of T1.nii.gz and the seconds it took, the imports left out."""
    folder = tmp_path_factory.mktemp("stroke")
    started = time.perf_counter()
    workflow = ConfigWorkflow(
        str(repository / "bundles" / "ra" / "configs" / "inference.json"),
        workflow_type="infer",
        logging_file=False,
        input=str(data_root / "stroke" / "T1.nii.gz"),
        output_dir=str(folder),
        **network,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return folder / "T1", time.perf_counter() - started


def test_maps_lie_on_the_grid_of_the_source(inferred: tuple[Path, float], data_root: Path) -> None:
    source: Any = nib.load(data_root / "stroke" / "T1.nii.gz")
    assert np.abs(source.affine[:3, :3] - np.diag(np.diag(source.affine)[:3])).max() > 1e-3, "oblique"
    brain = source.get_fdata() > 0
    for name in FILES:
        image: Any = nib.load(inferred[0] / f"{name}.nii.gz")
        assert image.shape == source.shape
        assert np.array_equal(image.affine, source.affine)
        values = image.get_fdata()
        assert np.isfinite(values).all()
        assert values.min() >= 0
        empty = ~brain.any((0, 1))
        assert not values[..., empty].any(), "a slice without a brain has nothing to show"
    maps = nib.load(inferred[0] / "anomaly_map.nii.gz").get_fdata()  # type: ignore[attr-defined]
    mask = nib.load(inferred[0] / "anomaly_mask.nii.gz").get_fdata()  # type: ignore[attr-defined]
    report = read_json(inferred[0] / "scores.json")
    scored = [entry["slice"] for entry in report["slices"] if entry["score"] is not None]
    assessed = np.zeros(mask.shape[2], bool)
    assessed[scored] = True
    assert report["assessed"] == len(scored)
    assert not maps[..., ~assessed].any(), "a slice without a verdict has no map"
    assert np.array_equal(mask, (maps >= np.float32(report["threshold"])) & assessed)


def test_every_slice_has_a_score_or_the_reason_for_none(inferred: tuple[Path, float]) -> None:
    report = read_json(inferred[0] / "scores.json")
    assert len(report["slices"]) > 100
    for entry in report["slices"]:
        assert entry["warnings"] if entry["score"] is None else entry["score"] > 0
    # Another site, stripped of its skull: not what the weights have learnt on every slice.
    assert report["warnings"]
    assert (inferred[0] / "worst_slices.png").is_file() == bool(report["assessed"])


def test_takes_seconds(inferred: tuple[Path, float]) -> None:
    """The issue asks for 30 s on two quiet cores; other work on this machine gets the same again."""
    assert inferred[1] < 60
