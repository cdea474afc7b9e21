"""The RISC bundle as MONAI sees it: properties, overlays, metadata, the network's door."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets.resnet import ResNet
from torch import nn

from robustmed_monai.networks.risc import GroupPooledResNet, RotationCorrectedNet, RotNet
from robustmed_monai.transforms.batch_rotation import BatchAllRotations, BatchRandRotation
from robustmed_monai.utils.weights import verify_bundle_weights

Overrides = dict[str, Any]
OVERLAYS = [
    [],
    ["paper.json"],
    ["pneumoniamnist.json"],
    ["retinamnist.json"],
    ["retinamnist.json", "paper.json"],
]


def _names(overlays: list[str]) -> str:
    return "+".join(name.removesuffix(".json") for name in overlays) or "alone"


@pytest.fixture
def parsed(made: Any, tmp_path: Path) -> Callable[..., Any]:
    """`parsed(files)` gives a function of an id: that item of the config, made."""

    def read(files: list[str], **overrides: Any) -> Any:
        workflow = made(files, output_dir=str(tmp_path / "out"), device="cpu", **overrides)
        workflow.parser.parse(reset=True)
        return workflow.parser.get_parsed_content

    return read


@pytest.mark.parametrize("stage", ["train_rotnet.json", "train_classifier.json"])
def test_properties_of_the_trainings(made: Any, tiny: Overrides, tmp_path: Path, stage: str) -> None:
    train = made(stage, tiny, output_dir=str(tmp_path))
    train.initialize()
    assert train.check_properties() == []
    assert train.max_epochs == 2
    assert len(train.train_dataset) == 48
    train.finalize()


def test_properties_of_inference(made: Any, trained: Path, pictures: Path, tmp_path: Path) -> None:
    weights, image = str(trained / "model.pt"), str(pictures / "test" / "disk")
    infer = made(
        "inference.json", weights=weights, input=image, output_dir=str(tmp_path), workflow_type="infer"
    )
    infer.initialize()
    assert infer.check_properties() == []
    assert isinstance(infer.network_def, RotationCorrectedNet)


@pytest.mark.parametrize("overlays", OVERLAYS, ids=_names)
def test_overlays_of_the_trainings(parsed: Any, overlays: list[str]) -> None:
    for stage, kind in (("train_rotnet.json", RotNet), ("train_classifier.json", ResNet)):
        content = parsed([stage, *overlays])
        network = content("network_def")
        assert type(network) is kind
        channels, count = content("channels"), content("num_rotations")
        outputs = count if kind is RotNet else content("num_classes")
        with torch.no_grad():
            assert network.eval()(torch.rand(1, channels, 32, 32)).shape == (1, outputs)
        assert content("views").num_rotations == count
        assert content("max_epochs") > 1


@pytest.mark.parametrize("overlays", OVERLAYS, ids=_names)
def test_overlays_of_the_evaluation(parsed: Any, overlays: list[str]) -> None:
    content = parsed(["evaluate.json", *overlays])
    rows, networks = content("rows"), content("networks")
    assert {run for run, _ in rows.values()} <= set(networks)
    assert {i.num_rotations for _, i in rows.values()} == {content("num_rotations")}
    assert rows["no correction"][1].correction == "none"
    assert all(inferer.rotnet in (None, networks["rotnet"]) for _, inferer in rows.values())


def test_controls_are_overlays_of_the_classifier(parsed: Any, pictures: Path, small: Overrides) -> None:
    data = {**small, "dataset_dir": str(pictures)}
    augmented = parsed(["train_classifier.json", "augmented.json"], **data)
    assert isinstance(augmented("views"), BatchRandRotation)
    chosen = augmented("validate#evaluator").prepare_batch.transform
    assert isinstance(chosen, BatchAllRotations)
    assert chosen.keep_label
    augmented("writer").close()
    assert isinstance(parsed(["train_classifier.json", "p4.json"])("network_def"), GroupPooledResNet)


def test_paper_is_the_published_size(parsed: Any) -> None:
    rotnet = parsed(["train_rotnet.json", "paper.json"])("network_def")
    assert sum(p.numel() for p in rotnet.trunk.parameters()) == 23_508_032 - 2 * 64 * 49
    assert len([m for m in rotnet.head.modules() if isinstance(m, nn.Linear)]) == 3


def test_eight_rotations_can_be_made_to_leak_for_comparison(parsed: Any) -> None:
    content = parsed(["train_rotnet.json", "retinamnist.json", "bilinear.json"])
    assert (content("views").num_rotations, content("views").mode) == (8, "bilinear")


def test_what_the_documents_promise_can_be_overridden_everywhere(risc_configs: Path) -> None:
    """DESIGN.md: the words that every config of every bundle shares."""
    runs = ["train.json", "train_rotnet.json", "train_classifier.json", "evaluate.json", "explain.json"]
    for name in [*runs, "inference.json"]:
        content = json.loads((risc_configs / name).read_text())
        assert {"dataset_dir", "output_dir", "device", "bundle_root"} <= set(content), name
        assert next(iter(content["initialize"]))["_target_"].endswith("check_overrides"), name
    for name in runs[:3]:
        assert {"seed", "max_epochs", "resume"} <= set(json.loads((risc_configs / name).read_text()))


def test_configs_say_what_they_are(risc_configs: Path) -> None:
    for path in risc_configs.glob("*.json"):
        if path.name != "metadata.json":
            assert len(json.loads(path.read_text())["_desc_"]) > 30, path.name


def test_the_network_that_monai_loads_is_that_of_the_metadata(risc_configs: Path) -> None:
    parser = ConfigParser(json.loads((risc_configs / "train.json").read_text()))
    network = parser.get_parsed_content("network_def")
    described = json.loads((risc_configs / "metadata.json").read_text())["network_data_format"]
    channels = described["inputs"]["image"]["num_channels"]
    with torch.no_grad():
        logits = network.eval()(torch.zeros(2, channels, *described["inputs"]["image"]["spatial_shape"]))
    assert logits.shape == (2, described["outputs"]["pred"]["num_channels"])


def test_shipped_weights_are_listed_small_and_whole(risc_configs: Path) -> None:
    bundle = risc_configs.parent
    if "weights" not in json.loads((risc_configs / "metadata.json").read_text()):
        pytest.skip("no weights are shipped yet")
    verify_bundle_weights(bundle)
    assert all(p.stat().st_size <= 25e6 for p in (bundle / "models").glob("*.pt"))
