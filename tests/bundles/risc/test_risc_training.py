"""Both stages on made-up pictures: they learn, resume, and refuse bad input before they start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from robustmed_monai.apps.stages import DONE
from robustmed_monai.networks.risc import RotationCorrectedNet, RotNet, resnet2d
from robustmed_monai.utils.errors import RobustMedError
from robustmed_monai.utils.weights import load_info, load_into, load_weights

Overrides = dict[str, Any]


class TestBothStages:
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

    def test_resume_does_not_repeat_what_is_done(
        self, risc: Any, trained: Path, pictures: Path, small: Overrides
    ) -> None:
        before = {p: p.stat().st_mtime_ns for p in trained.rglob("checkpoint.pt")}
        assert (trained / "rotnet" / DONE).is_file()
        again = {**small, "dataset_dir": str(pictures), "output_dir": str(trained), "max_epochs": 20}
        risc("train.json", again, resume=True)
        assert {p: p.stat().st_mtime_ns for p in trained.rglob("checkpoint.pt")} == before


class TestOneStage:
    @pytest.mark.parametrize("overlays", [[], ["augmented.json"], ["p4.json"]])
    def test_classifiers_train(self, risc: Any, tiny: Overrides, tmp_path: Path, overlays: list[str]) -> None:
        risc(["train_classifier.json", *overlays], {**tiny, "max_epochs": 1}, output_dir=str(tmp_path))
        assert load_info(tmp_path / "model.pt")["metric"] == "val_cross_entropy"

    def test_eight_rotations_train(self, risc: Any, tiny: Overrides, tmp_path: Path) -> None:
        risc("train_rotnet.json", {**tiny, "max_epochs": 1}, output_dir=str(tmp_path), num_rotations=8)
        assert load_weights(tmp_path / "model.pt")["head.2.weight"].shape[0] == 8

    def test_the_same_seed_gives_the_same_bits_and_resuming_too(
        self, risc: Any, tiny: Overrides, tmp_path: Path
    ) -> None:
        risc("train_rotnet.json", tiny, output_dir=str(tmp_path / "whole"))
        schedule = {"schedule#max_epochs": 2, "schedule#first_epochs": 2}
        risc("train_rotnet.json", {**tiny, **schedule, "max_epochs": 1}, output_dir=str(tmp_path / "parts"))
        risc("train_rotnet.json", tiny | schedule, output_dir=str(tmp_path / "parts"), resume=True)
        whole, parts = (load_weights(tmp_path / name / "model.pt") for name in ("whole", "parts"))
        assert all(torch.equal(whole[k], parts[k]) for k in whole)


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
            risc("train_classifier.json", {**tiny, "depth": 18, **overrides}, output_dir=str(tmp_path))
        assert any(_matches(error, message) for error in _causes(caught.value))
        assert not list(tmp_path.glob("*.pt"))

    def test_an_empty_folder(self, risc: Any, tiny: Overrides, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        empty = {**tiny, "dataset_dir": str(tmp_path / "empty")}
        with pytest.raises((RuntimeError, RobustMedError)) as caught:
            risc("train_rotnet.json", empty, output_dir=str(tmp_path))
        assert any(_matches(error, "no images found") for error in _causes(caught.value))


def _causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found


def _matches(error: BaseException, message: str) -> bool:
    return isinstance(error, RobustMedError) and re.search(message, str(error)) is not None
