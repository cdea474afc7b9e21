"""Runs over many files: what is done stays done, what failed is told, shares add up."""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from PIL import Image

from robustmed_monai.handlers import result_writer
from robustmed_monai.handlers.result_writer import ResultWriter, is_picture
from robustmed_monai.utils.errors import ConfigError, ImageError
from robustmed_monai.utils.files import read_json

# Name of a variable of the environment: a global list would be a part of what results are made from.
DEADLY = "ROBUSTMED_TEST_DEADLY"


def report(output: Mapping[str, Any], suffix: str = "!") -> dict[str, Any]:
    text = str(output["text"])
    if text == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if output["path"] == os.environ.get(DEADLY):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"length": len(text), "text": text + suffix}


def draw(output: Mapping[str, Any]) -> None:
    if output["text"] == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if output["text"] == "nan":
        raise ImageError(f"array for {output['path']}: NaN")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    # All engines share this logger: left disabled, other tests would find nothing logged.
    logger = logging.getLogger("ignite.engine.engine.Engine")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.fixture
def files(tmp_path: Path) -> list[dict[str, str]]:
    (tmp_path / "in").mkdir()
    for i in range(6):
        (tmp_path / "in" / f"{i}.nii").write_text(f"text {i}")
    return [{"image": str(p)} for p in sorted((tmp_path / "in").iterdir())]


def make(folder: Path, files: Any, suffix: str = "!") -> ResultWriter:
    sheets = {"sheet.png": draw}
    return ResultWriter(
        folder, files, {"pred": "pred"}, partial(report, suffix=suffix), sheets, summary=["length"]
    )


def run(writer: ResultWriter, rank: int = 0, world: int = 1) -> list[str]:
    """Names of the files that were worked on."""

    def iterate(engine: Engine, item: Any) -> dict[str, Any]:
        path = Path(item["image"])
        text = path.read_text()
        if text == "bad":
            return {"path": str(path), "error": f"{path}: is bad"}
        image = MetaTensor(torch.zeros(1, 2, 3, 4), meta={"spatial_shape": np.array([2, 3, 4])})
        return {"path": str(path), "text": text, "image": image, "warnings": []}

    engine = Engine(iterate)
    writer.attach(engine)
    pending = writer.pending(rank, world)
    if pending:
        engine.run(pending)
    else:
        engine.fire_event(Events.COMPLETED)
    return [Path(item["image"]).name for item in pending]


def summary(folder: Path) -> Any:
    return read_json(folder / "summary.json")


