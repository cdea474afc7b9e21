from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from robustmed_monai.utils import bundle as module
from robustmed_monai.utils.bundle import bundle_root, check_overrides, default_output_dir, open_output_dir
from robustmed_monai.utils.errors import ConfigError

PROGRAM = str(Path(sys.modules["monai.bundle"].__path__[0]) / "__main__.py")
METADATA = {"version": "0.1.0", "monai_version": "1.6.1", "pytorch_version": "2.10", "numpy_version": "1.26"}
TRAIN = {
    "imports": ["$import pathlib", "$import robustmed_monai.utils.bundle as bundle"],
    "bundle_root": "$bundle.bundle_root('tiny')",
    "report": "",
    "lr": 0.1,
    "nan_check": True,
    "optimizer": {"_target_": "torch.optim.Adam", "params": "$[torch.zeros(1)]", "lr": "@lr"},
    "train": {"trainer": {"_target_": "builtins.dict", "max_epochs": 2}, "handlers": [{"interval": 1}]},
    "initialize": ["$bundle.check_overrides()"],
    "run": ["$pathlib.Path(@report).write_text(f\"{@bundle_root} {@lr} {@train#trainer['max_epochs']}\")"],
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that holds the bundle ``tiny`` and nothing else."""
    root = tmp_path.resolve() / "project"
    configs = root / "bundles" / "tiny" / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text(json.dumps(METADATA))
    (configs / "train.json").write_text(json.dumps(TRAIN))
    (configs / "paper.json").write_text(json.dumps({"lr": 0.5, "schedule": {"milestones": [1, 2]}}))
    # MONAI adds to the path, and our command line door sets the hook.
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.delenv(module.BUNDLES_VARIABLE, raising=False)
    return root


def _command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [PROGRAM, "run", *arguments])


def _run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> str:
    """Run the bundle as ``python -m monai.bundle run`` does, in this process, and return its report."""
    report = folder / "report.txt"
    monkeypatch.chdir(folder)
    _command(monkeypatch, *arguments, "--report", str(report))
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    return report.read_text()


class TestBundleRoot:
    def test_command_at_the_repository_root(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        report = _run(monkeypatch, project, "--config_file", "bundles/tiny/configs/train.json")
        assert report == f"{project}/bundles/tiny 0.1 2"

    def test_command_in_the_bundle(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        report = _run(monkeypatch, project / "bundles" / "tiny", "--config_file", "configs/train.json")
        assert report == f"{project}/bundles/tiny 0.1 2"

    def test_command_elsewhere_with_two_configs(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        configs = project / "bundles" / "tiny" / "configs"
        files = f"['{configs}/train.json','{configs}/paper.json']"
        report = _run(monkeypatch, tmp_path, "--config_file", files, "--train#trainer#max_epochs=7")
        assert report == f"{project}/bundles/tiny 0.5 7"

    def test_workflow_elsewhere(self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        config = project / "bundles" / "tiny" / "configs" / "train.json"
        workflow = ConfigWorkflow(config_file=str(config), report=str(tmp_path / "report.txt"))
        workflow.initialize()
        workflow.run()
        assert (tmp_path / "report.txt").read_text() == f"{project}/bundles/tiny 0.1 2"

    def test_parser_at_the_repository_root(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(project)
        parser = ConfigParser(ConfigParser.load_config_file("bundles/tiny/configs/train.json"))
        assert parser.get_parsed_content("bundle_root") == f"{project}/bundles/tiny"

    def test_parser_in_the_bundle(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(project / "bundles" / "tiny")
        assert bundle_root("tiny") == f"{project}/bundles/tiny"

    def test_beside_an_editable_installation(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(module, "__file__", str(project / "robustmed_monai" / "utils" / "bundle.py"))
        assert bundle_root("tiny") == f"{project}/bundles/tiny"

    def test_of_two_copies_the_one_whose_config_runs(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(project / "bundles" / "tiny", project / "bundles" / "mine")
        report = _run(monkeypatch, project, "--config_file", "bundles/mine/configs/train.json")
        assert report == f"{project}/bundles/mine 0.1 2"

    def test_environment_comes_first(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(project / "bundles", tmp_path / "other")
        monkeypatch.chdir(project)
        monkeypatch.setenv(module.BUNDLES_VARIABLE, str(tmp_path / "other"))
        assert bundle_root("tiny") == str(tmp_path.resolve() / "other" / "tiny")
        with pytest.raises(ConfigError, match=rf"{module.BUNDLES_VARIABLE}=.*huge holds no configs"):
            bundle_root("huge")

    def test_nowhere_names_the_places(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(project)
        with pytest.raises(ConfigError, match=r"bundle 'huge': none of .*bundles/huge.*--bundle_root"):
            bundle_root("huge")


class TestOutputDir:
    def test_default_is_below_the_working_directory(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(project)
        assert default_output_dir("tiny", "train") == f"{project}/out/tiny/train"

    @pytest.mark.parametrize("inside", ["bundles/tiny", "bundles/tiny/configs"])
    def test_default_is_never_in_the_bundle(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, inside: str
    ) -> None:
        monkeypatch.chdir(project / inside)
        assert default_output_dir("tiny", "train") == f"{project}/out/tiny/train"

    def test_is_made_and_may_exist(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for _ in range(2):
            assert open_output_dir("out/a") == str(tmp_path.resolve() / "out" / "a")
            assert Path("out/a").is_dir()

    @pytest.mark.parametrize("inside", ["bundles/tiny", "bundles/tiny/models/new"])
    def test_in_the_bundle_is_refused(self, project: Path, inside: str) -> None:
        with pytest.raises(ConfigError, match=r"lies inside the bundle .*give --output_dir"):
            open_output_dir(project / inside)
        assert not (project / "bundles" / "tiny" / "models").exists()

    def test_a_file_in_the_way_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("a file")
        with pytest.raises(ConfigError, match=r"output_dir .*out/a: cannot be made"):
            open_output_dir(tmp_path / "out" / "a")

    def test_a_read_only_folder_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # The rights themselves say nothing to root, who may run the tests.
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(ConfigError, match=r"output_dir .*out: cannot be written to"):
            open_output_dir(tmp_path / "out")


class TestProcesses:
    def test_a_single_process_has_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
            monkeypatch.delenv(name, raising=False)
        assert (module.rank(), module.world_size(), module.restarted()) == (0, 1, False)

    @pytest.mark.parametrize("variable", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
    def test_of_several_the_launcher_tells(self, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        monkeypatch.setenv("RANK", "2")
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setenv(variable, "0")
        assert (module.rank(), module.world_size(), module.restarted()) == (2, 4, False)
        monkeypatch.setenv(variable, "1")
        assert module.restarted()


class TestDefaultDevice:
    @pytest.fixture
    def gpus(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        def have(count: int, local_rank: int = 0) -> None:
            monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
            monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
            monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
            monkeypatch.setenv("LOCAL_RANK", str(local_rank))

        return have

    def test_without_a_gpu(self, gpus: Any) -> None:
        gpus(0, 1)
        assert module.default_device() == module.default_device("cpu") == torch.device("cpu")
        for name in ("cuda", "cuda:0", "mps", "gpu", "cpu:x", ""):
            with pytest.raises(
                ConfigError, match=f"device {name}: this machine has none; give one of cpu\\."
            ):
                module.default_device(name)

    @pytest.mark.parametrize(("local_rank", "own"), [(0, 0), (1, 1), (3, 1)])
    def test_every_process_has_its_own_gpu(self, gpus: Any, local_rank: int, own: int) -> None:
        gpus(2, local_rank)
        assert module.default_device() == module.default_device("cuda") == torch.device("cuda", own)
        assert module.default_device("cuda:1") == torch.device("cuda", 1)
        assert module.default_device("cpu") == torch.device("cpu")
        with pytest.raises(ConfigError, match=r"device cuda:2: .* one of cpu, cuda:0, cuda:1\."):
            module.default_device("cuda:2")


class TestCheckOverrides:
    @pytest.fixture(autouse=True)
    def _in_project(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(project)

    def _check(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
        _command(monkeypatch, "--config_file", "bundles/tiny/configs/train.json", *arguments)
        check_overrides()

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--lr", "0.5"],
            ["--lr=0.5"],
            ["-lr", "-0.5"],
            ["--nan_check"],
            ["--nan-check", "False"],
            ["--nonan_check", "--lr", "1"],
            ["--train#trainer#max_epochs", "2"],
            ["--train::trainer::max_epochs", "2"],
            ["--train#handlers#0#interval", "2"],
            ["--+train#handlers", "[{'interval': 3}]"],
            ["--optimizer#betas", "(0.5, 0.9)"],
            ["--optimizer#_disabled_", "True"],
            ["--train#trainer#anything", "1"],
            ["--optimizer", "{'_target_': 'torch.optim.SGD', 'params': []}", "--optimizer#momentum", "0.9"],
            ["--_meta_#version", "0.2.0"],
            ["training", "--run_id", "run", "--init_id", "initialize", "--final_id", "finalize"],
            ["--workflow_type", "train", "--logging_file", "False"],
            ["--tracking", "mlflow", "--tracking_uri", "here", "--experiment_name", "a"],
            ["--lr", "1", "--", "--trace"],
        ],
    )
    def test_what_the_config_has_passes(self, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
        self._check(monkeypatch, *arguments)

    @pytest.mark.parametrize(
        ("arguments", "wrong", "nearest"),
        [
            (["--lrr", "5"], "lrr", "lr"),
            (["--lrr=5"], "lrr", "lr"),
            (["--nan_chek"], "nan_chek", "nan_check"),
            (["--max_epoch", "5"], "max_epoch", "train#trainer#max_epochs"),
            (["--max_epochs", "5"], "max_epochs", "train#trainer#max_epochs"),
            (["--train#trainr#max_epochs", "5"], "train#trainr#max_epochs", "train#trainer#max_epochs"),
            (
                ["--train::handlers::3::interval", "5"],
                "train#handlers#3#interval",
                "train#handlers#0#interval",
            ),
            (["--train#validator", "1"], "train#validator", "train#trainer"),
            (["--optimizer#beta", "(0.5, 0.9)"], "optimizer#beta", "optimizer#betas"),
            (["--run_name", "a"], "run_name", "run_id"),
            (["--_meta_#versoin", "1"], "_meta_#versoin", "_meta_#version"),
            (["--schedule#milestones", "[1]"], "schedule#milestones", r"\S+"),
            (
                ["--optimizer", "{'_target_': 'torch.optim.SGD'}", "--optimizer#betas", "1"],
                "optimizer#betas",
                r"\S+",
            ),
        ],
    )
    def test_what_it_has_not_is_refused_with_the_nearest(
        self, monkeypatch: pytest.MonkeyPatch, arguments: list[str], wrong: str, nearest: str
    ) -> None:
        with pytest.raises(ConfigError, match=rf"--{wrong}: the config has no .* nearest is --{nearest}\."):
            self._check(monkeypatch, *arguments)

    def test_all_files_of_a_list_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        files = "['bundles/tiny/configs/train.json', 'bundles/tiny/configs/paper.json']"
        _command(monkeypatch, "--config_file", files, "--schedule#milestones", "[1]")
        check_overrides()

    @pytest.mark.parametrize(("key", "known"), [("lr", True), ("lrr", False)])
    def test_an_arguments_file_is_checked_too(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, key: str, known: bool
    ) -> None:
        arguments: dict[str, Any] = {"config_file": "bundles/tiny/configs/train.json", key: 5}
        (project / "arguments.json").write_text(json.dumps(arguments))
        _command(monkeypatch, "--args_file", "arguments.json")
        if known:
            check_overrides()
        else:
            with pytest.raises(ConfigError, match=r"--lrr: .* nearest is --lr\."):
                check_overrides()

    @pytest.mark.parametrize(
        "argv",
        [
            ["pytest", "--lrr", "5"],
            ["pytest", "run", "--config_file", "bundles/tiny/configs/train.json", "--lrr", "5"],
            [
                PROGRAM,
                "verify_net_in_out",
                "--config_file",
                "bundles/tiny/configs/train.json",
                "--net_id",
                "a",
            ],
            [],
        ],
    )
    def test_other_programs_are_left_alone(self, monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", argv)
        check_overrides()
        assert sys.excepthook is sys.__excepthook__

    def test_the_command_ends_with_one_clear_line(self, project: Path, repository: Path) -> None:
        words = ["--config_file", "bundles/tiny/configs/train.json", "--report", "report.txt", "--lrr", "5"]
        done = subprocess.run(
            [sys.executable, "-m", "monai.bundle", "run", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(repository)},
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith(
            "ConfigError: --lrr: the config has no such key; the nearest is --lr."
        )
        assert not (project / "report.txt").exists()

    def test_foreign_errors_keep_their_traceback(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._check(monkeypatch)
        error = RuntimeError("not ours")
        sys.excepthook(RuntimeError, error, None)
        assert capsys.readouterr().err == "RuntimeError: not ours\n"
        wrapped = RuntimeError("Failed to evaluate")
        wrapped.__cause__ = ConfigError("ours")
        sys.excepthook(RuntimeError, wrapped, None)
        assert capsys.readouterr().err == "ConfigError: ours\n"
