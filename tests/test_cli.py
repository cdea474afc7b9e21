"""The command `robustmed`: what it runs, what it refuses, and how soon it answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustmed_monai import cli
from robustmed_monai.utils.bundle import BUNDLES_VARIABLE

Main = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Main:
    """`main(*words)`: exit status, the command that would be run, and what is written to stderr."""
    monkeypatch.delenv(BUNDLES_VARIABLE, raising=False)
    ran: list[list[str]] = []

    def record(command: list[str], **settings: Any) -> Any:
        ran.append([*command, f"cwd={settings['cwd']}"])
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", record)

    def run(*words: str) -> tuple[int, list[str], str]:
        ran.clear()
        try:
            status = cli.main(words)
        except SystemExit as end:
            status = int(end.code or 0)
        return status, ran[0] if ran else [], capfd.readouterr().err

    return run


class TestInfer:
    def test_is_one_call_of_the_bundle(self, main: Main, repository: Path) -> None:
        status, command, written = main("infer", "ra", "scan.nii", "--output_dir", "o p", "fpr=0.01", "--amp")
        config = repository / "bundles" / "ra" / "configs" / "inference.json"
        words = ["-m", "monai.bundle", "run", "--config_file", str(config), "--input", "scan.nii"]
        words += ["--output_dir", "o p", "--fpr=0.01", "--amp"]
        assert command == [sys.executable, *words, "cwd=None"]
        assert status == 7, "the status of the command"
        assert written == f"$ python -m monai.bundle run --config_file {config} --input scan.nii " + (
            "--output_dir 'o p' --fpr=0.01 --amp\n"
        )

    def test_of_several_processes(self, main: Main) -> None:
        _, command, _ = main("infer", "risc", "in", "--fpr=0.01", "--processes", "3")
        assert command[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3"]
        assert command[-2:] == ["--fpr=0.01", "cwd=None"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("ar", "x"), "method ar: unknown; the nearest is ra. Choose one of "),
            (("unoranik", "x"), "the nearest is unoranic"),
            (("ra", "x", "y"), "y: neither --key value nor key=value"),
            (("ra", "x", "--fpr", "1", "2"), "2: neither --key value"),
            (("ra", "x", "--processes", "0"), "--processes 0: give 1 or more"),
            (("ra",), "the following arguments are required: input"),
            (("--fpr", "ra", "x"), "the following arguments are required: method, input"),
        ],
    )
    def test_mistakes_run_nothing(self, main: Main, words: tuple[str, ...], message: str) -> None:
        status, command, written = main("infer", *words)
        assert (status, command) == (2, [])
        assert message in written

    def test_bundles_elsewhere(self, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine" / "configs").mkdir(parents=True)
        (tmp_path / "mine" / "configs" / "metadata.json").write_text("{}")
        monkeypatch.setenv(BUNDLES_VARIABLE, str(tmp_path))
        assert "method mine: has no" in main("infer", "mine", "x")[2]
        assert "Choose one of mine." in main("infer", "ra", "x")[2]
        monkeypatch.setenv(BUNDLES_VARIABLE, str(tmp_path / "mine"))
        assert "none is found; start in a checkout of the repository" in main("infer", "ra", "x")[2]


class TestDemo:
    def test_applies_a_method_to_an_embedded_brain(
        self, main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "volumes.json").write_text(
            '{"test": [{"image": "a.nii", "kind": "hyper"}, {"image": "b.nii", "kind": "hypo"}]}'
        )
        monkeypatch.setattr("robustmed_monai.data.embedded.embedded_dataset", lambda: tmp_path)
        _, command, _ = main("demo", "--fpr", "0.01")
        assert command[command.index("--input") + 1 :] == [
            str(tmp_path / "a.nii"),
            "--fpr",
            "0.01",
            "cwd=None",
        ]
        assert "bundles/ra/" in " ".join(command)

    def test_needs_weights(self, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ra" / "configs").mkdir(parents=True)
        (tmp_path / "ra" / "configs" / "metadata.json").write_text("{}")
        monkeypatch.setenv(BUNDLES_VARIABLE, str(tmp_path))
        status, command, written = main("demo")
        assert (status, command) == (2, [])
        assert "holds no weights yet; train the bundle" in written


class TestOthers:
    def test_prepare_runs_the_module_of_the_source(self, main: Main) -> None:
        _, command, _ = main("prepare", "ixi", "--source", "IXI-T1.tar", "--help")
        assert command == [
            sys.executable,
            "-m",
            "robustmed_monai.data_prep.ixi",
            "--source",
            "IXI-T1.tar",
            "--help",
            "cwd=None",
        ]
        assert "source bratz: unknown; the nearest is brats." in main("prepare", "bratz")[2]
        assert {"common", "pixels", "__init__"}.isdisjoint(cli.sources())

    def test_results_runs_the_script_where_it_belongs(self, main: Main, repository: Path) -> None:
        _, command, written = main("results", "ra", "--seeds", "0")
        script = str(repository / "benchmarks" / "results_ra.py")
        assert command == [sys.executable, script, "--seeds", "0", f"cwd={repository}"]
        assert written.startswith(f"$ cd {repository} && python ")
        assert "common" not in cli.result_scripts()

    @pytest.mark.parametrize("words", [(), ("--help",), ("infer", "ra", "x", "-h"), ("prepare", "--help")])
    def test_help_needs_nothing(self, main: Main, words: tuple[str, ...]) -> None:
        assert main(*words)[:2] == (0, [])

    def test_an_interrupt_is_no_fault(self, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(subprocess, "run", interrupted)
        assert main("prepare", "ixi")[0] == 130


def test_help_comes_within_a_second(tmp_path: Path) -> None:
    """CPU time, which a busy machine does not lengthen; and none of the slow imports."""
    code = "import sys; from robustmed_monai import cli; cli._parser().format_help(); print(*sys.modules)"
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1
    assert not {"torch", "monai", "numpy", "ignite"} & set(done.stdout.split())
