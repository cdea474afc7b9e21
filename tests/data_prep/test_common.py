from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustmed_monai.data_prep.common import (
    JOURNAL,
    REPORT,
    Items,
    Preparation,
    Source,
    make_parser,
    read_csv,
    run,
    section_of,
)
from robustmed_monai.utils.errors import ConfigError, DataError

SOURCE = Source("made_up", "none", "made up")
Snapshot = Callable[[Path], dict[str, tuple[bytes, int, int]]]


def prepare(source: Path, output: Path, stop_at: int = -1, strict: bool = False, seed: int = 0) -> Path:
    """A source whose cases are text files with one grey value each; ``stop_at`` kills the run there."""
    out = Preparation(SOURCE, output, {"seed": seed})

    def make(path: Path, number: int) -> Items:
        image = out.image(path.stem, np.full((4, 3), float(path.read_text()), dtype=np.float32))
        if number == stop_at:
            raise KeyboardInterrupt
        if path.stem == "bad":
            raise DataError(f"{path}: is bad")
        out.skipped["never used"] += 1
        return [("training", {"image": image, "healthy": True, "subject": path.stem})]

    for number, path in enumerate(sorted(source.glob("*.txt"))):
        out.case(path.stem, [path], partial(make, path, number))
    return out.finish(strict)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(6):
        (folder / f"case{number}.txt").write_text(str(number / 8))
    return folder


