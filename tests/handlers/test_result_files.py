"""Runs over many files: what is done stays done, what failed is told, shares add up."""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine

from robustmed_monai.handlers import result_files
from robustmed_monai.handlers.result_files import ResultFileWriter, is_picture
from robustmed_monai.utils.errors import ConfigError, ImageError
from robustmed_monai.utils.files import read_json


class Writer(ResultFileWriter):
    """Writes the text of a file again; refuses some, and says which were written."""

    kept = ("image", "length")

    def __init__(self, output_dir: Path, items: Any = None, suffix: str = "!") -> None:
        super().__init__(output_dir, items)
        self.suffix = suffix
        self._written: list[str] = []

    def save(self, output: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        text = str(output["text"])
        self._written.append(Path(output["path"]).name)
        if text == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if text == "nan":
            raise ImageError(f"array for {folder}: NaN")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "text").write_text(text + self.suffix)
        return {"image": output["path"], "length": len(text)}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    # All engines share this logger: left disabled, other tests would find nothing logged.
    logger = logging.getLogger("ignite.engine.engine.Engine")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.fixture
def items(tmp_path: Path) -> list[dict[str, str]]:
    (tmp_path / "in").mkdir()
    for i in range(6):
        (tmp_path / "in" / f"{i}.nii").write_text(f"text {i}")
    return [{"image": str(p)} for p in sorted((tmp_path / "in").iterdir())]


def run(writer: Writer, items: Any) -> list[str]:
    """Names of the files that were worked on."""

    def iterate(engine: Engine, item: Any) -> dict[str, Any]:
        path = Path(item["image"])
        if "done" in item:
            return {"path": str(path), "done": True}
        text = path.read_text()
        return (
            {"path": str(path), "error": f"{path}: is bad"}
            if text == "bad"
            else {"path": str(path), "text": text}
        )

    engine = Engine(iterate)
    writer.attach(engine)
    engine.run(items)
    return writer._written


def summary(folder: Path) -> Any:
    return read_json(folder / "summary.json")


class TestGoingOn:
    def test_a_second_run_finds_all_done_and_writes_the_same_summary(
        self, items: Any, tmp_path: Path
    ) -> None:
        assert len(run(Writer(tmp_path / "out", items), items)) == 6
        first = (tmp_path / "out" / "summary.json").read_bytes()
        assert run(Writer(tmp_path / "out", items), items) == []
        assert (tmp_path / "out" / "summary.json").read_bytes() == first
        assert [entry["length"] for entry in summary(tmp_path / "out")["images"]] == [6] * 6

    def test_what_changed_is_done_again_and_what_came_is_added(self, items: Any, tmp_path: Path) -> None:
        run(Writer(tmp_path / "out", items), items)
        changed = Path(items[2]["image"])
        changed.write_text("changed")
        os.utime(Path(items[4]["image"]), (1, 1))
        (changed.parent / "new.nii").write_text("new")
        more = [*items, {"image": str(changed.parent / "new.nii")}]
        assert run(Writer(tmp_path / "out", more), more) == ["2.nii", "4.nii", "new.nii"]
        assert (tmp_path / "out" / "2" / "text").read_text() == "changed!"
        assert len(summary(tmp_path / "out")["images"]) == 7

    def test_other_settings_do_all_again(self, items: Any, tmp_path: Path) -> None:
        run(Writer(tmp_path / "out", items), items)
        assert len(run(Writer(tmp_path / "out", items, suffix="?"), items)) == 6
        assert (tmp_path / "out" / "0" / "text").read_text() == "text 0?"

    def test_a_result_without_an_intact_report_is_none(self, items: Any, tmp_path: Path) -> None:
        run(Writer(tmp_path / "out", items), items)
        (tmp_path / "out" / "1" / "scores.json").unlink()
        (tmp_path / "out" / "3" / "scores.json").write_text("{torn")
        (tmp_path / "out" / "5" / "scores.json").write_text("[]")
        assert run(Writer(tmp_path / "out", items), items) == ["1.nii", "3.nii", "5.nii"]

    def test_a_result_that_is_written_anew_does_not_look_complete(self, items: Any, tmp_path: Path) -> None:
        run(Writer(tmp_path / "out", items), items)
        Path(items[0]["image"]).write_text("full")
        with pytest.raises(ConfigError, match=r"cannot be written to \(No space left on device\); make room"):
            run(Writer(tmp_path / "out", items), items)
        assert not (tmp_path / "out" / "0" / "scores.json").exists()


