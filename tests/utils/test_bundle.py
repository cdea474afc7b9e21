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
from robustmed_monai.utils.errors import ConfigError, original_error

PROGRAM = str(Path(sys.modules["monai.bundle"].__path__[0]) / "__main__.py")
METADATA = {"version": "0.1.0", "monai_version": "1.6.1", "pytorch_version": "2.10", "numpy_version": "1.26"}
TRAIN = {
    "imports": ["$import pathlib", "$import robustmed_monai.utils.bundle as bundle"],
    "bundle_root": "$bundle.bundle_root('tiny')",
    "report": "",
    "output_dir": "out",
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
    # MONAI adds to the path, and our command line sets the hook.
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

    def test_in_the_package_which_may_hold_a_link(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(module, "__file__", str(project / "utils" / "bundle.py"))
        (project / "utils").mkdir()
        shutil.move(project / "bundles", tmp_path / "checkout")
        (project / "bundles").symlink_to(tmp_path / "checkout")
        assert bundle_root("tiny") == f"{tmp_path.resolve()}/checkout/tiny"
        assert module.bundles_dir() == f"{tmp_path.resolve()}/checkout"

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

    def _check(self, overrides: dict[str, Any], *configs: str) -> None:
        files = [f"bundles/tiny/configs/{name}.json" for name in configs or ("train",)]
        workflow = ConfigWorkflow(config_file=files, **overrides)
        try:
            workflow.initialize()
        except RuntimeError as error:
            raise error.__cause__ or error from None  # MONAI wraps what an expression raises

    @pytest.mark.parametrize(
        "overrides",
        [
            {},
            {"lr": 0.5},
            {"train#trainer#max_epochs": 2},
            {"train::trainer::max_epochs": 2},
            {"train#handlers#0#interval": 2},
            {"train#handlers": [{"interval": 3}]},
            {"optimizer#betas": (0.5, 0.9)},
            {"optimizer#_disabled_": True},
            {"train#trainer#anything": 1},
            {"optimizer": {"_target_": "torch.optim.SGD", "params": []}, "optimizer#momentum": 0.9},
            {"_meta_#version": "0.2.0"},
            {"report": "@base", "base": "a new key that something refers to"},
            {"report": "$@base['name']", "base": {"name": "used as a whole"}},
            {
                "tracking": "mlflow",
                "tracking_uri": "here",
                "experiment_name": "a",
                "save_execute_config": False,
            },
        ],
    )
    def test_what_the_config_uses_passes(self, overrides: dict[str, Any]) -> None:
        self._check(overrides)

    @pytest.mark.parametrize(
        ("overrides", "wrong", "nearest"),
        [
            ({"lrr": 5}, "lrr", "lr"),
            ({"nan_chek": True}, "nan_chek", "nan_check"),
            ({"max_epoch": 5}, "max_epoch", "train#trainer#max_epochs"),
            ({"max_epochs": 5}, "max_epochs", "train#trainer#max_epochs"),
            ({"train#validator": 1}, "train#validator", "train#trainer"),
            ({"train#handlers#0#intervall": 1}, "train#handlers#0#intervall", "train#handlers#0#interval"),
            ({"optimizer#beta": (0.5, 0.9)}, "optimizer#beta", "optimizer#betas"),
            ({"run_name": "a"}, "run_name", r"\S+"),
            ({"optimizer": {"_target_": "torch.optim.SGD"}, "optimizer#betas": 1}, "optimizer#betas", r"\S+"),
        ],
    )
    def test_what_it_does_not_use_is_refused_with_the_nearest(
        self, overrides: dict[str, Any], wrong: str, nearest: str
    ) -> None:
        with pytest.raises(ConfigError, match=rf"--{wrong}: the config has no .* nearest is --{nearest}\."):
            self._check(overrides)

    def test_a_synonym_finds_the_key(self, project: Path) -> None:
        config = {**TRAIN, "fpr": 0.05, "threshold": "$1", "max_depth": 1, "learning_rate": 1}
        (project / "bundles" / "tiny" / "configs" / "train.json").write_text(json.dumps(config))
        for wrong, nearest in (("treshold", "fpr"), ("learning_rat", "learning_rate")):
            with pytest.raises(ConfigError, match=rf"--{wrong}: .* nearest is --{nearest}\."):
                self._check({wrong: 1})

    @pytest.mark.parametrize(
        ("key", "word", "wanted"),
        [
            ("lr", "small", "a number"),
            ("amp", "true", "True or False"),
            ("spacing", "fine", r"a number\."),  # computed by the config
        ],
    )
    def test_a_word_in_the_place_of_a_number_is_refused(
        self, project: Path, key: str, word: str, wanted: str
    ) -> None:
        config = {**TRAIN, "amp": False, "spacing": "$2 * @lr", "used": ["@amp", "@spacing"]}
        (project / "bundles" / "tiny" / "configs" / "train.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=rf"--{key} {word}: is a word; give {wanted}"):
            self._check({key: word})
        self._check({key: "$1"})

    def test_all_files_of_a_list_count(self) -> None:
        self._check({"schedule#milestones": [1]}, "train", "paper")

    def test_a_device_must_be_there(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        config = {**TRAIN, "device": {"_target_": "robustmed_monai.utils.bundle.default_device"}}
        (project / "bundles" / "tiny" / "configs" / "train.json").write_text(json.dumps(config))
        for good in ("cpu", "$torch.device('cpu')"):
            self._check({"device": good})
        with pytest.raises(ConfigError, match=r"device cuda: this machine has none; give one of cpu"):
            self._check({"device": "cuda"})

    @pytest.mark.parametrize("name", ["out#1", "2024", "1e5", "a,b", "(x)", "{x}", "$x", "@x", "%lr"])
    def test_a_path_that_monais_command_would_rewrite_is_refused(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        with pytest.raises(RuntimeError) as caught:
            _run(
                monkeypatch, project, "--config_file", "bundles/tiny/configs/train.json", "--output_dir", name
            )
        error = original_error(caught.value)
        assert isinstance(error, ConfigError)
        assert f"--output_dir {name}: MONAI's command does not take this as a name" in str(error)
        assert not (project / "report.txt").exists()

    @pytest.mark.parametrize("name", ["a b", "ü%20", "case@1", "a$1", "q'q", "a=b", "../x", "None"])
    def test_other_names_pass(self, project: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        _run(monkeypatch, project, "--config_file", "bundles/tiny/configs/train.json", f"--output_dir={name}")

    def test_without_a_workflow_nothing_happens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for argv in ([], ["pytest", "--lrr", "5"], [PROGRAM, "verify_net_in_out", "--net_id", "a"]):
            monkeypatch.setattr(sys, "argv", argv)
            check_overrides()
            assert sys.excepthook is sys.__excepthook__

    @pytest.mark.parametrize("given", [["--lrr", "5"], ["--args_file", "arguments.json"]])
    @pytest.mark.slow
    def test_the_command_ends_with_one_clear_line(
        self, project: Path, repository: Path, given: list[str]
    ) -> None:
        (project / "arguments.json").write_text('{"lrr": 5}')
        words = ["--config_file", "bundles/tiny/configs/train.json", "--report", "report.txt", *given]
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
        _command(monkeypatch)
        self._check({})
        error = RuntimeError("not ours")
        sys.excepthook(RuntimeError, error, None)
        assert capsys.readouterr().err == "RuntimeError: not ours\n"
        wrapped = RuntimeError("Failed to evaluate")
        wrapped.__cause__ = ConfigError("ours")
        sys.excepthook(RuntimeError, wrapped, None)
        assert capsys.readouterr().err == "ConfigError: ours\n"


class TestLiteral:
    @pytest.mark.parametrize(
        "text",
        ["a", "", "$1", "@x", "%x", "case#1", "/x/run#1", "a::b", "@#a", "$__import__('os')", "[x]", "1e5"],
    )
    def test_means_itself(self, text: str) -> None:
        parser = ConfigParser({"value": module.literal(text), "used": "$@value + '!'", "as": "@value"})
        assert parser.get_parsed_content("used") == f"{text}!"
        assert parser.get_parsed_content("as") == text

    def test_in_lists_and_dicts_too(self) -> None:
        value = {"a": ["$1", {"b": "@x"}], "c": 1.5, "d": None}
        assert ConfigParser({"value": module.literal(value)}).get_parsed_content("value") == value

    def test_a_component_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="is no value here"):
            module.literal([{"_target_": "os.system", "command": "true"}])


def test_processes_share_a_batch_and_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (module.batch_share(8), module.rank_dir("out"), module.rank_dir("out", "rotnet")) == (
        8, "out", str(Path("out/rotnet")),
    )  # fmt: skip
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert (module.batch_share(8), module.batch_share(2)) == (2, 1)
    assert module.rank_dir("out", "rotnet") == str(Path("out/rank2/rotnet"))


def test_values_of_configs() -> None:
    assert (module.given(None, 3), module.given(0, 3)) == (3, 0)
    assert module.merged({"a": 1, "b": 2}, {"b": 3}) == {"a": 1, "b": 3}
    assert (module.class_name(None), module.class_name(Path())) == (None, type(Path()).__name__)
