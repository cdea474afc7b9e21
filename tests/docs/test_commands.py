"""Commands on the pages name what exists; each runs, or stands in a list with the reason why it does not."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

from robustmed_monai import cli

Module = Callable[[Sequence[str]], tuple[int, str]]

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(REPOSITORY))
    for pattern in (
        "*.md",
        "docs/*.md",
        "bundles/*/docs/README.md",
        "data_prep/README.md",
        "benchmarks/README.md",
    )
    for path in REPOSITORY.glob(pattern)
)

# What makes a run short, by bundle and first config. A key that the command gives itself stays.
_SMALL = {"dataset_dir": "my_slices", "max_epochs": 1}
_RA = {"image_size": 32, "channels": [4, 8, 8], "latent_size": 8}
_RISC = {"max_epochs": 1, "depth": 10, "width": 0.125}
_CIFL = {
    "epoch_length": 2,
    "val_images": 4,
    "spatial_size": [24, 24],
    "image_size": 32,
    "filters": 4,
}
_TISSUE = {"image_size": 32, "channels": [4, 4, 4, 4], "batch_size": 8}
SHORT: dict[str, dict[str, Any]] = {
    "ra/train": {**_SMALL, **_RA, "warmup_epochs": 0},
    "ra/evaluate": {"dataset_dir": "my_slices", **_RA},
    "feature_memory/train": {"dataset_dir": "my_slices"},
    "feature_memory/evaluate": {"dataset_dir": "my_slices"},
    "unoranic/train": {**_SMALL, "channels": [4, 4, 4, 8], "batch_size": 8},
    "risc/train": {"dataset_dir": "my_slices", **_RISC},
    "risc/evaluate": {key: _RISC[key] for key in ("depth", "width")},
    "cifl/train": {**_SMALL, **_CIFL},
    "cifl/evaluate": {"dataset_dir": "my_slices"},
    "cifl_segmentation/train": {**_SMALL, **_TISSUE, "channels": [8, 16]},
    "cifl_segmentation/evaluate": {"image_size": 32},
    "cifl_registration/train": {**_SMALL, **_TISSUE, "val_pairs": 3},
}
# Words of a page that stand for something of the reader's.
STANDS_FOR = {
    "<folder of pneumoniamnist.npz>": "medmnist",
    "--dataset_dir ...": "--dataset_dir medmnist",
    "<robustmed_monai.data_prep.oasis_slices>": "data/oasis_slices",
    "--weights ...": "--weights out/cifl_registration/train/model.pt",
    "--config_file ...": "--config_file bundles/ra/configs/inference.json",
}
# Commands that are not run here, and why. The files that they name have to exist all the same.
NOT_RUN = {
    r"python -m monai\.bundle run( --config_file \S+inference\.json)?": "a name in a sentence",
    r".*whole_head.*": "aligns a whole head: tests/bundles",
    r"make \S+": "CI runs `make test`; the other targets are its parts, take hours, or start a server",
    r"(pip|\S+/pip) install .*|python3 -m venv .*|hf .*|\S+/pre-commit install": "installs from the index",
    r"(export|cd|source|mkdir) .*": "sets up a shell",
    r"curl .*|.*-m monailabel\.main .*": "tests/apps/test_monailabel_server.py has the real server",
    r"python -c .*push_to_hf_hub.*": "uploads",
    r"antsApplyTransforms .*": "ANTs is not here; tests/transforms/test_field_files.py",
    r"python (-W ignore )?benchmarks/\S+\.py.*": "takes hours; tests/benchmarks",
    r"python docs/notebooks\.py.*": "tests/docs/test_gallery.py runs the scripts",
    r"python -m robustmed_monai\.data_prep\.oasis_slices .*": "tests/data_prep/test_oasis_slices.py",
    r"python tools/\w+_gallery\.py.*": "tests/tools draws both galleries small",
    r"robustmed (audit|run)( .*)?|python tools/audit_\w+\.py.*": "tests/audit",
    r"robustmed stress( .*)?": "tests/apps/stress",
    r"python tools/format_configs\.py.*": "`make lint` checks what it does",
    r"python (-W ignore )?tools/results_\w+\.py.*": "takes hours; tests/tools",
    r".*onnx\.json|.* onnx_export .*": "tests/bundles/test_export.py",
    r"(srun )?(torchrun|python -m torch\.distributed\.run) .*|srun .*": (
        "tests/reliability/test_distributed.py starts several processes; keys and files are checked here"
    ),
}

# What a line of a shell starts with, in a block of code; anything else there is a file, output or Python.
_PROGRAMS = (
    *(
        "python",
        "python3",
        "robustmed",
        "torchrun",
        "srun",
        "make",
        "pip",
        "curl",
        "hf",
        "ssh",
        "docker",
        "kubectl",
    ),
    *("sbatch", "mkdir", "export", "source", "cd", "antsApplyTransforms", ".venv/bin/pre-commit"),
    *(".venv-label/bin/pip", ".venv-label/bin/python"),
)
# In the middle of a sentence only these are commands.
_INLINE = ("python ", "robustmed ", "torchrun ", "make ", "pip install ")
_FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4,}\S[^\n]*\n?)+", re.MULTILINE)
# The footer of a results table is a record of what was run, cut short; not something to type.
_RECORD = re.compile(r"^(?:Mean ± standard deviation|One run|One seed).*$", re.MULTILINE)


def commands(text: str) -> list[str]:
    """Commands of a page in its order, one line each, without comments, the page's variables filled in."""
    text = _RECORD.sub("", text)
    found: list[tuple[int, str]] = []
    for pattern in (_FENCE, _INDENTED):
        for block in pattern.finditer(text):
            if pattern is _INDENTED or block[2] in ("", "bash", "sh", "shell", "console"):
                found += _lines(block[0 if pattern is _INDENTED else 3], block.start())
        # Blanked, not cut, so that what is found keeps its place.
        text = pattern.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    for span in re.finditer(r"`([^`]+)`", text):
        if span[1].startswith(_INLINE) and "..." not in span[1]:
            found.append((span.start(), " ".join(span[1].split())))
    return list(dict.fromkeys(_filled_in([line for _, line in sorted(found)])))