def test_a_second_run_writes_nothing(source: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    prepare(source, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    assert len(before) == 6 + 3  # images, datalist, report, journal
    prepare(source, tmp_path / "out", stop_at=0)  # stop_at is not reached: no case is made again
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize("torn", ["", '{"key": "case9", "sta'])
def test_a_killed_run_continues_to_the_same_result(
    source: Path, tmp_path: Path, snapshot: Snapshot, torn: str
) -> None:
    prepare(source, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "killed", stop_at=3)
    assert not (tmp_path / "killed/datalist.json").exists()
    done = snapshot(tmp_path / "killed")
    with (tmp_path / "killed" / JOURNAL).open("a") as stream:
        stream.write(torn)
    prepare(source, tmp_path / "killed")
    continued = snapshot(tmp_path / "killed")
    whole = snapshot(tmp_path / "whole")
    assert {name: value[0] for name, value in continued.items()} == {n: v[0] for n, v in whole.items()}
    assert all(continued[name] == value for name, value in done.items() if name.endswith(".png"))


def test_only_what_changed_is_made_again(source: Path, tmp_path: Path, snapshot: Snapshot) -> None:
    prepare(source, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    (tmp_path / "out/images/case1.png").write_bytes(b"altered")
    (tmp_path / "out/images/case2.png").unlink()
    (source / "case3.txt").write_text("0.5000")
    prepare(source, tmp_path / "out")
    after = snapshot(tmp_path / "out")
    assert after["images/case1.png"][0] == before["images/case1.png"][0]
    assert after["images/case2.png"][0] == before["images/case2.png"][0]
    assert after["images/case3.png"][0] != before["images/case3.png"][0]
    assert after["images/case4.png"] == before["images/case4.png"]
    digests = json.loads((tmp_path / "out/datalist.json").read_text())["digests"]
    assert len(digests) == 6


def test_a_bad_case_is_named_and_the_rest_goes_on(source: Path, tmp_path: Path) -> None:
    (source / "bad.txt").write_text("0.5")
    datalist = json.loads(prepare(source, tmp_path / "out").read_text())
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert len(datalist["training"]) == 6
    assert "images/bad.png" not in datalist["digests"]
    assert report["problems"] == [
        {"file": str(source / "bad.txt"), "problem": f"{source / 'bad.txt'}: is bad"}
    ]
    assert report["skipped"] == {"never used": 6}
    with pytest.raises(DataError, match=r"bad\.txt.*is bad"):
        prepare(source, tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict/datalist.json").exists()


def test_a_full_disk_stops_the_run(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    argv = ["--source", str(source), "--output", str(tmp_path / "out")]
    assert run(prepare, make_parser("data_prep.made_up", "doc"), argv) == 1
    assert "No space left" in capsys.readouterr().err
    # No half file stays behind, and the next run starts where this one stopped.
    assert not list((tmp_path / "out/images").iterdir())
    monkeypatch.undo()
    assert run(prepare, make_parser("data_prep.made_up", "doc"), argv) == 0


def test_other_settings_are_refused(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "out")
    with pytest.raises(DataError, match="choose another --output"):
        prepare(source, tmp_path / "out", seed=1)


def test_a_damaged_journal_is_named(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "out")
    journal = tmp_path / "out" / JOURNAL
    journal.write_text("{}}\n" + journal.read_text())
    with pytest.raises(DataError, match=JOURNAL):
        prepare(source, tmp_path / "out")


def test_missing_files_and_nothing_usable(tmp_path: Path) -> None:
    out = Preparation(SOURCE, tmp_path / "out", {})
    out.case("a", [tmp_path / "a.nii", tmp_path / "b.nii"], lambda: pytest.fail("must not be called"))
    with pytest.raises(DataError, match="nothing usable"):
        out.finish()
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert [entry["file"] for entry in report["problems"]] == [
        str(tmp_path / "a.nii"),
        str(tmp_path / "b.nii"),
    ]


def argv_of(source: Path, tmp_path: Path) -> list[str]:
    return ["--source", str(source), "--output", str(tmp_path / "killed")]


def test_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def main(*argv: str) -> int:
        return run(prepare, make_parser("data_prep.made_up", "doc"), argv)

    (source / "bad.txt").write_text("0.5")
    assert main("--source", str(source), "--output", str(tmp_path / "out")) == 0
    captured = capsys.readouterr()
    assert "training: 6 healthy, 0 abnormal" in captured.out
    assert str(tmp_path / "out/datalist.json") in captured.out
    assert str(source / "bad.txt") in captured.err
    assert main("--source", str(source), "--output", str(tmp_path / "strict"), "--strict") == 1
    assert "refused" in capsys.readouterr().err
    killed = run(
        partial(prepare, stop_at=1), make_parser("data_prep.made_up", "doc"), argv_of(source, tmp_path)
    )
    assert killed == 130
    assert "go on" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main("--source", str(tmp_path / "empty"), "--output", str(tmp_path / "none")) == 1


def test_the_split_is_by_subject_and_near_the_fractions() -> None:
    names = [f"s{number}" for number in range(3000)]
    drawn = [section_of(name, (0.7, 0.1, 0.2), 0) for name in names]
    assert drawn == [section_of(name, (0.7, 0.1, 0.2), 0) for name in names]
    assert drawn != [section_of(name, (0.7, 0.1, 0.2), 1) for name in names]
    shares = [drawn.count(section) / 3000 for section in ("training", "validation", "test")]
    # Three standard deviations of a share of 3000 draws are below 0.026.
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.026)
    assert {section_of(name, (0, 0, 1), 0) for name in names} == {"test"}


@pytest.mark.parametrize(
    "settings",
    [
        {"splits": [0.5, 0.5]},
        {"splits": [0.5, 0.4, 0.2]},
        {"splits": [1.2, -0.2, 0.0]},
        {"percentile": 0},
        {"percentile": 100.5},
        {"slices": 0},
        {"gap_mm": -1.0},
    ],
)
def test_a_setting_out_of_range_is_named(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}: got"):
        Preparation(SOURCE, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_csv_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"brain\.csv: no such file"):
        read_csv(tmp_path / "brain.csv", ("a",))
    (tmp_path / "brain.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"column\(s\) \['c'\] missing"):
        read_csv(tmp_path / "brain.csv", ("a", "c"))
    (tmp_path / "brain.csv").write_bytes(b"a,b\n\xff\xfe,2\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_csv(tmp_path / "brain.csv", ("a",))
    (tmp_path / "brain.csv").write_text("a,b\n 1 ,2\n3\n")
    assert read_csv(tmp_path / "brain.csv", ("a", "b")) == [
        (2, {"a": "1", "b": "2"}),
        (3, {"a": "3", "b": ""}),
    ]
