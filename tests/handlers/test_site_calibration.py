"""Healthy images of a site become a file; with it every report says how unusual its image is there."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ignite.engine import Engine

from robustmed_monai.handlers.result_writer import ResultWriter
from robustmed_monai.handlers.site_calibration import SiteCalibrator, load_site, mask_threshold, value_at
from robustmed_monai.utils.errors import ConfigError, DataError, ImageError
from robustmed_monai.utils.files import read_json

SETTINGS = ({"weights": 1},)


def report(i: float, assessed: bool = True) -> dict[str, Any]:
    score = float(i) if assessed else None
    slices = [{"slice": 0, "score": score}, {"slice": 1, "score": None if score is None else score / 2}]
    known = {"image": f"{i}.nii", "threshold_fpr": 0.05, "map_maximum": 10.0 * i}
    return {**known, "score": score, "scores": {"elbo": score}, "slices": slices}


def make(path: Path, reports: list[dict[str, Any]], **more: Any) -> Path:
    writer: Any = SimpleNamespace(output_dir=path, reports=lambda: reports)
    given = {"score": "score", "slice_score": "score", "made_from": SETTINGS, **more}
    written = SiteCalibrator(writer, path / "site.json", **given).write()
    assert written is not None
    return written


def test_an_image_that_could_not_be_used_costs_the_site_nothing(tmp_path: Path) -> None:
    files = [{"image": str(tmp_path / "in" / f"{i}.nii")} for i in range(3)]
    (tmp_path / "in").mkdir()
    for i, item in enumerate(files):
        Path(item["image"]).write_text("bad" if i == 0 else "good")

    def iterate(engine: Engine, item: dict[str, str]) -> dict[str, Any]:
        bad = Path(item["image"]).read_text() == "bad"
        return {"path": item["image"], "warnings": [], **({"error": "is bad"} if bad else {})}

    writer = ResultWriter(tmp_path / "out", files, {}, lambda output: {"score": 1.0, "slices": []})
    engine = Engine(iterate)
    writer.attach(engine)
    SiteCalibrator(writer, tmp_path / "site.json", "score").attach(engine)
    with pytest.raises(ImageError, match="1 of 3 images could not be used"):
        engine.run(writer.pending())
    assert len(read_json(tmp_path / "site.json")["scores"]) == 2


@pytest.fixture
def nineteen(tmp_path: Path) -> Path:
    """Healthy images with scores of 1 to 19, and one that was not assessed."""
    return make(tmp_path, [*(report(i) for i in range(1, 20)), report(0, assessed=False)])


def test_p_values_of_image_and_slices(nineteen: Path) -> None:
    site = load_site(nineteen, SETTINGS)
    assert site is not None
    found = site.complete(report(18.5))
    assert found["p_value"] == 2 / 20
    assert [entry["p_value"] for entry in found["slices"]] == [2 / 20, 11 / 20]
    assert found["site"] == {"file": "site.json", "sha256": site.sha256, "images": 19}
    assert found["threshold_fpr"] == 0.05
    unknown = site.complete(report(0, assessed=False))
    assert unknown["p_value"] is None
    assert [entry["p_value"] for entry in unknown["slices"]] == [None, None]


def test_a_low_value_may_be_the_abnormal_one(tmp_path: Path) -> None:
    path = make(tmp_path, [report(i) for i in range(1, 10)], score="scores.elbo", slice_score=None, sign=-1)
    site = load_site(path, SETTINGS)
    assert site is not None
    assert [site.complete(report(i))["p_value"] for i in (0.5, 5, 20)] == [0.1, 0.6, 1.0]
    assert "p_value" not in site.complete(report(1))["slices"][0]


def test_the_mask_takes_the_threshold_of_a_share_of_images(nineteen: Path) -> None:
    assert mask_threshold(None, 0.25) == 0.25
    assert mask_threshold(load_site(nineteen, SETTINGS), None) is None
    site = load_site(nineteen, SETTINGS, share=0.05)
    assert site is not None
    assert mask_threshold(site, 0.25) == np.nextafter(np.float32(190), np.float32(np.inf))
    found = site.complete(report(3))
    assert found["site"]["share"] == 0.05
    assert "threshold_fpr" not in found


def test_too_few_images_for_a_share_are_an_error_when_the_file_is_read(nineteen: Path) -> None:
    with pytest.raises(ConfigError, match=r"19 healthy images cannot vouch for it; 99 or more are needed"):
        load_site(nineteen, SETTINGS, share=0.01)


def test_what_does_not_fit_is_refused(nineteen: Path, tmp_path: Path) -> None:
    assert load_site(None) is None
    with pytest.raises(ConfigError, match=r"share=0.05: needs --site"):
        load_site(None, share=0.05)
    with pytest.raises(ConfigError, match="other weights or settings"):
        load_site(nineteen, ({"weights": 2},))
    content = json.loads(nineteen.read_text())
    nineteen.write_text(json.dumps({**content, "scores": [0.0] * 19}))
    with pytest.raises(DataError, match="was changed after it was written"):
        load_site(nineteen, SETTINGS)
    nineteen.write_text("{}")
    with pytest.raises(DataError, match="no file of `robustmed calibrate`"):
        load_site(nineteen, SETTINGS)
    with pytest.raises(DataError, match="none of 1 images was assessed"):
        make(tmp_path, [report(0, assessed=False)])
    with pytest.raises(ConfigError, match=r"score='elbo': the reports have \['image'"):
        make(tmp_path, [report(1)], score="elbo")
    assert value_at({"a": {"b": None}}, "a.b") is None


def test_a_method_without_a_map_has_no_share(tmp_path: Path) -> None:
    reports = [{k: v for k, v in report(i).items() if k != "map_maximum"} for i in range(1, 30)]
    path = make(tmp_path, reports)
    assert load_site(path, SETTINGS) is not None
    with pytest.raises(ConfigError, match="a method without an anomaly map"):
        load_site(path, SETTINGS, share=0.05)


def test_the_file_says_what_made_it(nineteen: Path) -> None:
    content = json.loads(nineteen.read_text())
    assert content["images"][0] == "1.nii"
    assert len(content["images"]) == 19
    assert {"command", "commit", "versions"} <= content["provenance"].keys()
