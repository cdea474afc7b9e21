"""What the audit knows, what it prints, and that it runs nothing of what it reads."""

from __future__ import annotations

import json
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

from robustmed_monai import cli
from robustmed_monai.audit import Verdict, audit_bundle, names
from robustmed_monai.audit.arguments import judge_argument
from robustmed_monai.audit.names import judge_name, judge_target
from robustmed_monai.audit.values import Value
from robustmed_monai.utils.bundle import bundle_names

PROBE = """
import sys
from robustmed_monai.audit.command import audit_command
before = set(sys.modules)
status = audit_command(sys.argv[1:])
new = {name.partition('.')[0] for name in set(sys.modules) - before}
print(status, sorted(new & {'torch', 'monai', 'evil', 'numpy'}))
"""


def bundle(folder: Path, **keys: object) -> Path:
    """Write a bundle with these keys in its inference config."""
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(keys))
    return folder


@pytest.mark.parametrize("name", bundle_names())
def test_every_bundle_of_ours_is_safe(name: str, repository: Path) -> None:
    report = audit_bundle(repository / "bundles" / name)
    assert report.refused() == []
    assert report.counts()["safe"] > 50


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("monai.networks.nets.UNet", "safe"),
        ("monai.networks.nets.unet.UNet", "safe"),
        ("monai.transforms.LoadImageDict", "safe"),
        ("torch.os.path.join", "safe"),
        ("monai.utils.CommonKeys.PRED", "safe"),
        ("monai.utils.CommonKeys.__class__", "dangerous"),
        ("glob.os.remove", "dangerous"),
        ("monai.bundle.utils.json.codecs.open", "dangerous"),
        ("monai.networks.nets.UNet.forward", "unknown"),
        ("numpy.random.bytes", "unknown"),
        ("nosuch.thing", "unknown"),
        ("not a name", "unknown"),
    ],
)
def test_names(name: str, word: str) -> None:
    assert judge_name(name).verdict.word == word


@pytest.mark.parametrize(
    ("name", "word"),
    [("UNet", "safe"), ("instantiate", "dangerous"), ("exec", "dangerous"), ("this", "unknown")],
)
def test_targets_without_a_module(name: str, word: str) -> None:
    assert judge_target(name).verdict.word == word


def test_every_allowed_name_exists_and_none_is_denied() -> None:
    missing = {name for name in names.allowed() if pydoc.locate(name) is None}
    # The lowest versions lack a few of the newest names.
    assert {name for name in missing if not name.startswith(("ignite.", "numpy.", "torch."))} == set()
    assert len(missing) < 40
    below = {name for name in names.allowed() if names.denied(name)}
    assert {name.rpartition(".")[0] for name in below} == {"os", "os.path", "monai.auto3dseg"}


def test_arguments_that_are_what_they_are_by_default() -> None:
    for name, value in {
        "weights_only": True,
        "allow_pickle": False,
        "reader": "NibabelReader",
        "_mode_": "callable",
    }.items():
        assert judge_argument(name, Value("data", literal=value)) is None
        assert judge_argument(name, Value("data")) is not None


def test_a_reference_means_what_any_config_says(tmp_path: Path) -> None:
    root = bundle(tmp_path, network={"_target_": "UNet"}, moved="$@network.to('cpu')")
    assert audit_bundle(root).verdict is Verdict.SAFE
    (root / "configs" / "train.json").write_text('{"network": "$monai.utils"}')
    refused = audit_bundle(root).refused()
    assert {finding.file for finding in refused} == {"configs/inference.json", "configs/train.json"}


def test_configs_from_elsewhere_are_laid_over(tmp_path: Path) -> None:
    root = bundle(tmp_path / "b", network={"_target_": "UNet"})
    arguments = tmp_path / "args.json"
    arguments.write_text('{"network#_target_": "os.system"}')
    assert audit_bundle(root).verdict is Verdict.SAFE
    assert audit_bundle(root, [arguments]).verdict is Verdict.DANGEROUS


def test_an_empty_bundle_is_not_safe(tmp_path: Path) -> None:
    assert audit_bundle(tmp_path).verdict is Verdict.UNKNOWN


