"""Both networks on made-up pictures: they learn, resume, and refuse bad input before they start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from robustmed_monai.networks.risc import RotationCorrectedNet, RotNet, load_risc, resnet2d
from robustmed_monai.utils.errors import RobustMedError
from robustmed_monai.utils.weights import load_info, load_into, load_weights

Overrides = dict[str, Any]


class TestBothNetworks:
    def test_leave_one_network_and_its_parts(self, trained: Path) -> None:
        network = RotationCorrectedNet(RotNet(4, 1, 10, "small", 0.125), resnet2d(2, 1, 10, "small", 0.125))
        load_into(network, trained / "model.pt")
        info = load_info(trained / "model.pt")
        assert info["rotnet"]["stage"] == "rotnet"
        assert info["rotnet"]["temperature"] > 0
        assert info["classifier"]["class_names"] == ["cross", "disk"]
        assert {p.name for p in (trained / "rotnet").glob("*.pt")} == {"checkpoint.pt", "model.pt"}

    def test_rotnet_learns_the_rotation(self, trained: Path) -> None:
        assert load_info(trained / "rotnet" / "model.pt")["validation_accuracy"] > 0.8

    def test_resume_goes_on_with_the_stage_that_was_stopped(
        self, risc: Any, tiny: Overrides, tmp_path: Path
    ) -> None:
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        risc("train.json", tiny, output_dir=str(whole))
        schedule = {f"{part}#lr_lambda#max_epochs": 2 for part in ("scheduler", "rotnet#scheduler")}
        # The classifier stops after its first epoch; RotNet is done.
        begun = {**tiny, **schedule, "max_epochs": None, "rotnet_epochs": 2, "classifier_epochs": 1}
        risc("train.json", begun, output_dir=str(parts))
        before = (parts / "rotnet" / "checkpoint.pt").stat().st_mtime_ns
        risc("train.json", tiny | schedule, output_dir=str(parts), resume=True)
        assert (parts / "rotnet" / "checkpoint.pt").stat().st_mtime_ns == before
        one, other = (load_weights(folder / "model.pt") for folder in (whole, parts))
        assert all(torch.equal(one[key], other[key]) for key in one)

    def test_resume_of_rotnet_alone_goes_on_with_the_classifier(
        self, risc: Any, tiny: Overrides, tmp_path: Path
    ) -> None:
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        risc("train.json", tiny, output_dir=str(whole))
        run = ["@train_rotnet"]
        risc("train.json", tiny, output_dir=str(parts), run=run)
        risc("train.json", tiny, output_dir=str(parts), resume=True)
        assert (whole / "model.pt").read_bytes() == (parts / "model.pt").read_bytes()

    @pytest.mark.parametrize("changed", [{"seed": 99}, {"num_rotations": 8}])
    def test_resume_of_another_run_is_refused(
        self, risc: Any, tiny: Overrides, tmp_path: Path, changed: Overrides
    ) -> None:
        risc("train.json", {**tiny, "max_epochs": 1}, output_dir=str(tmp_path))
        before = (tmp_path / "model.pt").read_bytes()
        with pytest.raises(RuntimeError) as caught:
            risc("train.json", {**tiny, **changed}, output_dir=str(tmp_path), resume=True)
        assert any(_matches(error, next(iter(changed))) for error in _causes(caught.value))
        assert (tmp_path / "model.pt").read_bytes() == before


class TestOthers:
    @pytest.mark.parametrize("control", ["augmented.json", "p4.json"])
    def test_controls_train_alone(self, risc: Any, tiny: Overrides, tmp_path: Path, control: str) -> None:
        risc(["train.json", control], {**tiny, "max_epochs": 1}, output_dir=str(tmp_path))
        assert load_info(tmp_path / "classifier" / "model.pt")["metric"] == "val_cross_entropy"
        assert not (tmp_path / "rotnet").exists()

    def test_eight_rotations_train(self, risc: Any, tiny: Overrides, tmp_path: Path) -> None:
        risc("train.json", {**tiny, "max_epochs": 1}, output_dir=str(tmp_path), num_rotations=8)
        assert load_risc(tmp_path / "model.pt").rotnet.num_rotations == 8


class TestBadInput:
    """Each ends before any training starts."""

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            ({"num_rotations": 3}, "num_rotations=3; choose 4"),
            ({"num_classes": 3}, r"no training image of class\(es\) \[2\]"),
            ({"channels": 3}, "channel"),
            ({"depth": 20}, "choose a depth of"),
            ({"imagenet": "/nowhere/resnet.pth"}, "no such file"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_is_named(
        self, risc: Any, tiny: Overrides, tmp_path: Path, overrides: Overrides, message: str
    ) -> None:
        with pytest.raises((RuntimeError, RobustMedError)) as caught:
            risc("train.json", {**tiny, "depth": 18, **overrides}, output_dir=str(tmp_path))
        assert any(_matches(error, message) for error in _causes(caught.value))
        assert not list(tmp_path.rglob("*.pt"))

    def test_an_empty_folder(self, risc: Any, tiny: Overrides, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        empty = {**tiny, "dataset_dir": str(tmp_path / "empty")}
        with pytest.raises((RuntimeError, RobustMedError)) as caught:
            risc("train.json", empty, output_dir=str(tmp_path))
        assert any(_matches(error, "no images found") for error in _causes(caught.value))


def _causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found


def _matches(error: BaseException, message: str) -> bool:
    return isinstance(error, RobustMedError) and re.search(message, str(error)) is not None
