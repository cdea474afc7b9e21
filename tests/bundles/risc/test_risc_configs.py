"""The RISC bundle as MONAI sees it: properties, overlays, metadata, the network that it loads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from monai.networks.nets.resnet import ResNet
from torch import nn

from robustmed_monai.networks.risc import GroupPooledResNet, RotationCorrectedNet, RotNet, load_risc
from robustmed_monai.transforms.batch_rotation import BatchAllRotations, BatchRandRotation
from robustmed_monai.utils.weights import load_weights, verify_bundle_weights

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


def test_properties_of_the_training(made: Any, tiny: Overrides, tmp_path: Path) -> None:
    train = made("train.json", tiny, output_dir=str(tmp_path))
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
def test_overlays_of_the_training(parsed: Any, overlays: list[str]) -> None:
    content = parsed(["train.json", *overlays])
    channels, count = content("channels"), content("num_rotations")
    for part, kind, outputs in (("rotnet", RotNet, count), ("classifier", ResNet, content("num_classes"))):
        network = content(f"{part}_def")
        assert type(network) is kind
        with torch.no_grad():
            assert network.eval()(torch.rand(1, channels, 32, 32)).shape == (1, outputs)
        assert content(f"{part}_epochs") > 1
    assert content("views").num_rotations == content("rotnet#views").num_rotations == count


def test_each_network_has_its_own_settings(parsed: Any, pictures: Path, small: Overrides) -> None:
    own = {"rotnet_batch_size": 8, "rotnet_learning_rate": 0.2, "rotnet_epochs": 3, "classifier_epochs": 4}
    content = parsed(["train.json"], **small, **own, dataset_dir=str(pictures))
    assert (content("rotnet#dataloader").batch_size, content("train#dataloader").batch_size) == (8, 64)
    assert content("rotnet#optimizer").defaults["lr"] == 0.2
    assert content("optimizer").defaults["lr"] == 0.05
    assert content("rotnet#trainer").state.max_epochs == 3
    assert content("train#trainer").state.max_epochs == 4
    for writer in (content("writer"), content("rotnet#writer")):
        writer.close()


@pytest.mark.parametrize("overlays", OVERLAYS, ids=_names)
def test_overlays_of_the_evaluation(parsed: Any, overlays: list[str]) -> None:
    content = parsed(["evaluate.json", *overlays])
    rows, rotnet = content("rows"), content("rotnet_def")
    inferers = [row["inferer"] for row in rows.values()]
    assert {inferer.num_rotations for inferer in inferers} == {content("num_rotations")}
    assert all(inferer.rotnet in (None, rotnet) for inferer in inferers)
    assert rows["no correction"]["inferer"].correction == "none"
    explained = parsed(["evaluate.json", "explain.json", *overlays])("rows")
    assert {row["layer"] for row in explained.values()} == {"layer1", "layer2", "layer3"}


def test_controls_are_overlays_of_the_classifier(parsed: Any, pictures: Path, small: Overrides) -> None:
    data = {**small, "dataset_dir": str(pictures)}
    augmented = parsed(["train.json", "augmented.json"], **data)
    assert isinstance(augmented("views"), BatchRandRotation)
    chosen = augmented("validate#evaluator").prepare_batch.transform
    assert isinstance(chosen, BatchAllRotations)
    assert chosen.keep_label
    augmented("writer").close()
    assert isinstance(parsed(["train.json", "p4.json"])("classifier_def"), GroupPooledResNet)


def test_paper_is_the_published_size(parsed: Any) -> None:
    rotnet = parsed(["train.json", "paper.json"])("rotnet_def")
    assert sum(p.numel() for p in rotnet.trunk.parameters()) == 23_508_032 - 2 * 64 * 49
    assert len([m for m in rotnet.head.modules() if isinstance(m, nn.Linear)]) == 3


def test_eight_rotations_can_be_made_to_leak_for_comparison(parsed: Any) -> None:
    content = parsed(["train.json", "retinamnist.json", "bilinear.json"])
    assert (content("rotnet#views").num_rotations, content("rotnet#views").mode) == (8, "bilinear")


def test_what_the_documents_promise_can_be_overridden_everywhere(risc_configs: Path) -> None:
    """DESIGN.md: the words that every config of every bundle shares."""
    for name in ("train.json", "evaluate.json", "inference.json"):
        content = json.loads((risc_configs / name).read_text())
        assert {"dataset_dir", "output_dir", "device", "bundle_root"} <= set(content), name
        assert next(iter(content["initialize"]))["_target_"].endswith("check_overrides"), name


def test_configs_say_what_they_are(risc_configs: Path) -> None:
    for path in risc_configs.glob("*.json"):
        if path.name != "metadata.json":
            assert len(json.loads(path.read_text())["_desc_"]) > 30, path.name


def test_the_network_that_monai_loads_is_that_of_the_weights_and_of_the_metadata(risc_configs: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of every config that it parses
        network: Any = monai.bundle.load("risc", bundle_dir=str(risc_configs.parents[1]))
    stored = load_weights(risc_configs.parent / "models" / "model.pt")
    assert all(torch.equal(value, stored[key]) for key, value in network.state_dict().items())
    described = json.loads((risc_configs / "metadata.json").read_text())["network_data_format"]
    image = described["inputs"]["image"]
    with torch.no_grad():
        logits = network.eval()(torch.zeros(2, image["num_channels"], *image["spatial_shape"]))
    assert logits.shape == (2, described["outputs"]["pred"]["num_channels"])
    assert (network.rotnet.image_size, network.rotnet.num_rotations) == (32, 4)


def test_every_shipped_file_is_loaded_with_its_own_sizes(risc_configs: Path) -> None:
    retina = load_risc(risc_configs.parent / "models" / "retinamnist.pt")
    assert (retina.rotnet.num_rotations, retina.rotnet.in_channels) == (8, 3)
    assert retina.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_shipped_weights_are_listed_small_and_whole(risc_configs: Path) -> None:
    bundle = risc_configs.parent
    if "weights" not in json.loads((risc_configs / "metadata.json").read_text()):
        pytest.skip("no weights are shipped yet")
    verify_bundle_weights(bundle)
    assert all(p.stat().st_size <= 25e6 for p in (bundle / "models").glob("*.pt"))