def _lines(block: str, start: int) -> Iterator[tuple[int, str]]:
    for i, line in enumerate(re.sub(r"\\\n\s*", "", block).splitlines()):
        # VARIABLE=value before a command, or alone, belongs to the shell too.
        words = re.sub(r"^(\w+=('[^']*'|\S*)\s*)+", "", line.strip()).split()
        if (words and words[0] in _PROGRAMS) or re.match(r"^[A-Z]\w*=\S+$", line.strip()):
            yield start + i, line.strip()


def _filled_in(lines: list[str]) -> Iterator[str]:
    values: dict[str, str] = {}
    for line in lines:
        if match := re.match(r"^([A-Z]\w*)=(\S+)$", line):
            values[match[1]] = match[2]
            continue
        for name, value in values.items():
            line = line.replace(f"${name}/", f"{value}/")
        yield re.sub(r"\s+#\s.*$", "", line)


def test_commands_are_found() -> None:
    page = "`make test` and `python -m this ...`\n\n    C=a/b\n    # why\n    python -m x $C/y \\\n"
    page += "        --z  # note\n    {}\n"
    assert commands(page + "```bash\npip install .\n```\n```python\nmake = 1\n```\n") == [
        "make test",
        "python -m x a/b/y --z",
        "pip install .",
    ]
    found = [
        command for page in PAGES for command in commands((REPOSITORY / page).read_text(encoding="utf-8"))
    ]
    for pattern in NOT_RUN:
        assert any(re.fullmatch(pattern, command) for command in found), (
            f"{pattern}: no page has such a command"
        )


