"""W2: the package holds none of the calls by which a file that is read can run code or leave its folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for folder in ("robustmed_monai", "benchmarks") for path in (REPOSITORY / folder).rglob("*.py")
)
# Calls by their name as written, whatever module they are reached through.
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "dill.loads", "joblib.load",
    "marshal.load", "marshal.loads", "shelve.open", "pandas.read_pickle", "yaml.load", "yaml.load_all",
    "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "tempfile.mktemp",
}  # fmt: skip
FORBIDDEN_ARGUMENTS = {"allow_pickle": True, "weights_only": False, "shell": True}
# With these, an archive writes nothing outside of its folder.
SAFE_FILTERS = {"data"}


def faults(source: str) -> Iterator[str]:
    """Yield what is forbidden in a piece of Python, as ``line: what``."""
    aliases: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {fault}" for fault in _faults_of_call(node, aliases))


def _faults_of_call(call: ast.Call, aliases: dict[str, str]) -> Iterator[str]:
    written = ast.unparse(call.func)
    first, dot, rest = written.partition(".")
    name = aliases.get(first, first) + dot + rest
    if name in FORBIDDEN_NAMES or name in FORBIDDEN_CALLS:
        yield name
    given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    for argument, forbidden in FORBIDDEN_ARGUMENTS.items():
        value = given.get(argument)
        # Anything but the safe constant may turn out to be the forbidden one.
        if value is not None and not (isinstance(value, ast.Constant) and value.value is (not forbidden)):
            yield f"{argument}={ast.unparse(value)}"
    if name.split(".")[-1] in ("extractall", "unpack_archive"):
        chosen = given.get("filter")
        if not (isinstance(chosen, ast.Constant) and chosen.value in SAFE_FILTERS):
            yield f"{name} without filter='data'"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_no_forbidden_call(path: Path) -> None:
    assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(stream)",
        "import pickle as p\np.loads(text)",
        "from pickle import load\nload(stream)",
        "from pickle import load as read\nread(stream)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=not strict)",
        "eval('1')",
        "exec(text)",
        "__import__('os')",
        "subprocess.run(command, shell=True)",
        "import os\nos.system('ls')",
        "import yaml\nyaml.load(stream, Loader)",
        "tarfile.open(path).extractall(folder)",
        "tarfile.open(path).extractall(folder, filter='fully_trusted')",
        "shutil.unpack_archive(path)",
    ],
)
def test_forbidden_calls_are_found(source: str) -> None:
    assert len(list(faults(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "network.eval()",
        "re.compile('a')",
        "torch.compile(network)",
        "json.load(stream)",
        "np.load(path, allow_pickle=False)",
        "torch.load(path, weights_only=True)",
        "subprocess.run(['git', 'status'], shell=False)",
        "tarfile.open(path).extractall(folder, filter='data')",
        "yaml.safe_load(stream)",
    ],
)
def test_their_safe_relatives_pass(source: str) -> None:
    assert list(faults(source)) == []
