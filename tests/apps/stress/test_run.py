"""A whole run: what is written, restart, gates, baseline, remedies, requirements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from robustmed_monai.apps.stress import (
    Model,
    StressData,
    callable_model,
    read_requirement,
    stress,
    tensor_data,
)
from robustmed_monai.apps.stress.pictures import extreme_cases
from robustmed_monai.apps.stress.remedies import input_remedy, rotation_remedy
from robustmed_monai.apps.stress.suites import CLEAN
from robustmed_monai.transforms.corruption.suite import Case, CorruptionSuite
from robustmed_monai.utils.bundle import bundle_root
from robustmed_monai.utils.errors import ConfigError, DataError, ImageError

WEIGHT = torch.ones(1)


def bright_side(images: Tensor) -> Tensor:
    """Logits of dark and bright, by weights that stand elsewhere, as a network in a notebook does."""
    mean = images.mean((1, 2, 3)) - 0.5
    return torch.stack([-mean, mean], 1) * WEIGHT


def _settled(content: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the clock."""
    kept = {k: v for k, v in content.items() if k != "provenance"}
    return {**kept, "conditions": [{**c, "seconds": 0} for c in content["conditions"]]}


@pytest.fixture
def content(model: Model, data: StressData, suite: CorruptionSuite, tmp_path: Path) -> dict[str, Any]:
    return stress(model, data, suite, tmp_path / "out")


def test_figures_are_those_by_hand(
    content: dict[str, Any], pictures: tuple[Tensor, Tensor], suite: CorruptionSuite
) -> None:
    images, labels = pictures
    assert content["conditions"][0]["id"] == "clean"
    assert content["summary"]["clean"] == 1.0
    for case, row in zip(suite.cases, content["conditions"][1:], strict=True):
        found = (suite.apply(images, case).mean((1, 2, 3)) > 0.5).long()
        assert row["figures"]["accuracy"]["mean"] == pytest.approx(float((found == labels).double().mean()))
        low, high = row["figures"]["accuracy"]["ci95"]
        assert low <= row["figures"]["accuracy"]["mean"] <= high
    by_id = {row["id"]: row["figures"]["accuracy"]["mean"] for row in content["conditions"]}
    assert by_id["imagenet_c/brightness/5"] == 0.5
    assert by_id["orientation/flip_x"] == 1.0
    assert content["summary"]["first_drop"]["imagenet_c/brightness"] == 3
    assert content["summary"]["worst_class"]["class"] == "0"


def test_the_file_and_the_pictures(content: dict[str, Any], tmp_path: Path) -> None:
    assert json.loads((tmp_path / "out" / "stress.json").read_text()) == content
    assert content["format"] == "robustmed stress 2"
    assert content["data"] == {**content["data"], "images": 24, "subjects": 12}
    for kind in ("worst", "least"):
        entries = content["cases"][kind]
        assert len({entry["image"] for entry in entries}) == len(entries) == 6
        for entry in entries:
            with Image.open(tmp_path / "out" / entry["stressed_png"]) as picture:
                assert picture.size == (20, 20)
    worst = content["cases"]["worst"][0]
    assert worst["before"] - worst["after"] > 0.5
    assert worst["prediction"] != worst["label"]


def test_restart_is_as_if_nothing_happened(
    content: dict[str, Any], data: StressData, suite: CorruptionSuite, model: Model, tmp_path: Path
) -> None:
    seen: list[int] = []

    def counting(views: Any) -> Any:
        seen.append(len(views))
        return model.predict(views)

    counted = model._replace(predict=counting)
    files = sorted((tmp_path / "out" / "conditions").iterdir())
    for path in files[3:]:
        path.unlink()
    files[1].write_text("{torn")
    again = stress(counted, data, suite, tmp_path / "out")
    assert _settled(again) == _settled(content)
    once = sum(seen)
    assert once < 24 * len(files)
    stress(counted, data, suite, tmp_path / "out")
    # What is shown: the check of the first image, and the pictures of the cases.
    assert sum(seen) - once == 1 + 12
    other = stress(callable_model(lambda x: -x.mean((2, 3)), "other"), data, suite, tmp_path / "out")
    assert other["summary"]["clean"] != content["summary"]["clean"]


