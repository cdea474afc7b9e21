from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from robustmed_monai.handlers.anomaly_files import AnomalyFileWriter
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.utils.errors import ConfigError, ImageError
from robustmed_monai.utils.files import read_json
from robustmed_monai.visualize.sheets import anomaly_sheet

CALIBRATION = {"thresholds": {"0.01": 0.2, "0.05": 0.1}}


def _run(writer: AnomalyFileWriter, outputs: list[dict[str, Any]]) -> None:
    engine = Engine(lambda _, output: output)
    writer.attach(engine)
    # All engines share this logger: left disabled, other tests would find nothing logged.
    engine.logger.disabled = True
    try:
        engine.run(outputs)
    finally:
        engine.logger.disabled = False


@pytest.fixture
def output(tmp_path: Path) -> Any:
    """`output(name, shape, strange)`: what a FileIteration says of a picture with that path."""

    def make(name: str = "a/head.png", strange: dict[int, list[str]] | None = None) -> dict[str, Any]:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 5), 100, np.uint8)).save(path)
        maps = torch.linspace(0, 0.29, 30).reshape(1, 5, 6)
        image = torch.full((1, 1, 6, 6), 0.5)
        return {
            "path": str(path),
            "meta": LoadCheckedImage()(path).meta,
            "slices": {"image": image, "pred": image / 2, "anomaly_map": image / 2, "index": torch.arange(1)},
            "pred": torch.full((1, 5, 6), 51.0),
            "anomaly_map": maps,
            "assessed": torch.ones_like(maps),
            "full_scale": 255.0,
            "scores": torch.tensor([0.25]),
            "unfamiliar": {0: []} if strange is None else strange,
            "warnings": [],
        }

    return make


