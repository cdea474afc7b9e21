"""The command `robustmed`: what it runs, what it refuses, and how soon it answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustmed_monai import cli
from robustmed_monai.utils.bundle import BUNDLES_VARIABLE

Main = Callable[..., tuple[int, list[Any], str]]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Main:
    """`main(*words)`: exit status, what would be run, and what is written to stderr."""
    monkeypatch.delenv(BUNDLES_VARIABLE, raising=False)
    ran: list[list[Any]] = []

    def record(command: list[str], **_: Any) -> Any:
        ran.append(command)
        return subprocess.CompletedProcess(command, 7)

    def run_bundle(files: list[str], values: dict[str, Any]) -> int:
        ran.append([[Path(file).stem for file in files], values])
        return 0

    monkeypatch.setattr(subprocess, "run", record)
    monkeypatch.setattr(cli, "run_bundle", run_bundle)

    def run(*words: str) -> tuple[int, list[Any], str]:
        ran.clear()
        try:
            status = cli.main(words)
        except SystemExit as end:
            status = int(end.code or 0)
        return status, ran[0] if ran else [], capfd.readouterr().err

    return run


class TestBundles:
    def test_a_command_is_one_run_of_a_config(self, main: Main, repository: Path) -> None:
        status, ran, written = main("infer", "ra", "scan.nii", "--output_dir", "/o p", "fpr=0.01", "--amp")
        scan = str(Path("scan.nii").absolute())
        assert ran == [["inference"], {"input": scan, "output_dir": "/o p", "fpr": 0.01, "amp": True}]
        assert status == 0
        config = repository / "bundles" / "ra" / "configs" / "inference.json"
        assert written == f"$ python -m monai.bundle run --config_file {config} --input {scan} " + (
            "--output_dir '/o p' --fpr 0.01 --amp True\n"
        )

    def test_train_and_evaluate(self, main: Main) -> None:
        assert main("train", "ra", "max_epochs=2")[1] == [["train"], {"max_epochs": 2}]
        assert main("train", "ra", "--overlay", "ixi,vae")[1] == [["train", "ixi", "vae"], {}]
        _, ran, _ = main("evaluate", "risc", "--weights", "m.pt", "--channels=[1, 2]")
        assert ran == [["evaluate"], {"weights": str(Path("m.pt").absolute()), "channels": [1, 2]}]
        assert "--overlay vea: there is no " in main("train", "ra", "--overlay", "vea")[2]

    def test_an_overlay_may_be_a_file_of_the_user(self, main: Main, tmp_path: Path) -> None:
        (tmp_path / "mine.json").write_text("{}")
        _, ran, written = main("infer", "ra", "x.nii", "--overlay", f"whole_head,{tmp_path / 'mine.json'}")
        assert ran[0] == ["inference", "whole_head", "mine"]
        assert """--config_file "['""" in written
        assert f"""{tmp_path / "mine.json"}']" """ in written

    def test_several_processes_get_the_same_words(self, main: Main) -> None:
        _, command, written = main("infer", "risc", "case#1", "--fpr=0.01", "--processes", "3")
        launch = ["-m", "robustmed_monai.utils.launch", "--standalone", "--nproc_per_node", "3"]
        assert command[1:] == [
            *launch,
            "-m",
            "robustmed_monai.cli",
            "infer",
            "risc",
            "--input=case#1",
            "--fpr=0.01",
        ]
        assert written == "", "MONAI's own command would read another folder"
        _, command, written = main("train", "ra", "--processes=2", "--overlay=ixi")
        assert command[-1] == "--overlay=ixi,multi_gpu_train"
        assert written.startswith(
            "$ python -m torch.distributed.run --standalone --nproc_per_node 2 -m monai.bundle run"
        )

    def test_a_pair_of_images(self, main: Main) -> None:
        status, ran, _ = main("infer", "cifl_registration", "--moving", "/a.nii", "--fixed", "/b.nii")
        assert (status, ran) == (0, [["inference"], {"moving": "/a.nii", "fixed": "/b.nii"}])
        assert main("infer", "cifl_registration", "/pairs.json")[1][1] == {"input": "/pairs.json"}
        for words in (("x.nii.gz",), ()):
            status, ran, written = main("infer", "cifl_registration", *words)
            assert (status, ran) == (2, [])
            assert "robustmed infer cifl_registration --moving IMAGE --fixed IMAGE" in written

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("ar", "x"), "method ar: unknown; the nearest is ra. Choose one of "),
            (("unoranik", "x"), "the nearest is unoranic"),
            (("ra", "x", "y"), "y: neither --key value nor key=value"),
            (("ra", "x", "--fpr", "1", "2"), "2: neither --key value"),
            (("ra", "x", "--processes", "0"), "--processes 0: give 1 or more"),
            (("ra",), "what to apply ra to is missing: robustmed infer ra INPUT"),
            (("--fpr", "ra", "x"), "the following arguments are required: method"),
        ],
    )
    def test_mistakes_run_nothing(self, main: Main, words: tuple[str, ...], message: str) -> None:
        status, ran, written = main("infer", *words)
        assert (status, ran) == (2, [])
        assert message in written

    def test_bundles_elsewhere(self, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine" / "configs").mkdir(parents=True)
        (tmp_path / "mine" / "configs" / "metadata.json").write_text("{}")
        monkeypatch.setenv(BUNDLES_VARIABLE, str(tmp_path))
        assert "method mine: has no" in main("infer", "mine", "x")[2]
        assert "Choose one of mine." in main("infer", "ra", "x")[2]
        monkeypatch.setenv(BUNDLES_VARIABLE, str(tmp_path / "mine"))
        assert "none is found; set ROBUSTMED_BUNDLES" in main("infer", "ra", "x")[2]


NAMES = (
    "2024",
    "1e5",
    "True",
    "None",
    "x,y",
    "(x)",
    "[x]",
    "{x}",
    "@x",
    "%x",
    "$x",
    "case#1",
    "a::b",
    "a b",
    "a=b",
    "ü%20",
)


class TestNames:
    @pytest.fixture
    def reads(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        """`reads(*words)`: what the config of a bundle gets from `robustmed infer`."""
        configs = tmp_path / "bundles" / "tiny" / "configs"
        configs.mkdir(parents=True)
        (configs / "metadata.json").write_text('{"version": "0.1.0"}')
        config = {
            "imports": ["$from pathlib import Path"],
            "input": None,
            "threshold": None,
            "output_dir": "out",
            "initialize": [{"_target_": "robustmed_monai.utils.bundle.check_overrides"}],
            "run": ["$Path('read').write_text('|'.join([@input, @output_dir, str(@threshold)]))"],
        }
        (configs / "inference.json").write_text(json.dumps(config))
        monkeypatch.setenv(BUNDLES_VARIABLE, str(tmp_path / "bundles"))
        monkeypatch.chdir(tmp_path)

        def run(*words: str) -> str:
            assert cli.main(["infer", "tiny", *words]) == 0
            return Path("read").read_text()

        return run

    @pytest.mark.parametrize("name", NAMES)
    def test_mean_themselves(self, reads: Callable[..., str], name: str, tmp_path: Path) -> None:
        assert (
            reads(name, "--output_dir", name, "--threshold", "0.5")
            == f"{tmp_path}/{name}|{tmp_path}/{name}|0.5"
        )

    @pytest.mark.parametrize("text", ["$1 + 1", "@input", "%input", "[x", "1 2", "a#b"])
    def test_so_do_other_values(self, reads: Callable[..., str], text: str) -> None:
        assert reads("x", f"--threshold={text}").endswith(f"|{text}")

    def test_errors_are_one_line(
        self, reads: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert cli.main(["infer", "tiny", "x", "--treshold", "1"]) == 1
        assert capsys.readouterr().err.splitlines()[-1] == (
            "ConfigError: --treshold: the config has no such key; the nearest is --threshold. "
            "Correct the spelling or leave it out."
        )
        assert cli.main(["infer", "tiny", "x", "--a#b", "1"]) == 1
        assert "--a#b: the config " in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "read").exists()


class TestDemo:
    def test_applies_a_method_to_an_embedded_brain(
        self, main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        head = {"image": str(tmp_path / "a.nii"), "mask": str(tmp_path / "m.nii")}
        monkeypatch.setattr("robustmed_monai.data.embedded.demo_head", lambda: head)
        _, ran, written = main("demo", "--fpr", "0.01")
        lesion = {"input": head["image"], "mask": head["mask"]}
        assert ran == [["inference", "whole_head", "demo"], {**lesion, "fpr": 0.01}]
        assert "bundles/ra/" in written

    def test_a_method_without_a_true_lesion_gets_the_image_alone(
        self, main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        head = {"image": str(tmp_path / "a.nii"), "mask": str(tmp_path / "m.nii")}
        monkeypatch.setattr("robustmed_monai.data.embedded.demo_head", lambda: head)
        _, ran, _ = main("demo", "cifl")
        assert ran == [["inference"], {"input": head["image"]}]

    @pytest.mark.parametrize(
        ("method", "said"),
        [("unoranic", "these weights know X-ray images"), ("cifl_registration", "two images")],
    )
    def test_a_method_that_takes_no_head_says_so(self, main: Main, method: str, said: str) -> None:
        status, ran, written = main("demo", method)
        assert (status, ran) == (2, [])
        assert said in written

    def test_needs_weights(self, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ra" / "configs").mkdir(parents=True)
        for name in ("metadata", "inference"):
            (tmp_path / "ra" / "configs" / f"{name}.json").write_text("{}")
        monkeypatch.setenv(BUNDLES_VARIABLE, str(tmp_path))
        status, ran, written = main("demo")
        assert (status, ran) == (2, [])
        assert "holds no weights yet; train the bundle" in written


class TestOthers:
    def test_prepare_runs_the_module_of_the_source(self, main: Main) -> None:
        status, command, _ = main("prepare", "ixi", "--source", "IXI-T1.tar", "--help")
        words = ["-m", "robustmed_monai.data_prep.ixi", "--source", "IXI-T1.tar", "--help"]
        assert (status, command) == (7, [sys.executable, *words])
        assert "source bratz: unknown; the nearest is brats." in main("prepare", "bratz")[2]
        assert {"common", "pixels", "__init__"}.isdisjoint(cli.sources())

    @pytest.mark.parametrize(
        "words",
        [
            (),
            ("--help",),
            ("infer", "ra", "x", "-h"),
            ("train", "--help"),
            ("prepare", "--help"),
        ],
    )
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


@pytest.mark.slow
def test_a_failure_in_one_of_several_processes_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    words = [
        "infer",
        "ra",
        str(tmp_path / "broken.nii.gz"),
        "--processes=2",
        f"--output_dir={tmp_path / 'out'}",
    ]
    command = [sys.executable, "-m", "robustmed_monai.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "broken.nii.gz" in done.stderr