def test_batches_do_not_matter(
    content: dict[str, Any], model: Model, data: StressData, suite: CorruptionSuite, tmp_path: Path
) -> None:
    singles = stress(model, data, suite, tmp_path / "singles", batch_size=1)
    assert [c["figures"] for c in singles["conditions"]] == [c["figures"] for c in content["conditions"]]


def test_segmentation(segmenter: Model, squares: StressData, suite: CorruptionSuite, tmp_path: Path) -> None:
    content = stress(segmenter, squares, suite, tmp_path)
    assert content["main"] == "dice"
    by_id = {row["id"]: row["figures"] for row in content["conditions"]}
    assert by_id["clean"]["dice"]["mean"] == 1.0
    assert by_id["clean"]["hd95"]["mean"] == 0.0
    assert by_id["orientation/turn_90"]["dice"]["mean"] == 1.0
    assert by_id["imagenet_c/gaussian_noise/5"]["dice"]["mean"] < 0.9
    entry = content["cases"]["worst"][0]
    with Image.open(tmp_path / entry["prediction_png"]) as picture:
        assert picture.mode == "RGB"
    assert entry["label"] is None


def test_baseline_and_gates(model: Model, data: StressData, suite: CorruptionSuite, tmp_path: Path) -> None:
    def late(images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3)) - 0.05
        return torch.stack([0.5 - mean, mean - 0.5], 1) * 20

    gates = {"bright": lambda images: images.mean((1, 2, 3)) > 0.7}
    content = stress(model, data, suite, tmp_path, baseline=callable_model(late, "late"), gates=gates)
    assert content["baseline"]["name"] == "late"
    row = {c["id"]: c for c in content["conditions"]}["imagenet_c/brightness/5"]
    assert row["baseline_figures"]["accuracy"]["mean"] >= row["figures"]["accuracy"]["mean"]
    assert row["gates"]["bright"]["warned"] > 0.9
    assert row["gates"]["bright"]["warned_when_wrong"] > 0.9
    gate = content["summary"]["gates"]["bright"]
    assert gate["warned_when_clean"] == 0
    assert gate["lost"] > 0
    assert (
        content["summary"]["mean_corruption_error"] is None or content["summary"]["mean_corruption_error"] > 1
    )


def test_remedies_are_measured(
    model: Model, data: StressData, pictures: tuple[Tensor, Tensor], suite: CorruptionSuite, tmp_path: Path
) -> None:
    remedies = {
        "darker": input_remedy(lambda images: images - 0.4, "darker"),
        "nothing": input_remedy(torch.clone, "nothing"),
    }
    content = stress(model, data, suite, tmp_path, remedies=remedies)
    assert content["remedies"] == {"names": ["darker", "nothing"], "conditions": 2}
    assert {row["what"] for row in content["suggestions"]} == {"darker"}
    row = next(row for row in content["suggestions"] if row["condition"] == "imagenet_c/brightness/5")
    images, labels = pictures
    case = next(case for case in suite.cases if str(case) == "imagenet_c/brightness/5")
    bright = suite.apply(images, case)

    def accuracy(shown: Tensor) -> float:
        return float(((shown.mean((1, 2, 3)) > 0.5) == (labels == 1)).double().mean())

    without, with_it, given = (accuracy(x) for x in (bright, bright - 0.4, images - 0.4))
    assert (row["without"], row["with_it"]) == (pytest.approx(without), pytest.approx(with_it))
    assert row["gives_back"]["mean"] == pytest.approx(with_it - without)
    assert row["as_given"]["mean"] == pytest.approx(given - 1)


def test_remedies_are_tried_at_the_highest_severity_whatever_the_order(
    model: Model, data: StressData, tmp_path: Path
) -> None:
    row = {"family": "imagenet_c", "name": "brightness", "severity": [5, 4, 5]}
    suite = CorruptionSuite("falling", 3, [row])
    remedies = {"darker": input_remedy(lambda images: images - 0.4, "darker")}
    content = stress(model, data, suite, tmp_path, remedies=remedies)
    assert [row["condition"] for row in content["suggestions"]] == ["imagenet_c/brightness/5"]


