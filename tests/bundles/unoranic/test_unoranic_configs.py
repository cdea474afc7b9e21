"""The unORANIC bundle as MONAI sees it: properties, overlays, metadata, the call of the network."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import verify_net_in_out

from robustmed_monai.networks.unoranic import UNORANIC, AutoEncoder
from robustmed_monai.networks.unoranic_pca import PCAUNORANIC

Overrides = dict[str, Any]


@pytest.fixture
def parsed(made: Any, tiny: Overrides, tmp_path: Path) -> Any:
    """`parsed(files, *left_out)` gives a function of an id: that item of the config, made."""

    def read(files: list[str], *left_out: str) -> Any:
        overrides = {k: v for k, v in tiny.items() if k not in left_out}
        workflow = made(files, overrides, output_dir=str(tmp_path / "out"))
        workflow.parser.parse(reset=True)
        return workflow.parser.get_parsed_content

    return read


def test_properties_of_training(made: Any, tiny: Overrides, tmp_path: Path) -> None:
    train = made("train.json", tiny, output_dir=str(tmp_path))
    train.initialize()
    assert train.check_properties() == []
    assert train.max_epochs == 4
    assert isinstance(train.network_def, UNORANIC)
    assert len(train.train_dataset) == 30
    train.finalize()


@pytest.mark.parametrize(
    ("overlays", "network", "parts"),
    [
        ([], UNORANIC, 4),
        (["paper.json"], UNORANIC, 4),
        (["pca.json"], PCAUNORANIC, None),
        (["ae.json"], AutoEncoder, 2),
        (["dae.json"], AutoEncoder, 2),
        (["paper.json", "ae.json"], AutoEncoder, 2),
        (["paper.json", "dae.json"], AutoEncoder, 2),
    ],
    ids=str,
)
def test_overlays_make_a_trainer(parsed: Any, overlays: list[str], network: type, parts: int | None) -> None:
    content = parsed(["train.json", *overlays])
    assert type(content("network_def")) is network
    trainer = content("train#trainer")
    assert len(trainer.networks) == (parts or len(list(content("network").children())))
    held = {id(p) for group in content("optimizer").param_groups for p in group["params"]}
    assert held == {id(p) for p in content("network").parameters()}, "one optimizer for everything"
    if parts is not None:
        assert content("train#views").views == {4: 4, 2: 1}[parts]
    content("writer").close()


def test_paper_is_the_published_setting(parsed: Any) -> None:
    content = parsed(["train.json", "paper.json"], "channels", "batch_size", "max_epochs", "val_interval")
    assert sum(p.numel() for p in content("network_def").parameters()) == 6_603_100
    assert (content("max_epochs"), content("batch_size"), content("prob")) == (1001, 64, 0.25)
    optimizer = content("optimizer")
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.999) or optimizer.param_groups[0]["betas"] == [
        0.95,
        0.999,
    ]
    loss = content("loss")
    assert (loss.norm, loss.lambda_rec, loss.lambda_cons) == ("mse", 1.0, 1.0)
    content("writer").close()


def test_network_maps_one_tensor_to_one_tensor(configs: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(configs / "metadata.json"),
            config_file=str(configs / "train.json"),
            device="cpu",
            p=1,
            n=1,
            any=1,
        )


def test_commands_refuse_unknown_overrides(command: Any, configs: Path, tmp_path: Path) -> None:
    done = command(tmp_path, "--config_file", str(configs / "train.json"), "--variant", "2")
    assert done.code == 1
    assert done.last_line.startswith(
        "ConfigError: --variant: the config has no such key; the nearest is --variants"
    )
    assert not list(tmp_path.iterdir())


def test_a_missing_data_set_is_named_on_one_line(command: Any, configs: Path, tmp_path: Path) -> None:
    words = ("--config_file", str(configs / "train.json"), "--dataset", "pneumoniamnist")
    done = command(tmp_path, *words, dataset_dir=tmp_path / "none", output_dir=tmp_path / "out")
    assert done.code == 1
    assert "pneumoniamnist.npz: no such file; put the official file there" in done.last_line
