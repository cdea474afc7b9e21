"""The bundle from a folder of healthy images to maps, scores and a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, load
from PIL import Image

from robustmed_monai.networks import AnomalySegmenter, FeatureMemory
from robustmed_monai.networks.efficientnet_lite import is_installed
from robustmed_monai.utils.bundle import bundles_dir
from robustmed_monai.utils.files import read_json
from robustmed_monai.utils.provenance import read_results
from robustmed_monai.utils.weights import load_info, load_weights, save_weights

CONFIGS = Path(__file__).resolve().parents[3] / "bundles" / "feature_memory" / "configs"


def _run(name: str, kind: str = "infer", **overrides: Any) -> None:
    workflow = ConfigWorkflow(
        str(CONFIGS / f"{name}.json"), logging_file=False, workflow_type=kind, device="cpu", **overrides
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


@pytest.fixture(scope="module")
def memory(dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a memory of twelve pictures, of features and grey values; its segmenter sees nothing."""
    folder = tmp_path_factory.mktemp("memory")
    segmenter = AnomalySegmenter()
    torch.nn.init.zeros_(segmenter.network.final_conv.weight)
    torch.nn.init.constant_(segmenter.network.final_conv.bias, -20.0)
    save_weights(segmenter.state_dict(), folder / "segmenter.pt")
    settings: dict[str, Any] = {"image_size": 32, "max_epochs": 1, "intensity": 2.0, "other_side": 0.1}
    settings |= {"outline": 0.2, "outline_weights": str(folder / "segmenter.pt")}
    _run("train", "train", dataset_dir=str(dataset_dir), output_dir=str(folder), **settings)
    return folder / "model.pt"


def test_training_keeps_what_applying_needs(memory: Path) -> None:
    info = load_info(memory)
    assert (info["features"], info["images"], info["spacing"]) == ("ra", 12, pytest.approx(7.2))
    found = info["intensity"], info["other_side"], info["outline"]
    assert found == (2.0, 0.1, 0.2), "what is applied is built by them"
    bias = load_weights(memory)["segmenter.network.final_conv.bias"]
    assert (bias == -20).all(), "the segmenter stays as it was trained"
    thresholds = info["calibration"]["thresholds"]
    assert thresholds["0.01"] > thresholds["0.05"] > 0
    assert set(info["training_statistics"]) >= {"brightness", "foreground", "appearance"}


def test_a_picture_gets_a_map_a_mask_and_a_score(memory: Path, dataset_dir: Path, tmp_path: Path) -> None:
    """The image with the lesion scores higher, and the map is highest in the lesion."""
    pictures = [str(dataset_dir / f"test-{i}.png") for i in (0, 1)]
    # Twelve drawn heads are so alike that the lesion alone would put its slice out of distribution.
    known: dict[str, Any] = {"postprocessing#transforms#0#statistics": None, "image_size": 32}
    _run("inference", input=pictures, weights=str(memory), output_dir=str(tmp_path / "out"), **known)
    healthy, abnormal = (read_json(tmp_path / "out" / f"test-{i}" / "scores.json") for i in (0, 1))
    assert abnormal["score"] > 1.2 * healthy["score"]
    assert abnormal["assessed"] == healthy["assessed"] == 1
    with Image.open(tmp_path / "out" / "test-1" / "anomaly_map.png") as picture:
        found = np.asarray(picture).T
    with Image.open(dataset_dir / "test-1-mask.png") as picture:
        lesion = np.asarray(picture).T > 0
    assert found.shape == lesion.shape
    assert found[lesion].mean() > 1.5 * found[~lesion].mean()
    assert (tmp_path / "out" / "test-1" / "worst_slices.png").is_file()


def test_the_table_has_the_models_without_a_network(memory: Path, dataset_dir: Path, tmp_path: Path) -> None:
    _run(
        "evaluate", weights=str(memory), dataset_dir=str(dataset_dir), output_dir=str(tmp_path), image_size=32
    )
    rows = read_results(tmp_path / "results.json")["rows"]
    found = {(row["row"], row["column"]): row["mean"] for row in rows}
    assert {row for row, _ in found} == {
        "feature memory", "z-score", "PCA residual", "mean image", "no anomaly",
    }  # fmt: skip
    assert found["feature memory", "image_auroc_top"] == 1.0
    assert found["feature memory", "pixel_auroc"] > 0.9
    assert found["feature memory", "within_ap"] > 3 * found["no anomaly", "within_ap"]
    assert found["z-score", "pointing"] == 1.0, "the drawn lesions are brighter than any head"
    assert (tmp_path / "results_sheet.png").is_file()


@pytest.mark.filterwarnings("ignore:parsing")
def test_monai_loads_the_shipped_memory_offline() -> None:
    network = load("feature_memory", bundle_dir=bundles_dir(), device="cpu")
    assert isinstance(network, FeatureMemory)
    assert 0.1 < float(network.remembered().abs().max()) < 2, "a full memory"
    found = network(torch.zeros(1, 1, 128, 128))
    assert float(found[..., 0, 0]) < 0.1, "air is known"
    assert float(found[..., 64, 64]) > 0.3, "a head without a brain is not"


@pytest.mark.skipif(not is_installed(), reason="needs the extra features")
@pytest.mark.filterwarnings("ignore:parsing")
def test_the_memory_on_efficientnet_outlines(tmp_path: Path) -> None:
    """The shipped file by the config of inference, a setting of the network changed on the way."""
    settings: dict[str, Any] = {"output_dir": str(tmp_path), "network_def#reach": 2, "device": "cpu"}
    workflow = ConfigWorkflow(str(CONFIGS / "inference.json"), workflow_type="infer", **settings)
    workflow.initialize()
    network = workflow.parser.get_parsed_content("network")
    assert (network.reach, network.outline) == (2, 0.1)
    # What the error for weights of another backbone says.
    file = "models/efficientnet_lite0.pt"
    loaded = load(
        "feature_memory",
        bundle_dir=bundles_dir(),
        device="cpu",
        workflow_type="inference",
        model_file=file,
    )
    assert isinstance(loaded, FeatureMemory)
    assert torch.equal(loaded.remembered(), network.remembered())
    head = torch.zeros(1, 1, 128, 128)
    head[..., 24:104, 14:114] = 0.6
    found = network.outlined(head)
    assert 0 < float(found.max()) <= 1
    assert bool((network(head) >= 0.1 * found).all())
