"""The CIFL bundle as MONAI sees it: properties, overlays, metadata, the call of the network, its weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import load, verify_net_in_out

from robustmed_monai.networks.cifl import CIFL
from robustmed_monai.utils.weights import load_info, load_weights, verify_bundle_weights

Overrides = dict[str, Any]


@pytest.fixture
def parsed(made: Any, tmp_path: Path) -> Any:
    """`parsed(files, **overrides)` gives a function of an id: that item of the config, made."""

    def read(files: list[str], **overrides: Any) -> Any:
        workflow = made(files, output_dir=str(tmp_path / "out"), device="cpu", **overrides)
        workflow.parser.parse(reset=True)
        return workflow.parser.get_parsed_content

    return read


def test_properties_of_training(made: Any, tiny: Overrides, tmp_path: Path) -> None:
    train = made("train.json", tiny, output_dir=str(tmp_path))
    train.initialize()
    assert train.check_properties() == []
    assert train.max_epochs == 2
    assert isinstance(train.network_def, CIFL)
    assert {batch["kind"] for batch in train.val_dataset} == {"shapes", "brains"}
    train.finalize()


def test_properties_of_inference(made: Any, trained: Path, dataset_dir: Path, tmp_path: Path) -> None:
    image, weights = str(dataset_dir / "test-0.png"), str(trained / "model.pt")
    infer = made(
        "inference.json", input=image, weights=weights, output_dir=str(tmp_path), workflow_type="infer"
    )
    infer.initialize()
    assert infer.check_properties() == []
    assert isinstance(infer.network_def, CIFL)


def test_defaults_are_the_documented_ones(parsed: Any) -> None:
    content = parsed(["train.json"])
    network, loss = content("network_def"), content("loss")
    assert (network.spatial_dims, network.out_channels, network.center, network.norm) == (
        2,
        16,
        True,
        "channel",
    )
    assert network.maps[0].out_channels == 32
    assert (loss.tau_a, loss.tau_b, loss.tau_g, loss.crop, loss.center) == (1.0, 1.0, 0.3, 8, True)
    assert not loss.symmetric


def test_one_name_sets_what_network_and_loss_share(parsed: Any) -> None:
    content = parsed(["train.json"], norm="voxel", center=False, depth=4)
    network, loss = content("network_def"), content("loss")
    assert (network.norm, network.center, network.radius) == ("voxel", False, 4)
    assert (loss.norm, loss.center, loss.crop) == ("voxel", False, 4)


def test_paper_is_the_network_of_the_fact_sheet(parsed: Any) -> None:
    content = parsed(["train.json", "paper.json"])
    assert sum(p.numel() for p in content("network_def").parameters()) == 231_440
    assert content("train#dataset").size == (192, 160)
    assert content("steps") == 40_000
    assert content("scheduler").get_last_lr() == [0.0001]


def test_volumes_are_three_dimensional_everywhere(parsed: Any, tmp_path: Path) -> None:
    content = parsed(["train.json", "volumes.json"], dataset_dir="unused")
    assert sum(p.numel() for p in content("network_def").parameters()) == 48_944
    assert content("network_def").spatial_dims == 3
    assert content("train#dataset").size == (48, 48, 48)
    # Of one volume a batch, validation would compare it with itself in place of another.
    assert content("train#dataset").batch_size == 1
    assert content("validate#shapes#views").batch_size == 4


def test_network_maps_one_tensor_to_one_tensor(cifl_configs: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(cifl_configs / "metadata.json"),
            config_file=str(cifl_configs / "train.json"),
            device="cpu",
            p=1,
            n=1,
            any=1,
        )


@pytest.mark.filterwarnings("ignore::UserWarning")  # MONAI warns of any config that it reads
def test_monai_loads_the_shipped_network(cifl_configs: Path) -> None:
    models = cifl_configs.parent / "models"
    if not (models / "model.pt").is_file():
        pytest.skip("bundles/cifl/models/model.pt is not there yet")
    assert "model.pt" in verify_bundle_weights(cifl_configs.parent)
    network = load("cifl", bundle_dir=str(cifl_configs.parents[1]))
    assert isinstance(network, CIFL)
    stored = load_weights(models / "model.pt")
    assert all(torch.equal(v, stored[k].to(v)) for k, v in network.state_dict().items())
    info = load_info(models / "model.pt")
    assert (info["spatial_dims"], info["out_channels"], info["norm"]) == (2, 16, "channel")


def test_commands_refuse_unknown_overrides(command: Any, cifl_configs: Path, tmp_path: Path) -> None:
    done = command(tmp_path, "--config_file", str(cifl_configs / "train.json"), "--tau_c", "2")
    assert done.code == 1
    assert done.last_line.startswith(
        "ConfigError: --tau_c: the config has no such key; the nearest is --tau_"
    )
    assert not list(tmp_path.iterdir())
