"""Training by the config: what it leaves, exact resume, determinism, controls, two processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from robustmed_monai.data.embedded import embedded_dataset
from robustmed_monai.networks.anomaly_segmenter import AnomalySegmenter
from robustmed_monai.networks.ra import ReversedAutoEncoder
from robustmed_monai.utils.errors import ConfigError, WeightsError
from robustmed_monai.utils.files import read_json, sha256, write_json
from robustmed_monai.utils.weights import load_info, load_into

Overrides = dict[str, Any]


class PowerCutError(Exception):
    """What ends a run in the middle of an epoch."""


def _checkpoint(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoint.pt", weights_only=True)
    return content


def _assert_same(one: Any, two: Any, where: str = "") -> None:
    """Two checkpoints are the same to the bit."""
    assert type(one) is type(two), where
    if isinstance(one, Mapping):
        assert one.keys() == two.keys(), where
        for key in one:
            _assert_same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            _assert_same(a, b, f"{where}.{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one.nan_to_num(), two.nan_to_num()), where
    else:
        assert one == two, where


class TestOutputs:
    def test_are_weights_checkpoint_pictures_and_curves(self, trained: Path) -> None:
        found = {p.name for p in trained.iterdir()}
        assert {"model.pt", "model.json", "checkpoint.pt", "pictures"} <= found
        assert [p.name for p in sorted((trained / "pictures").iterdir())] == [
            f"anomaly_{i:04d}.png" for i in (1, 2, 3, 4)
        ]
        assert not [name for name in found if name.startswith(".tmp")]

    def test_weights_bring_what_applying_them_needs(self, trained: Path, tiny: Overrides) -> None:
        info = load_info(trained / "model.pt")
        assert info["metric"] == "val_l1"
        assert info["contrast"] is None, "own images may be of any contrast, and none of them is refused"
        assert info["epoch"] in (3, 4), "validations of the warm-up do not count"
        assert set(info["calibration"]["thresholds"]) == {"0.01", "0.02", "0.05"}
        assert info["calibration"]["pixels"] == 4 * 32 * 32
        assert info["calibration"]["fpr"]["0.05"] <= 0.05
        assert set(info["training_statistics"]) == {
            "brightness",
            "contrast",
            "foreground",
            "foreground_width",
            "foreground_height",
            "appearance",
        }
        load_into(ReversedAutoEncoder(1, 32, tiny["channels"], 8, "batch"), trained / "model.pt")

    def test_curves_hold_every_term_and_a_picture(self, trained: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(trained))
        events.Reload()
        tags = events.Tags()
        terms = {"encoder_reconstruction", "encoder_kl", "encoder_embedding", "decoder_kl_fake", "loss"}
        assert terms | {"val_l1"} <= set(tags["scalars"])
        assert tags["images"] == ["anomaly"]


def test_volumes_are_cut_alike_in_training_and_inference(
    workflow: Any, bundle: Any, tiny: Overrides, tmp_path: Path
) -> None:
    folder = embedded_dataset()
    listed = read_json(folder / "volumes.json")
    items = {
        k: [{"image": str(folder / i["image"])} for i in listed[k][:2]] for k in ("training", "validation")
    }
    tiny |= {"dataset_dir": str(write_json(tmp_path / "datalist.json", items)), "output_dir": str(tmp_path)}
    tiny |= {"max_epochs": 1, "warmup_epochs": 0, "spacing": 7.0, "slice_range": [0.5, 0.6]}
    trained: ConfigWorkflow = bundle("train.json", tiny)
    weights = str(tmp_path / "model.pt")
    assert load_info(weights)["spacing"] == 7.0
    path = items["training"][1]["image"]
    network = {key: tiny[key] for key in ("image_size", "channels", "latent_size")}
    given = {"input": path, "weights": weights, "output_dir": str(tmp_path / "maps")}
    applied = workflow("inference.json", network | given, workflow_type="infer")
    applied.initialize()
    cut = applied.parser.get_parsed_content("preprocessing")({"image": path})["image"]
    data = trained.parser.get_parsed_content("train#dataset").tensors
    seen = data["image"][data["index"] == 1]
    assert len(seen) > 5
    slices = cut.as_tensor().movedim(-1, 0)
    first = next(i for i, one in enumerate(slices) if torch.equal(one, seen[0]))
    assert torch.equal(slices[first : first + len(seen)], seen)
    # The head is as large as 7 mm pixels say.
    affine = torch.as_tensor(cut.affine)
    torch.testing.assert_close(affine[:3, :2].norm(dim=0), torch.full((2,), 7.0, dtype=affine.dtype))


class TestResume:
    def test_after_a_power_cut_is_exact(
        self, workflow: Any, bundle: Any, tiny: Overrides, trained: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "out"
        # In the middle of the third epoch, the first after the warm-up: what it did is lost and done again.
        with pytest.raises(Exception, match="Failed to evaluate") as caught:
            bundle("train.json", tiny, output_dir=str(folder), before_run=_cut_power_at(8))
        assert isinstance(caught.value.__cause__, PowerCutError)
        assert _checkpoint(folder)["epoch"] == 2
        bundle("train.json", tiny, output_dir=str(folder), resume=True)
        _assert_same(_checkpoint(folder), _checkpoint(trained))
        assert sha256(folder / "model.pt") == sha256(trained / "model.pt")
        assert read_json(folder / "model.json") == read_json(trained / "model.json")

    @pytest.mark.slow
    def test_early_stop_goes_on_counting(self, bundle: Any, tiny: Overrides, tmp_path: Path) -> None:
        # Nothing learns without a rate, so no validation is better than the first one.
        tiny |= {
            "patience": 2,
            "warmup_epochs": 0,
            "learning_rate": 0.0,
            "norm": "affine",
            "max_epochs": 9,
            "output_dir": str(tmp_path),
        }
        with pytest.raises(RuntimeError):
            bundle("train.json", tiny, before_run=_cut_power_at(8))
        assert _checkpoint(tmp_path)["epoch"] == 2
        done: ConfigWorkflow = bundle("train.json", tiny, resume=True)
        assert done.parser.get_parsed_content("train#trainer").state.epoch == 3

    def test_without_a_checkpoint_is_refused(self, bundle: Any, tiny: Overrides, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError) as caught:
            bundle("train.json", tiny, output_dir=str(tmp_path / "out"), resume=True)
        assert isinstance(caught.value.__cause__, WeightsError)
        assert "no such checkpoint; start without resuming" in str(caught.value.__cause__)


class TestDeterminism:
    def test_another_seed_gives_other_weights(
        self, bundle: Any, tiny: Overrides, trained: Path, tmp_path: Path
    ) -> None:
        bundle("train.json", tiny | {"val_interval": 4}, output_dir=str(tmp_path), seed=1)
        one, other = (_checkpoint(folder)["state"]["network"] for folder in (trained, tmp_path))
        assert not any(torch.equal(one[k], other[k]) for k in one if one[k].ndim > 1)
        assert sha256(tmp_path / "model.pt") != sha256(trained / "model.pt")


class TestOverlays:
    @pytest.mark.parametrize(
        "overlays", [["ae.json"], ["sivae.json"], ["paper.json", "chest.json"]], ids="+".join
    )
    def test_train(self, bundle: Any, tiny: Overrides, tmp_path: Path, overlays: list[str]) -> None:
        tiny |= {"max_epochs": 1, "warmup_epochs": 0} if "ae.json" not in overlays else {"max_epochs": 1}
        if "ae.json" in overlays:
            del tiny["warmup_epochs"]
        done: ConfigWorkflow = bundle(["train.json", *overlays], tiny, output_dir=str(tmp_path))
        output = done.parser.get_parsed_content("train#trainer").state.output
        assert ("encoder_embedding" in output) == ("paper.json" in overlays)
        assert ("encoder_exp_elbo_fake" in output) == ("ae.json" not in overlays)
        if "ae.json" in overlays:
            assert float(output["encoder_kl"]) == 0
        assert load_info(tmp_path / "model.pt")["calibration"]["thresholds"]

    @pytest.mark.parametrize("key", ["max_epochs", "train#trainer#max_epochs"])
    def test_fewer_epochs_than_the_interval(
        self, bundle: Any, tiny: Overrides, tmp_path: Path, key: str
    ) -> None:
        for name in ("max_epochs", "warmup_epochs", "val_interval"):
            del tiny[name]
        done: ConfigWorkflow = bundle("train.json", tiny, output_dir=str(tmp_path), **{key: 2})
        assert done.parser.get_parsed_content("train#trainer").state.epoch == 2
        assert load_info(tmp_path / "model.pt")["epoch"] == 2

    def test_a_warm_up_that_does_not_fit_is_refused(
        self, bundle: Any, tiny: Overrides, tmp_path: Path
    ) -> None:
        with pytest.raises(RuntimeError) as caught:
            bundle("train.json", tiny | {"warmup_epochs": 5}, output_dir=str(tmp_path))
        cause: BaseException | None = caught.value
        while cause is not None and not isinstance(cause, ConfigError):
            cause = cause.__cause__
        assert "first_epochs=5 does not lie in 0 to max_epochs=4" in str(cause)


def _cut_power_at(iteration: int) -> Callable[[ConfigWorkflow], None]:
    def cut(_: Any) -> None:
        raise PowerCutError

    def add(made: ConfigWorkflow) -> None:
        trainer = made.parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), cut)

    return add


def test_the_segmenter_trains_and_outlines(
    bundle: Any, tiny: Overrides, dataset_dir: Path, tmp_path: Path
) -> None:
    """Its weights fit the network, know the healthy mean and bring thresholds."""
    settings = {**tiny, "output_dir": str(tmp_path), "max_epochs": 2, "val_interval": 1}
    bundle(["train.json", "scanners.json", "segmenter.json"], settings)
    info = load_info(tmp_path / "model.pt")
    assert (info["method"], info["metric"], info["epoch"]) == ("anomaly segmenter", "val_score", 2)
    assert 0 < info["value"] < 1
    assert info["calibration"]["thresholds"]["0.05"] > 0
    network = load_into(AnomalySegmenter(tiny["image_size"]), tmp_path / "model.pt")
    assert 0.1 < float(network.state_dict()["mean"].max()) <= 1, "the mean of the training images"