def test_a_link_that_leaves_the_bundle(tmp_path: Path) -> None:
    root = bundle(tmp_path / "b", x=1)
    (root / "models").symlink_to("/etc")
    assert [finding.reason for finding in audit_bundle(root).refused()] == ["a link that leaves the bundle"]


def test_nothing_is_imported(tmp_path: Path) -> None:
    root = bundle(tmp_path, imports=["$import torch", "$import evil"], x={"_target_": "evil.run"})
    (root / "evil.py").write_text("raise SystemExit('ran')\n")
    ran = subprocess.run(
        [sys.executable, "-c", PROBE, str(root)], capture_output=True, text=True, cwd=root, check=True
    )
    assert ran.stdout.splitlines()[-1] == "1 []"


class TestCommand:
    def test_status_and_text(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = bundle(tmp_path, x={"_target_": "logging.os.system"}, y="$print(1)")
        assert cli.main(["audit", str(root)]) == 2
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "configs/inference.json"
        assert "x::_target_: logging.os.system -- resolves to os.system, which runs commands" in lines[1]
        assert lines[2] == f"{root}: dangerous: do not run it (1 safe, 0 unknown, 1 dangerous)"
        assert cli.main(["audit", str(root), "--all"]) == 2
        assert "y: $print(1)" in capsys.readouterr().out

    def test_a_terminal_is_not_steered(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["audit", str(bundle(tmp_path, x="$run('\x1b[2J')"))]) == 1
        assert "\x1b" not in capsys.readouterr().out

    def test_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["audit", str(bundle(tmp_path, x="$1 + 1")), "--format", "json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["verdict"] == "safe"
        assert [finding["key"] for finding in content["findings"]] == ["x"]

    def test_sarif(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = tmp_path / "audit.sarif"
        root = bundle(tmp_path / "b", x={"_target_": "eval"}, y="$unknown_name")
        assert cli.main(["audit", str(root), "--format", "sarif", "--output", str(output)]) == 2
        run = json.loads(output.read_text())["runs"][0]
        assert [(result["ruleId"], result["level"]) for result in run["results"]] == [
            ("target-dangerous", "error"),
            ("expression-unknown", "warning"),
        ]
        assert [run["tool"]["driver"]["rules"][r["ruleIndex"]]["id"] for r in run["results"]] == [
            result["ruleId"] for result in run["results"]
        ]
        assert len(capsys.readouterr().out.splitlines()) == 1

    def test_a_method_by_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert cli.main(["audit", "ra"]) == 0

    def test_nothing_to_audit(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["audit", str(tmp_path / "none")]) == 3
        assert cli.main(["audit", str(tmp_path), "--format", "xml"]) == 3
        assert "no such folder" in capsys.readouterr().err


class TestRun:
    def test_what_is_safe_runs(self, tmp_path: Path) -> None:
        root = bundle(tmp_path / "b", place=".", run="$list(range(3))", network={"_target_": "UNet"})
        assert cli.main(["run", "--audited", str(root), "--place", "x"]) == 0

    def test_what_is_not_does_not(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        mark = tmp_path / "ran"
        root = bundle(tmp_path / "b", run=f"$open({str(mark)!r}, 'w').close()")
        assert cli.main(["run", "--audited", str(root)]) == 2
        assert "reads and writes any file" in capsys.readouterr().err
        assert not mark.exists()
        assert cli.main(["run", str(root)]) == 0
        assert mark.exists()

    def test_a_config_outside_of_the_bundle(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = bundle(tmp_path / "b", run="$1")
        (tmp_path / "evil.json").write_text('{"run": "$open"}')
        assert cli.main(["run", "--audited", str(root), "--config", "../../evil"]) == 2
        assert "there is not one config called evil" in capsys.readouterr().err

    def test_files_beside_the_bundle(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = bundle(tmp_path / "b", run="$1")
        assert cli.main(["run", "--audited", str(root), "--logging_file", "x.conf"]) == 2
        assert "--logging_file: reads a file that the audit does not know" in capsys.readouterr().err

    def test_a_config_that_is_not_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["run", str(bundle(tmp_path, run="$1")), "--config", "train"]) == 2
        assert "there is not one config called train" in capsys.readouterr().err