class TestFailures:
    def test_are_told_at_the_end_and_tried_again(self, items: Any, tmp_path: Path) -> None:
        for i, text in ((1, "bad"), (3, "nan")):
            Path(items[i]["image"]).write_text(text)
        for _ in range(2):
            with pytest.raises(ImageError) as caught:
                run(Writer(tmp_path / "out", items), items)
            lines = str(caught.value).splitlines()
            assert lines[0] == "2 of 6 images could not be used:"
            assert lines[1] == f"  {items[1]['image']}: is bad"
            assert lines[2].startswith(f"  {items[3]['image']}: array for")
            assert list(summary(tmp_path / "out")["failed"]) == [items[1]["image"], items[3]["image"]]
            assert not (tmp_path / "out" / ".failed").exists()
        Path(items[1]["image"]).write_text("mended")
        Path(items[3]["image"]).write_text("mended")
        assert run(Writer(tmp_path / "out", items), items) == ["1.nii", "3.nii"]
        assert summary(tmp_path / "out")["failed"] == {}

    def test_a_long_table_is_cut_and_says_where_the_rest_is(
        self, items: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(result_files, "_SHOWN_FAILURES", 4)
        for item in items:
            Path(item["image"]).write_text("bad")
        message = r"6 of 6 images could not be used:\n  \(the first 4; all are in .*summary.json\)"
        with pytest.raises(ImageError, match=message) as caught:
            run(Writer(tmp_path / "out", items), items)
        assert len(str(caught.value).splitlines()) == 6
        assert len(summary(tmp_path / "out")["failed"]) == 6


class TestShares:
    def test_add_up_to_what_one_process_does(self, items: Any, tmp_path: Path) -> None:
        Path(items[1]["image"]).write_text("bad")
        with pytest.raises(ImageError):
            run(Writer(tmp_path / "one", items), items)
        # The first to end has nothing to say of the others, the last one speaks for all.
        run(Writer(tmp_path / "two", items), items[1::2])
        assert not (tmp_path / "two" / "summary.json").exists()
        with pytest.raises(ImageError, match="1 of 6 images"):
            run(Writer(tmp_path / "two", items), items[0::2])
        assert summary(tmp_path / "two") == summary(tmp_path / "one")

    def test_of_a_process_that_was_stopped_are_waited_for(self, items: Any, tmp_path: Path) -> None:
        run(Writer(tmp_path / "out", items), items[0:2])
        run(Writer(tmp_path / "out", items), items[3:])
        assert not (tmp_path / "out" / "summary.json").exists()
        # Any other division of the work goes on from there.
        assert run(Writer(tmp_path / "out", items), items) == ["2.nii"]
        assert len(summary(tmp_path / "out")["images"]) == 6


class Mortal(Writer):
    """Is killed while it works on the fourth file: after its result is written, before its report is."""

    deadly = False

    def save(self, output: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        report = super().save(output, folder)
        if Mortal.deadly and folder.name == "3":
            os.kill(os.getpid(), signal.SIGKILL)
        return report


# 2026-11: Python 3.12 warns of a fork beside threads; the child only works on files until it is killed.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_killed_run_goes_on(items: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mortal, "deadly", True)
    child = os.fork()
    if child == 0:
        run(Mortal(tmp_path / "out", items), items)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "out" / "summary.json").exists()
    assert (tmp_path / "out" / "3" / "text").is_file()
    monkeypatch.setattr(Mortal, "deadly", False)
    assert run(Mortal(tmp_path / "out", items), items) == ["3.nii", "4.nii", "5.nii"]
    assert len(summary(tmp_path / "out")["images"]) == 6


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [("a.PNG", (3, 4), True), ("a.tif", (3, 4, 5), False), ("a.nii", (3, 4), False)],
)
def test_pictures_and_stacks(path: str, shape: tuple[int, ...], expected: bool) -> None:
    assert is_picture(path, {"spatial_shape": shape}) is expected
