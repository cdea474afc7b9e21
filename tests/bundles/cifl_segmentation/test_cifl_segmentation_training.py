"""Training of the rows of the table, each as its config says, and input that ends before any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from robustmed_monai.networks.mind import MINDSSC
from robustmed_monai.networks.on_features import load_segmenter, segmentation_unet
from robustmed_monai.transforms.batch_labelled import BatchFromLabels, BatchRandRemap
from robustmed_monai.utils.errors import RobustMedError
from robustmed_monai.utils.weights import load_info, load_into, load_weights

Overrides = dict[str, Any]


def test_properties(made: Any, tiny: Overrides, tmp_path: Path) -> None:
    train = made("train.json", tiny, output_dir=str(tmp_path))
    train.initialize()
    assert train.check_properties() == []
    assert train.max_epochs == 2
    assert train.train_dataset.tensors["image"].shape == (24, 4, 32, 32)
    train.finalize()


def test_what_the_documents_promise_can_be_overridden_everywhere(segmentation_configs: Path) -> None:
    for name in ("train", "evaluate", "inference"):
        content = json.loads((segmentation_configs / f"{name}.json").read_text())
        assert {"dataset_dir", "output_dir", "device", "bundle_root"} <= set(content), name
        assert next(iter(content["initialize"]))["_target_"].endswith("check_overrides"), name
    assert {"seed", "max_epochs", "resume"} <= set(
        json.loads((segmentation_configs / "train.json").read_text())
    )


def test_features_stay_and_are_part_of_the_weights(trained: dict[str, Path], feature_weights: Path) -> None:
    whole, features = load_weights(trained["features"]), load_weights(feature_weights)
    assert {k for k in whole if k.startswith("features.")} == {f"features.{k}" for k in features}
    assert all(torch.equal(whole[f"features.{k}"], v) for k, v in features.items())
    info = load_info(trained["features"])
    assert info["features"]["out_channels"] == 4
    load_into(segmentation_unet(info["num_classes"], info["channels"], info["features"]), trained["features"])


def test_the_baseline_learns_without_features(trained: dict[str, Path]) -> None:
    info = load_info(trained["raw"])
    assert info["features"] is None
    assert info["metric"] == "val_mean_dice"
    assert info["value"] > 0.8


def test_hand_made_features_need_no_weights(segmentation: Any, tiny: Overrides, tmp_path: Path) -> None:
    own = {k: v for k, v in tiny.items() if k != "features_weights"}
    segmentation(["train.json", "mind.json"], {**own, "max_epochs": 1}, output_dir=str(tmp_path))
    assert load_info(tmp_path / "model.pt")["features"] == "mind"
    network = load_segmenter(tmp_path / "model.pt")
    assert isinstance(network.features, MINDSSC)
    assert network(torch.rand(1, 1, 32, 32)).shape == (1, 4, 32, 32)


@pytest.mark.parametrize(("name", "kind"), [("augmented", BatchRandRemap), ("synth", BatchFromLabels)])
def test_rivals_train_and_are_chosen_on_their_contrasts(
    segmentation: Any, tiny: Overrides, tmp_path: Path, name: str, kind: type
) -> None:
    own = {k: v for k, v in tiny.items() if k != "features_weights"}
    run = segmentation(["train.json", f"{name}.json"], {**own, "max_epochs": 1}, output_dir=str(tmp_path))
    info = load_info(tmp_path / "model.pt")
    assert info["features"] is None
    assert info["contrasts"] == kind.__name__
    prepare = run.parser.get_parsed_content("validate#evaluator").prepare_batch
    assert isinstance(prepare.transform, kind)


def test_a_network_learns_from_painted_heads(segmentation: Any, tmp_path: Path) -> None:
    own = {"virtual": 1, "unet_features": [4] * 6, "max_epochs": 1, "device": "cpu", "amp": False}
    run = segmentation(["train.json", "painted.json"], own, output_dir=str(tmp_path))
    info = load_info(tmp_path / "model.pt")
    assert (info["contrasts"], info["spacing"]) == ("BatchPaintedHeads", 2.0)
    network = run.parser.get_parsed_content("network").eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 80, 96, 3)).shape == (1, 4, 80, 96, 3)


def test_the_same_seed_gives_the_same_bits_and_resuming_too(
    segmentation: Any, tiny: Overrides, tmp_path: Path
) -> None:
    overrides = {k: v for k, v in tiny.items() if k != "features_weights"}
    overrides["val_interval"] = 1
    files = ["train.json", "augmented.json"]
    segmentation(files, overrides, output_dir=str(tmp_path / "whole"))
    schedule = {"schedule#max_epochs": 2, "schedule#first_epochs": 2}
    segmentation(files, {**overrides, **schedule, "max_epochs": 1}, output_dir=str(tmp_path / "parts"))
    segmentation(files, overrides | schedule, output_dir=str(tmp_path / "parts"), resume=True)
    whole, parts = (load_weights(tmp_path / name / "model.pt") for name in ("whole", "parts"))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"features_weights": "/nowhere/model.pt"}, "no such"),
        ({"num_classes": 3}, "neither the classes"),
        ({"dataset_dir": "/nowhere"}, "no such file or folder"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bad_input_is_named(
    segmentation: Any, tiny: Overrides, tmp_path: Path, overrides: Overrides, message: str
) -> None:
    with pytest.raises((RuntimeError, RobustMedError)) as caught:
        segmentation("train.json", {**tiny, **overrides}, output_dir=str(tmp_path))
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, RobustMedError):
        error = error.__cause__
    assert message in str(error)
    assert not list(tmp_path.glob("*.pt"))