class TestGoingOn:
    def test_a_second_run_finds_all_done_and_writes_the_same_summary(
        self, files: Any, tmp_path: Path
    ) -> None:
        assert len(run(make(tmp_path / "out", files))) == 6
        first = (tmp_path / "out" / "summary.json").read_bytes()
        assert run(make(tmp_path / "out", files)) == []
        assert (tmp_path / "out" / "summary.json").read_bytes() == first
        assert [entry["length"] for entry in summary(tmp_path / "out")["images"]] == [6] * 6

    def test_what_changed_is_done_again_and_what_came_is_added(self, files: Any, tmp_path: Path) -> None:
        run(make(tmp_path / "out", files))
        changed = Path(files[2]["image"])
        changed.write_text("changed")
        os.utime(Path(files[4]["image"]), (1, 1))
        (changed.parent / "new.nii").write_text("new")
        more = [*files, {"image": str(changed.parent / "new.nii")}]
        assert run(make(tmp_path / "out", more)) == ["2.nii", "4.nii", "new.nii"]
        assert read_json(tmp_path / "out" / "2" / "scores.json")["text"] == "changed!"
        assert len(summary(tmp_path / "out")["images"]) == 7

    def test_an_image_that_fails_now_keeps_no_earlier_result(self, files: Any, tmp_path: Path) -> None:
        run(make(tmp_path / "out", files))
        Path(files[0]["image"]).write_text("bad")
        with pytest.raises(ImageError, match=r"1 of 6 images"):
            run(make(tmp_path / "out", files))
        assert not (tmp_path / "out" / "0" / "scores.json").exists()
        assert (tmp_path / "out" / "1" / "scores.json").exists()
        assert list(summary(tmp_path / "out")["failed"]) == [files[0]["image"]]

    def test_other_settings_do_all_again(self, files: Any, tmp_path: Path) -> None:
        run(make(tmp_path / "out", files))
        assert len(run(make(tmp_path / "out", files, suffix="?"))) == 6
        assert read_json(tmp_path / "out" / "0" / "scores.json")["text"] == "text 0?"

    def test_a_second_run_into_a_folder_keeps_the_entries_of_the_first(
        self, files: Any, tmp_path: Path
    ) -> None:
        run(make(tmp_path / "out", files[:2]))
        run(make(tmp_path / "out", files[2:3]))
        assert [e["folder"] for e in summary(tmp_path / "out")["images"]] == ["0", "1", "2"]
        (tmp_path / "out" / "1" / "scores.json").unlink()
        run(make(tmp_path / "out", files[2:3]))
        assert [e["folder"] for e in summary(tmp_path / "out")["images"]] == ["0", "2"]

    def test_a_result_without_an_intact_report_is_none(self, files: Any, tmp_path: Path) -> None:
        run(make(tmp_path / "out", files))
        (tmp_path / "out" / "1" / "scores.json").unlink()
        (tmp_path / "out" / "3" / "scores.json").write_text("{torn")
        (tmp_path / "out" / "5" / "scores.json").write_text("[]")
        assert run(make(tmp_path / "out", files)) == ["1.nii", "3.nii", "5.nii"]

    def test_a_result_that_is_written_anew_does_not_look_complete(self, files: Any, tmp_path: Path) -> None:
        run(make(tmp_path / "out", files))
        Path(files[0]["image"]).write_text("full")
        with pytest.raises(ConfigError, match=r"cannot be written to \(No space left on device\); make room"):
            run(make(tmp_path / "out", files))
        assert not (tmp_path / "out" / "0" / "scores.json").exists()

    def test_nothing_of_an_earlier_result_stays_beside_the_new_one(self, files: Any, tmp_path: Path) -> None:
        for name in ("sheet.png", "pred.nii.gz", "notes of the user.txt"):
            (tmp_path / "out" / "0").mkdir(parents=True, exist_ok=True)
            (tmp_path / "out" / "0" / name).write_text("of an earlier run")
        run(make(tmp_path / "out", files))
        # This run draws no sheet and has no map.
        found = sorted(p.name for p in (tmp_path / "out" / "0").iterdir())
        assert found == ["notes of the user.txt", "scores.json"]

    @pytest.mark.parametrize("name", ["a.nii", "a/b.nii", "a"])
    def test_no_result_lies_among_images(self, tmp_path: Path, name: str) -> None:
        """A file in a folder of its name, another file in it, and the folder of a DICOM series."""
        (tmp_path / "a").mkdir()
        images = [{"image": str(tmp_path / path)} for path in ("a/a.nii", name)]
        with pytest.raises(ConfigError, match=r"results of .* would lie among images, in .*a; give another"):
            make(tmp_path, images if name != "a" else images[1:])
        make(tmp_path / "a", [{"image": str(tmp_path / "a" / "a.nii")}])


