"""``robustmed stress`` on a foreign bundle: exit status, refusals, and its own preprocessing and grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from robustmed_monai import cli
from robustmed_monai.apps.stress import (
    UnsafeBundleError,
    bundle_model,
    datalist_data,
    make_suite,
    stress,
)
from robustmed_monai.apps.stress.measure import measure

Bundle = Callable[..., Path]
MEASURE = "robustmed_monai.apps.stress.run.measure"
SMALL = ["--suite", "geometry", "--severities", " 5 "]


def _words(folder: Path, datalist: Path, output: Path, *more: str) -> list[str]:
    given = ["--bundle", str(folder), "--data", str(datalist), "--output_dir", str(output), "--device", "cpu"]
    return ["stress", *given, *SMALL, *more]


def test_a_foreign_bundle(
    bundle: Bundle, datalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundle()
    more = ["--fail-under", "accuracy=0@rotation", "--suggest"]
    assert cli.main(_words(folder, datalist, tmp_path / "out", *more)) == 0
    said = capsys.readouterr().out
    assert "foreign on datalist.json, 24 images, 2 conditions." in said
    assert "met: accuracy=0@rotation" in said
    content = json.loads((tmp_path / "out" / "stress.json").read_text())
    assert content["model"]["weights_sha256"]
    assert content["data"]["subjects"] == 12
    # The same network on the same images, by hand.
    data = datalist_data(datalist)
    model = bundle_model(folder)
    (views,) = data.batches(100)
    batch = torch.stack(list(model.predict(views)))
    singles = torch.cat([torch.stack(list(model.predict(data.views(i)))) for i in range(len(data))])
    torch.testing.assert_close(batch, singles, atol=1e-5, rtol=1e-4)
    right = float((batch.argmax(1) == views.truth).double().mean())
    assert content["summary"]["clean"] == pytest.approx(right)


def test_status_1_where_a_requirement_is_not_met(bundle: Bundle, datalist: Path, tmp_path: Path) -> None:
    words = _words(bundle(), datalist, tmp_path / "out", "--limit", "4")
    assert cli.main([*words, "--fail-under", "accuracy=1.1"]) == 1


def test_an_unsafe_bundle_is_refused_before_anything_is_evaluated(
    bundle: Bundle, datalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "evaluated"
    folder = bundle(postprocessing=f"$__import__('pathlib').Path({str(trace)!r}).touch()")
    assert cli.main(_words(folder, datalist, tmp_path / "out")) == 3
    assert "not safe, so nothing of it was evaluated" in capsys.readouterr().err
    assert not trace.exists()
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnsafeBundleError):
        bundle_model(folder)


def test_unsafe_is_taken_when_it_is_said(bundle: Bundle, datalist: Path, tmp_path: Path) -> None:
    folder = bundle(network="$@network_def.float().to(@device) if __name__ else None")
    assert cli.main(_words(folder, datalist, tmp_path / "out")) == 3
    assert cli.main(_words(folder, datalist, tmp_path / "out", "--limit", "4", "--unsafe")) == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--suite", "nonsense"], "is not one of the suites"),
        (["--section", "training"], "no items in section 'training'"),
        (["--label_key", "grade"], 'has no "grade"'),
        (["--fail-under", "dice=1"], "there is no figure dice"),
        (["--config", "evaluate"], "has no config evaluate"),
        (["--no_such_key", "1"], "has no such key"),
        (["--data", "missing.json"], "no such file or folder"),
        (["--bundle", "missing"], "no such folder"),
        (["--limit", "0"], "give at least 1 image"),
        (["--limit", "x"], "invalid int"),
        (["--severities", "1,mild"], "give whole numbers from 1 to 5"),
        (["--severities", ""], "give whole numbers from 1 to 5"),
        (["--severities", "7"], "7"),
        (["--batch_size", "0"], "give at least 1"),
        (["--suite", "medmnist_c:bloodmnist,medmnist_c:tissuemnist"], "take one a run"),
    ],
)
def test_mistakes_end_in_a_sentence(
    bundle: Bundle,
    datalist: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    said: str,
) -> None:
    assert cli.main(_words(bundle(), datalist, tmp_path / "out", *more)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "missing.nii"}, "missing"),
        ({"label": "00.png"}, "give a whole number"),
        ({"label": None}, 'has no "label"'),
        ({"label": 7}, "give --num_classes"),
    ],
)
def test_bad_datalists(
    bundle: Bundle,
    datalist: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    said: str,
) -> None:
    content = json.loads(datalist.read_text())
    content["test"][3].update(change)
    datalist.write_text(json.dumps(content))
    assert cli.main(_words(bundle(), datalist, tmp_path / "out", "--num_classes", "2")) == 2
    assert said in capsys.readouterr().err


def test_weights_that_do_not_fit(
    bundle: Bundle, datalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundle(
        network_def={
            "_target_": "FullyConnectedNet",
            "in_channels": 4,
            "out_channels": 2,
            "hidden_channels": [3],
        }
    )
    assert cli.main(_words(folder, datalist, tmp_path / "out")) == 2
    assert "does not fit FullyConnectedNet" in capsys.readouterr().err


def test_volumes_come_back_to_their_grid(bundle: Bundle, tmp_path: Path) -> None:
    """One that sees one side of the body: a lying header costs it, a true one does not."""
    items = []
    for i in range(2):
        volume = np.zeros((16, 16, 10), np.int16)
        volume[2 + i : 8, 4:12, 2:8] = 900
        volume[9:14, 4:12, 2:8] = 600
        truth = (volume > 0).astype(np.uint8) + (volume > 600).astype(np.uint8)
        for name, voxels in (("image", volume), ("label", truth)):
            nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, 2.0, 3.0, 1.0])), tmp_path / f"{name}{i}.nii.gz")
        items.append({"image": f"image{i}.nii.gz", "label": f"label{i}.nii.gz"})
    (tmp_path / "datalist.json").write_text(json.dumps({"test": items}))
    before = {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
            {"_target_": "ScaleIntensityd", "keys": "image"},
            {"_target_": "SpatialCropd", "keys": "image", "roi_start": [0, 0, 0], "roi_end": [7, 16, 10]},
        ],
    }
    after = {
        "_target_": "Compose",
        "transforms": [
            {
                "_target_": "Invertd",
                "keys": "pred",
                "orig_keys": "image",
                "transform": "@preprocessing",
                "nearest_interp": True,
            },
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": str(tmp_path / "saved")},
        ],
    }
    folder = bundle(
        weights=False,
        network_def={"_target_": "torch.nn.Identity"},
        preprocessing=before,
        postprocessing=after,
    )
    model = bundle_model(folder, device="cpu")
    data = datalist_data(tmp_path / "datalist.json", num_classes=3)
    assert data.task == "segmentation"
    (first, *_) = data.batches(2)
    shown = model.predict(first)
    assert [tuple(labels.shape) for labels in shown] == [(1, 16, 16, 10)] * 2
    content = stress(model, data, make_suite(["orientation", "orientation_true"], data), tmp_path / "out")
    dice = {row["id"]: row["figures"]["dice"]["mean"] for row in content["conditions"]}
    assert 0.1 < dice["clean"] < 0.9
    assert all(v == dice["clean"] for name, v in dice.items() if name.startswith("orientation_true"))
    assert abs(dice["orientation/flip_x"] - dice["clean"]) > 0.05
    assert dice["orientation/flip_y"] == dice["clean"]
    assert not (tmp_path / "saved").exists()


def test_an_answer_of_another_name_and_an_overlay(
    bundle: Bundle, squares_on_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "CopyItemsd", "keys": "pred", "names": "found"},
            {"_target_": "AsDiscreted", "keys": "found", "threshold": 0.5},
        ],
    }
    folder = bundle(weights=False, network_def={"_target_": "torch.nn.Identity"}, postprocessing=after)
    overlay = {"preprocessing": {"_target_": "Compose", "transforms": []}}
    (folder / "configs" / "as_they_are.json").write_text(json.dumps(overlay))
    words = _words(folder, squares_on_disk, tmp_path / "out", "--config", "inference,as_they_are")
    assert cli.main([*words, "--output_key", "found", "--fail-under", "dice=1"]) == 0
    assert cli.main([*words, "--output_key", "mask"]) == 2
    assert "no mask; say --output_key" in capsys.readouterr().err
    beside = ["--baseline", str(folder), "--baseline_config", "inference,as_they_are"]
    words = [*words, "--output_key", "found", *beside]
    assert cli.main([*words, "--baseline_output_key", "found"]) == 0
    rows = json.loads((tmp_path / "out" / "stress.json").read_text())["conditions"]
    assert all(row["baseline_figures"]["dice"]["mean"] == row["figures"]["dice"]["mean"] for row in rows)
    assert cli.main([*words, "--baseline_output_key", "mask"]) == 2


def test_an_inferer_that_gives_a_map(bundle: Bundle, squares_on_disk: Path, tmp_path: Path) -> None:
    after = {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "CopyItemsd", "keys": "anomaly_map", "names": "found"},
            {"_target_": "AsDiscreted", "keys": "found", "threshold": 0.5},
        ],
    }
    inferer = {"_target_": "robustmed_monai.inferers.MemoryInferer"}
    identity = {"_target_": "torch.nn.Identity"}
    folder = bundle(weights=False, network_def=identity, inferer=inferer, postprocessing=after)
    (folder / "configs" / "as_they_are.json").write_text('{"preprocessing": {"_target_": "Compose"}}')
    words = _words(folder, squares_on_disk, tmp_path / "out", "--config", "inference,as_they_are")
    assert cli.main([*words, "--output_key", "found", "--fail-under", "dice=1"]) == 0


def test_an_image_that_a_segmentation_refuses_has_no_labels(
    bundle: Bundle, squares_on_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Equalisation takes images in [0, 1] alone.
    steps = [{"_target_": "robustmed_monai.transforms.EqualizeAdaptHistd", "keys": "image"}]
    before = {"_target_": "Compose", "transforms": steps}
    folder = bundle(weights=False, network_def={"_target_": "torch.nn.Identity"}, preprocessing=before)
    model = bundle_model(folder)
    data = datalist_data(squares_on_disk, num_classes=2)
    views = data.views(0)
    assert not model.predict(views.with_images(views.images * 300, None))[0].any()
    assert "refused, which counts as an image without labels" in caplog.text


def test_a_config_that_cannot_be_made(
    bundle: Bundle, datalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundle(inferer={"_target_": "SlidingWindowInferer", "no_such_argument": 1})
    assert cli.main(_words(folder, datalist, tmp_path / "out")) == 2
    assert "inferer of the bundle cannot be made" in capsys.readouterr().err


def test_stopped_and_gone_on(
    bundle: Bundle, datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = _words(bundle(), datalist, tmp_path / "out")
    measured: list[str] = []

    def stop_at_the_third(case: Any, *rest: Any) -> Any:
        measured.append(str(case))
        if len(measured) == 3:
            raise KeyboardInterrupt
        return measure(case, *rest)

    monkeypatch.setattr(MEASURE, stop_at_the_third)
    assert cli.main(words) == 130
    assert len(list((tmp_path / "out" / "conditions").iterdir())) == 2
    assert not (tmp_path / "out" / "stress.json").exists()
    monkeypatch.setattr(MEASURE, measure)
    assert cli.main(words) == 0