@pytest.mark.parametrize("page", PAGES)
def test_configs_keys_modules_and_options_of_a_page_exist(
    page: str, repository: Path, module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    for printed, command in _printed_and_meant(page):
        _files_exist(command)
        if command.startswith("robustmed ") and not _is_not_run(printed):
            command = shlex.join(_stood_for(_words(command)[1:], monkeypatch))
        if "monai.bundle run --config_file" in command:
            _keys_exist(command)
        elif ours := re.match(r"python -m (robustmed_monai\.\S+)(.*)", command):
            assert importlib.util.find_spec(ours[1]), f"{command}: no such module"
            if options := re.findall(r"(?<=\s)--[\w-]+", ours[2]):
                _, text = module([ours[1], "--help"])
                assert not [option for option in options if option not in text], command


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, place: Path, module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    for printed, command in _printed_and_meant(page):
        if not _is_not_run(printed):
            status, said = _run(_words(command), module, monkeypatch)
            assert status == 0, f"{page}: {printed}\n{said}"


def _printed_and_meant(page: str) -> Iterator[tuple[str, str]]:
    for printed in commands((REPOSITORY / page).read_text(encoding="utf-8")):
        command = printed
        for words, meant in STANDS_FOR.items():
            command = command.replace(words, meant)
        yield printed, command


def _is_not_run(printed: str) -> bool:
    return any(re.fullmatch(pattern, printed) for pattern in NOT_RUN)


def _run(words: Sequence[str], module: Module, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    if words[0] == "robustmed":
        return _run(_stood_for(words[1:], monkeypatch), module, monkeypatch)
    assert tuple(words[:2]) == ("python", "-m"), f"{shlex.join(words)}: neither run nor in NOT_RUN"
    words = words[2:]
    if words[0] == "torch.distributed.run":  # what each of the processes would do
        words = words[words.index("-m") + 1 :]
    if words[:2] == ["monai.bundle", "run"]:
        # The bundle's logging.conf would bind the root logger to a stream that ends with this test.
        words = [*words, *_short(words), "--logging_file", "False"]
    return module(words)


def _words(command: str) -> list[str]:
    """What a shell makes of a command; within double quotes `shlex` alone keeps the backslash of `\\$`."""
    return shlex.split(command.replace("\\$", "$"))


def _stood_for(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command that stands for `robustmed words...`: of MONAI, or the one that it starts."""
    started: list[list[str]] = []

    def start(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        started.append(command[1:])
        return subprocess.CompletedProcess(command, 0)

    def run_bundle(files: Sequence[str], values: dict[str, Any]) -> int:
        config = files[0] if len(files) == 1 else str(list(files))
        given = [word for key, value in values.items() for word in (f"--{key}", str(value))]
        started.append(["-m", "monai.bundle", "run", "--config_file", config, *given])
        return 0

    # Undone at once: the runs that follow start git for their provenance.
    with monkeypatch.context() as patch:
        patch.setattr("robustmed_monai.cli.subprocess.run", start)
        patch.setattr(cli, "run_bundle", run_bundle)
        # Its whole volume takes a minute.
        patch.setattr(cli, "demo_input", lambda method, config: {"input": "brain_t1.nii.gz"})
        assert cli.main(words) == 0, f"robustmed {shlex.join(words)}"
    if "robustmed_monai.cli" in started[0]:  # what each of several processes does
        again = started[0][started[0].index("robustmed_monai.cli") + 1 :]
        return _stood_for(again, monkeypatch)
    return ["python", *started[0]]


def _short(words: Sequence[str]) -> list[str]:
    """Overrides that make a run of the bundle short, but for the keys that the command gives."""
    first = re.search(r"bundles/(\w+)/configs/(\w+)\.json", words[words.index("--config_file") + 1])
    assert first, f"{shlex.join(words)}: names no config of bundles/"
    given = {word.lstrip("-").split("=")[0].split("#")[-1] for word in words if word.startswith("--")}
    short = dict(SHORT.get("/".join(first.groups()), {}))
    if first[2] == "evaluate" and not re.search("out/", " ".join(words)):
        short = {"dataset_dir": "my_slices"}  # the shipped weights have the size that they have
    if "pca.json" in " ".join(words):  # a code needs as many images as it has numbers
        short["network_def#latent_size"] = 8
    if "volumes.json" in " ".join(words):  # it names the embedded volumes itself
        short |= {"spatial_size": [16, 16, 16], "depth": 2}
        given.add("dataset_dir")
    if "oasis.json" in " ".join(words):  # it names data/oasis_slices itself
        given.add("dataset_dir")
    # An epoch is what the reader chose; here one of few steps is enough.
    given -= {"max_epochs", "epoch_length"} if first[1] == "cifl" else set()
    return [word for key, value in short.items() if key not in given for word in (f"--{key}", str(value))]


def _files_exist(command: str) -> None:
    named = re.findall(r"(?:bundles|benchmarks|robustmed_monai|docs)/[\w./-]+", command)
    missing = [path for path in named if not (REPOSITORY / path).exists()]
    assert not missing, f"{command}: there is no {missing}"
    if target := re.fullmatch(r"make (\S+)", command):
        makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{re.escape(target[1])}:", makefile, re.MULTILINE), f"{command}: no such target"


def _keys_exist(command: str) -> None:
    """The config has every key that a command overrides."""
    # Without the end of srun's `bash -c '...'`.
    words = " ".join(_words(command.split("monai.bundle run", 1)[1].removesuffix("'"))).split("--")[1:]
    given: dict[str, Any] = {}
    for key, _, value in (word.strip().partition(" ") for word in words):
        # Numbers and switches as python-fire reads them.
        number = re.fullmatch(r"True|False|-?\d+(\.\d+)?", value)
        given[key] = ast.literal_eval(value) if number else value
    files = [name.strip(" '") for name in given.pop("config_file").strip("[]").split(",")]
    workflow = ConfigWorkflow(files, logging_file=False, **given)
    workflow.parser["initialize"] = {"_target_": "robustmed_monai.utils.bundle.check_overrides"}
    workflow.initialize()