def test_requirements(model: Model, data: StressData, suite: CorruptionSuite, tmp_path: Path) -> None:
    texts = ["accuracy=.9", "accuracy=.9@brightness:5", "ece=0.9@*", "accuracy=.4@imagenet_c"]
    content = stress(model, data, suite, tmp_path, requirements=[read_requirement(t) for t in texts])
    assert [r["passed"] for r in content["requirements"]] == [True, False, True, True]
    assert content["requirements"][1]["value"] == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("accuracy>0.9", "write <figure>=<bound>"),
        ("accuracy=--", "write <figure>=<bound>"),
        ("dice=.8", "there is no figure dice"),
        ("accuracy=.8@snow:3", "no condition is that"),
    ],
)
def test_requirements_about_nothing_are_refused_first(
    model: Model, data: StressData, suite: CorruptionSuite, tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        stress(model, data, suite, tmp_path / "out", requirements=[read_requirement(text)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: "cat", "gives str"),
        (lambda x: torch.zeros(1, 7, 2, 2), "a classifier gives"),
        (lambda x: torch.full((len(x), 2), float("nan")), "NaN or infinite"),
        (lambda x: torch.zeros(len(x) + 1, 2), "one each"),
    ],
)
def test_models_that_are_none(
    data: StressData, suite: CorruptionSuite, tmp_path: Path, function: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        stress(callable_model(function), data, suite, tmp_path / "out")


def test_a_model_with_too_few_classes(data: StressData, suite: CorruptionSuite, tmp_path: Path) -> None:
    images = torch.stack([data.views(i).images[0] for i in range(6)])
    three = tensor_data(images, torch.tensor([0, 1, 2, 0, 1, 2]))
    with pytest.raises(ConfigError, match="tells 2 classes apart"):
        stress(callable_model(lambda x: torch.zeros(len(x), 2)), three, suite, tmp_path / "out")
    with pytest.raises(ConfigError, match="beside: tells 2 classes apart"):
        stress(
            callable_model(lambda x: torch.zeros(len(x), 3)),
            three,
            suite,
            tmp_path / "out",
            baseline=callable_model(lambda x: torch.zeros(len(x), 2), "beside"),
        )
    assert not (tmp_path / "out").exists()


def test_tensors_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="give as many"):
        tensor_data(torch.rand(3, 1, 8, 8), torch.zeros(2))
    with pytest.raises(ImageError, match=r"values from .*; give images in \[0, 1\]"):
        tensor_data(torch.rand(2, 1, 8, 8) * 255, torch.tensor([0, 1]))


def test_probabilities_of_one_column_are_not_taken_for_logits(data: StressData, tmp_path: Path) -> None:
    suite = CorruptionSuite.geometry([1])
    with pytest.raises(ConfigError, match="single column looks like probabilities"):
        stress(callable_model(lambda x: x.mean((2, 3))), data, suite, tmp_path / "out")


def test_a_network_that_a_function_finds_by_its_name_counts(data: StressData, tmp_path: Path) -> None:
    suite = CorruptionSuite.geometry([1])
    first = stress(callable_model(bright_side, "net"), data, suite, tmp_path / "out")
    WEIGHT.neg_()
    second = stress(callable_model(bright_side, "net"), data, suite, tmp_path / "out")
    WEIGHT.neg_()
    assert (first["summary"]["clean"], second["summary"]["clean"]) == (1.0, 0.0)


def test_rotation_is_undone_in_square_pictures_alone(data: StressData, tmp_path: Path) -> None:
    remedy = rotation_remedy(bundle_root("risc") + "/models/model.pt")
    model = callable_model(lambda x: torch.stack([0.5 - x.mean((1, 2, 3)), x.mean((1, 2, 3)) - 0.5], 1))
    oblong = tensor_data(torch.rand(4, 1, 16, 24), torch.tensor([0, 1, 0, 1]))
    views = oblong.views(0)
    assert torch.equal(remedy(model).predict(views)[0], model.predict(views)[0])


def test_a_case_whose_structure_is_gone_is_no_extreme_case() -> None:
    gone, seen = Case("acquisition", "cut_off", 5), Case("mr", "motion", 5)
    found: dict[Case, dict[str, Any]] = {
        CLEAN: {"dice": [[0.8], [0.6]]},
        gone: {"dice": [[None], [0.4]]},
        seen: {"dice": [[0.7], [0.6]]},
    }
    worst, least = extreme_cases(found, [], count=4)
    assert worst == [(1, gone), (0, seen)]
    assert least == [(0, seen)]