class TestFailures:
    def test_are_told_at_the_end_and_tried_again(self, files: Any, tmp_path: Path) -> None:
        for i, text in ((1, "bad"), (3, "nan")):
            Path(files[i]["image"]).write_text(text)
        for _ in range(2):
            with pytest.raises(ImageError) as caught:
                run(make(tmp_path / "out", files))
            lines = str(caught.value).splitlines()
            assert lines[0] == "2 of 6 images could not be used:"
            assert lines[1] == f"  {files[1]['image']}: is bad"
            assert "array for" in lines[2]
            assert list(summary(tmp_path / "out")["failed"]) == [files[1]["image"], files[3]["image"]]
            assert not (tmp_path / "out" / ".failed").exists()
        Path(files[1]["image"]).write_text("mended")
        Path(files[3]["image"]).write_text("mended")
        assert run(make(tmp_path / "out", files)) == ["1.nii", "3.nii"]
        assert summary(tmp_path / "out")["failed"] == {}

    def test_a_long_table_is_cut_and_says_where_the_rest_is(
        self, files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(result_writer, "_SHOWN_FAILURES", 4)
        for item in files:
            Path(item["image"]).write_text("bad")
        message = r"6 of 6 images could not be used:\n  \(the first 4; all are in .*summary.json\)"
        with pytest.raises(ImageError, match=message) as caught:
            run(make(tmp_path / "out", files))
        assert len(str(caught.value).splitlines()) == 6
        assert len(summary(tmp_path / "out")["failed"]) == 6


class TestShares:
    def test_add_up_to_what_one_process_does(self, files: Any, tmp_path: Path) -> None:
        Path(files[1]["image"]).write_text("bad")
        with pytest.raises(ImageError):
            run(make(tmp_path / "one", files))
        # The first to end has nothing to say of the others, the last one speaks for all.
        assert run(make(tmp_path / "two", files), 1, 2) == ["1.nii", "3.nii", "5.nii"]
        assert not (tmp_path / "two" / "summary.json").exists()
        with pytest.raises(ImageError, match="1 of 6 images"):
            run(make(tmp_path / "two", files), 0, 2)
        assert summary(tmp_path / "two") == summary(tmp_path / "one")

    def test_of_a_process_that_was_stopped_are_waited_for(self, files: Any, tmp_path: Path) -> None:
        run(make(tmp_path / "out", files), 0, 3)
        run(make(tmp_path / "out", files), 1, 3)
        assert not (tmp_path / "out" / "summary.json").exists()
        # Any other division of the work goes on from there.
        assert run(make(tmp_path / "out", files)) == ["2.nii", "5.nii"]
        assert len(summary(tmp_path / "out")["images"]) == 6


# 2026-11: Python 3.12 warns of a fork beside threads; the child only works on files until it is killed.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_killed_run_goes_on(files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEADLY, files[3]["image"])
    child = os.fork()
    if child == 0:
        run(make(tmp_path / "out", files))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    monkeypatch.delenv(DEADLY)
    assert not (tmp_path / "out" / "summary.json").exists()
    assert run(make(tmp_path / "out", files)) == ["3.nii", "4.nii", "5.nii"]
    assert len(summary(tmp_path / "out")["images"]) == 6


class TestImages:
    def write(self, tmp_path: Path, **settings: Any) -> dict[str, np.ndarray]:
        path = tmp_path / "head.png"
        Image.fromarray(np.full((6, 5), 100, np.uint8)).save(path)
        meta = {"spatial_shape": np.array([5, 6]), "max_value": 255.0}
        maps = torch.linspace(0, 0.29, 30).reshape(1, 5, 6)
        output = {
            "path": str(path),
            "image": MetaTensor(torch.zeros(1, 8, 8, 1), meta=meta),
            "pred": torch.full((1, 5, 6), 51.0),
            "anomaly_map": maps,
            "anomaly_mask": (maps >= 0.1).float(),
            "warnings": [],
        }
        names = {key: key for key in ("pred", "anomaly_map", "anomaly_mask", "absent")}
        writer = ResultWriter(
            tmp_path / "out",
            [{"image": str(path)}],
            names,
            lambda _: {},
            whole_numbers=["anomaly_mask"],
            **settings,
        )
        engine = Engine(lambda _, item: output)
        writer.attach(engine)
        engine.run([0])
        return {p.stem: np.asarray(Image.open(p)).T for p in (tmp_path / "out" / "head").glob("*.png")}

    def test_pictures_show_fixed_ranges(self, tmp_path: Path) -> None:
        read = self.write(tmp_path, display={"anomaly_map": [0, 0.2]})
        expected = torch.linspace(0, 0.29, 30).reshape(5, 6).numpy()
        np.testing.assert_allclose(read["anomaly_map"], 255 * (expected / 0.2).clip(max=1), atol=0.51)
        assert np.array_equal(read["anomaly_mask"], 255 * (expected >= np.float32(0.1)))
        assert (read["pred"] == 51).all()
        assert "absent" not in read


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [("a.PNG", (3, 4), True), ("a.tif", (3, 4, 5), False), ("xray.dcm", (3, 4), True)],
)
def test_pictures_and_stacks(path: str, shape: tuple[int, ...], expected: bool) -> None:
    image = MetaTensor(torch.zeros(1, 2, 2, 1), meta={"spatial_shape": shape})
    assert is_picture({"path": path, "image": image}) is expected
