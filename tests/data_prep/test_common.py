from __future__ import annotations

import errno
import importlib
import inspect
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from robustmed_monai.data_prep.command import command, make_parser, run
from robustmed_monai.data_prep.common import JOURNAL, REPORT, Item, Preparation, Source, read_csv
from robustmed_monai.utils.errors import ConfigError, DataError

PREPARATIONS = Path(__file__).resolve().parents[2] / "data_prep"
SOURCE = Source("made_up", "none", "made up")
Snapshot = Callable[[Path], dict[str, tuple[bytes, int, int]]]


def prepare(source: Path, output: Path, stop_at: int = -1, strict: bool = False, seed: int = 0) -> Path:
    """A source whose cases are text files with one grey value each; ``stop_at`` kills the run there.

    Args:
        source: folder of the text files.
        output: folder to write.
        stop_at: number of the case.
        strict: refuse when any file is bad, or
            more than that.
        seed: is not used.

    Returns:
        The datalist.
    """
    out = Preparation(SOURCE, output, {"seed": seed})

    def make(path: Path, number: int) -> list[Item]:
        image = out.image(path.stem, np.full((4, 3), float(path.read_text()), dtype=np.float32))
        if number == stop_at:
            raise KeyboardInterrupt
        if path.stem == "bad":
            raise DataError(f"{path}: is bad")
        out.skipped["never used"] += 1
        return [{"image": image, "healthy": True, "subject": path.stem}]

    for number, path in enumerate(sorted(source.glob("*.txt"))):
        out.add_case(path.stem, "training", [path], partial(make, path, number))
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
    assert run(prepare, make_parser(prepare), argv) == 1
    assert "No space left" in capsys.readouterr().err
    # No half file stays behind, and the next run starts where this one stopped.
    assert not list((tmp_path / "out/images").iterdir())
    monkeypatch.undo()
    assert run(prepare, make_parser(prepare), argv) == 0


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
    out.add_case(
        "a", "test", [tmp_path / "a.nii", tmp_path / "b.nii"], lambda: pytest.fail("must not be called")
    )
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
        return command(prepare)(argv)

    (source / "bad.txt").write_text("0.5")
    assert main("--source", str(source), "--output", str(tmp_path / "out")) == 0
    captured = capsys.readouterr()
    assert "training: 6 images of 6 subjects, 0 of the images abnormal" in captured.out
    assert str(tmp_path / "out/datalist.json") in captured.out
    assert str(source / "bad.txt") in captured.err
    assert main("--source", str(source), "--output", str(tmp_path / "strict"), "--strict") == 1
    assert "refused" in capsys.readouterr().err
    assert main(*argv_of(source, tmp_path), "--stop_at", "1") == 130
    assert "resume" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main("--source", str(tmp_path / "empty"), "--output", str(tmp_path / "none")) == 1


def test_an_empty_section_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The subject that was to be validated on is damaged."""

    def prepare(source: Path, output: Path) -> Path:
        """Made up.

        Args:
            source: is not used.
            output: folder to write.
        """
        out = Preparation(SOURCE, output, {"splits": [0.8, 0.2, 0]})
        for name, section in (("a", "training"), ("b", "training"), ("c", "validation")):
            item = {"image": f"{name}.png", "healthy": True, "subject": name}
            out.add_case(name, section, [tmp_path / name], lambda item=item: [item])  # type: ignore[misc]
        return out.finish()

    for name in "ab":
        (tmp_path / name).touch()
    assert command(prepare)(["--source", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert "warning: validation is empty: no subject of it could be used" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / REPORT).read_text())["counts"]["training"] == {
        "subjects": 2,
        "healthy": 2,
        "abnormal": 0,
    }


def test_a_case_of_another_section_is_made_again(source: Path, tmp_path: Path) -> None:
    for section in ("training", "test"):
        out = Preparation(SOURCE, tmp_path / "out", {})
        item = {"image": "a.png", "healthy": True, "subject": section}
        out.add_case("a", section, [source / "case0.txt"], lambda item=item: [item])  # type: ignore[misc]
        content = json.loads(out.finish().read_text())
        assert [item["subject"] for item in content[section]] == [section]


@pytest.mark.parametrize(
    "name", [path.stem for path in PREPARATIONS.glob("*.py") if "= command(" in path.read_text()]
)
def test_every_argument_of_every_source_is_an_option_with_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"robustmed_monai.data_prep.{name}")
    with pytest.raises(SystemExit):
        module.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"python -m robustmed_monai.data_prep.{name}" in text
    assert all(f"--{argument}" in text for argument in inspect.signature(module.prepare).parameters)


def test_options_have_the_types_of_the_arguments() -> None:
    def prepare(
        source: Path,
        output: Path,
        kind: Literal["a", "b"] = "a",
        size: int | None = 3,
        shares: Sequence[float] = (0.5, 0.5),
        strict: bool = False,
    ) -> Path:
        """Made up.

        Args:
            source: 100 % of it.
            output: folder.
            kind: one
                of two.
            size: in pixels.
            shares: of it.
            strict: or not.
        """
        return source / str((output, kind, size, shares, strict))

    parser = make_parser(prepare)
    given = ["--source", "s", "--output", "o"]
    assert vars(parser.parse_args(given)) == {
        "source": Path("s"),
        "output": Path("o"),
        "kind": "a",
        "size": 3,
        "shares": (0.5, 0.5),
        "strict": False,
    }
    read = parser.parse_args([*given, "--kind", "b", "--size", "7", "--shares", ".1", ".9", "--strict"])
    assert (read.kind, read.size, read.shares, read.strict) == ("b", 7, [0.1, 0.9], True)
    text = " ".join(parser.format_help().split())
    assert "--kind {a,b} one of two (a)" in text
    assert "of it (0.5 0.5)" in text
    for wrong in (["--kind", "c"], ["--siz", "7"], ["--size", "x"]):
        with pytest.raises(SystemExit):
            parser.parse_args([*given, *wrong])


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