class TestFiles:
    def test_pictures_show_fixed_ranges(self, output: Any, tmp_path: Path) -> None:
        _run(AnomalyFileWriter(tmp_path / "out", CALIBRATION, vmax=0.2), [output()])
        read = {p.stem: np.asarray(Image.open(p)).T for p in (tmp_path / "out" / "head").glob("*.png")}
        expected = torch.linspace(0, 0.29, 30).reshape(5, 6).numpy()
        np.testing.assert_allclose(read["anomaly_map"], 255 * (expected / 0.2).clip(max=1), atol=0.51)
        assert np.array_equal(read["anomaly_mask"], 255 * (expected >= np.float32(0.1)))
        assert (read["pseudo_healthy"] == 51).all()
        assert "worst_slices" in read

    def test_white_is_four_thresholds_by_default(self) -> None:
        assert AnomalyFileWriter("out", CALIBRATION).vmax == pytest.approx(0.4)
        assert AnomalyFileWriter("out", CALIBRATION, fpr=0.01).vmax == pytest.approx(0.8)

    def test_report_says_how_the_mask_was_cut(self, output: Any, tmp_path: Path) -> None:
        given = output()
        _run(AnomalyFileWriter(tmp_path / "out", CALIBRATION, fpr=0.01), [given])
        report = read_json(tmp_path / "out" / "head" / "scores.json")
        assert (report["threshold"], report["threshold_fpr"]) == (0.2, 0.01)
        assert report["anomalous_voxels"] == int((given["anomaly_map"] >= 0.2).sum())
        assert report["score"] == 0.25
        assert report["score_of"] == "1 of 1 slices"
        assert report["slices"] == [{"slice": 0, "score": 0.25, "warnings": []}]

    def test_the_mask_leaves_out_what_was_not_assessed(self, output: Any, tmp_path: Path) -> None:
        given = output()
        given["assessed"][..., 3:] = 0
        _run(AnomalyFileWriter(tmp_path / "out", CALIBRATION), [given])
        mask = np.asarray(Image.open(tmp_path / "out" / "head" / "anomaly_mask.png")).T > 0
        assert np.array_equal(mask, (given["anomaly_map"][0] >= 0.1).numpy() & (np.arange(6) < 3))

    def test_same_names_get_folders_of_their_own(
        self, output: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(AnomalyFileWriter, "_sheet", lambda *_: None)
        names = ["a/head.png", "b/head.png", "c/head.png", "d/head.1.png"]
        _run(AnomalyFileWriter(tmp_path / "out", CALIBRATION), [output(name) for name in names])
        summary = read_json(tmp_path / "out" / "summary.json")
        assert [e["folder"] for e in summary["images"]] == ["head", "head-2", "head-3", "head.1"]
        assert all((tmp_path / "out" / e["folder"] / "scores.json").is_file() for e in summary["images"])

    def test_a_second_run_replaces_the_first(self, output: Any, tmp_path: Path) -> None:
        for _ in range(2):
            _run(AnomalyFileWriter(tmp_path / "out", CALIBRATION), [output()])
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["head", "summary.json"]


class TestScores:
    @pytest.fixture
    def stack(self, output: Any) -> Any:
        """The same with five slices, of which the strange ones are given."""

        def make(strange: dict[int, list[str]]) -> dict[str, Any]:
            image = torch.full((5, 1, 6, 6), 0.5)
            slices = {
                "image": image,
                "pred": image,
                "anomaly_map": image,
                "index": torch.tensor(list(strange)),
            }
            scores = torch.tensor([0.0, 0.9, 0.2, 0.4, 0.0])
            return {**output(), "slices": slices, "scores": scores, "unfamiliar": strange}

        return make

    def _report(self, writer: AnomalyFileWriter, given: dict[str, Any]) -> dict[str, Any]:
        _run(writer, [given])
        report: dict[str, Any] = read_json(writer.output_dir / "head" / "scores.json")
        return report

    def test_strange_slices_do_not_count(self, stack: Any, tmp_path: Path) -> None:
        report = self._report(AnomalyFileWriter(tmp_path, CALIBRATION), stack({1: ["odd"], 2: [], 3: []}))
        assert report["score"] == pytest.approx(0.3)
        assert report["score_of"] == "2 of 5 slices"
        assert [entry["slice"] for entry in report["slices"]] == [1, 2, 3]
        assert report["slices"][0]["warnings"] == ["odd"]

    def test_unless_all_are(self, stack: Any, tmp_path: Path) -> None:
        report = self._report(AnomalyFileWriter(tmp_path, CALIBRATION), stack({1: ["odd"], 2: ["odd"]}))
        assert report["score"] == pytest.approx(0.55)
        assert report["score_of"] == "2 of 5 slices, none like the training data"

    def test_an_empty_image_scores_zero_and_has_no_sheet(self, stack: Any, tmp_path: Path) -> None:
        report = self._report(AnomalyFileWriter(tmp_path, CALIBRATION), stack({}))
        assert (report["score"], report["slices"]) == (0.0, [])
        assert not (tmp_path / "head" / "worst_slices.png").exists()

    def test_sheet_shows_the_highest_scores(
        self, stack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown: list[str] = []

        def record(*panels: Any, **settings: Any) -> Any:
            shown.extend(settings["titles"])
            return anomaly_sheet(*panels, **settings)

        monkeypatch.setattr("robustmed_monai.handlers.anomaly_files.anomaly_sheet", record)
        writer = AnomalyFileWriter(tmp_path, CALIBRATION, worst=2)
        self._report(writer, stack({i: [] for i in range(5)}))
        assert shown == ["slice 1\nscore 0.9000", "slice 3\nscore 0.4000"]


class TestFailures:
    def test_are_told_at_the_end(self, output: Any, tmp_path: Path) -> None:
        bad = {"path": str(tmp_path / "bad.nii"), "error": f"{tmp_path}/bad.nii: is empty; get it again."}
        with pytest.raises(ImageError, match=r"1 of 2 images could not be used:\n  .*bad.nii: is empty"):
            _run(AnomalyFileWriter(tmp_path / "out", CALIBRATION), [bad, output()])
        summary = read_json(tmp_path / "out" / "summary.json")
        assert summary["failed"] == {bad["path"]: bad["error"]}
        assert [e["folder"] for e in summary["images"]] == ["head"]
        assert (tmp_path / "out" / "head" / "anomaly_map.png").is_file()

    @pytest.mark.parametrize(
        ("calibration", "known"), [(CALIBRATION, r"\['0.01', '0.05'\]"), (None, r"\[\]"), ({}, r"\[\]")]
    )
    def test_a_rate_without_threshold_is_refused(self, calibration: Any, known: str) -> None:
        with pytest.raises(ConfigError, match=rf"fpr=0.1: the weights are calibrated at {known}"):
            AnomalyFileWriter("out", calibration, fpr=0.1)
