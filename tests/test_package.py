"""Promises of the package as a whole that no linter knows of; ruff and import-linter hold the others."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import robustmed_monai

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("robustmed_monai", "data_prep", "benchmarks", "tools", "docs", "tests")
TREES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for folder in FOLDERS
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
}
PACKAGE = {
    path: tree
    for path, tree in TREES.items()
    if path.relative_to(REPOSITORY).parts[0] in ("robustmed_monai", "data_prep")
}
# What ruff lets pass: arguments that are not the safe constant, and calls on objects of a type unknown to it.
UNSAFE = re.compile(
    r"allow_pickle=(?!False\b)|weights_only=(?!True\b)|shell=(?!False\b)|\b__import__\(|(?<![\w.])compile\("
    r"|\bextractall\((?!.*filter=[\"']data[\"'])"
)


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def _declared() -> dict[str, list[str]]:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    declared = {"core": config["options"]["install_requires"], **config["options.extras_require"]}
    return {group: [line for line in text.splitlines() if line] for group, text in declared.items()}


def _distribution(requirement: str) -> str:
    return re.split(r"[\[<>=~! ]", requirement)[0].lower().replace("_", "-")


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _unsafe(tree: ast.Module) -> list[str]:
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if UNSAFE.search(call)]


def test_importing_the_package_loads_next_to_nothing() -> None:
    program = "import robustmed_monai, sys; sys.stdout.write(' '.join(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
    assert not {b"torch", b"monai", b"numpy"} & set(loaded.stdout.split())


def test_files_have_at_most_500_lines_and_functions_50() -> None:
    """The docstring of a function does not count."""
    long = [_name(path) for path in TREES if len(path.read_text(encoding="utf-8").splitlines()) > 500]
    for path, tree in PACKAGE.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                if body and node.end_lineno - body[0].lineno + 1 > 50:
                    long.append(f"{_name(path)}: {node.name}")
    assert not long


def test_imports_are_declared_dependencies() -> None:
    owners = packages_distributions()
    groups = ("core", "export", "perceptual", "label")
    allowed = {_distribution(line) for group in groups for line in _declared()[group]}
    ours = {"robustmed_monai", *sys.stdlib_module_names}
    imported = {name.partition(".")[0] for tree in PACKAGE.values() for name in _imports(tree)}
    for module in imported - ours:
        assert {_distribution(owner) for owner in owners.get(module, [module])} & allowed, (
            f"{module} is not in install_requires of setup.cfg"
        )


def test_no_call_runs_code_of_a_file_or_leaves_its_folder() -> None:
    unsafe = {_name(path): _unsafe(tree) for path, tree in TREES.items() if "tests" not in path.parts}
    assert not {name: calls for name, calls in unsafe.items() if calls}


@pytest.mark.parametrize(
    ("call", "count"),
    [
        ("np.load(path, allow_pickle=trusted)", 1),
        ("np.load(path, allow_pickle=False)", 0),
        ("torch.load(path, weights_only=not strict)", 1),
        ("torch.load(path, weights_only=True)", 0),
        ("subprocess.run(command, shell=shell)", 1),
        ("archive.extractall(folder)", 1),
        ("archive.extractall(folder, filter='fully_trusted')", 1),
        ("archive.extractall(folder, filter='data')", 0),
        ("__import__('os')", 1),
        ("compile(text, 'a', 'exec')", 1),
        ("torch.compile(re.compile('a'))", 0),
    ],
)
def test_unsafe_calls_are_found(call: str, count: int) -> None:
    assert len(_unsafe(ast.parse(call))) == count


def test_lowest_versions_are_those_of_the_security_policy() -> None:
    policy = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
    lowest = dict(re.findall(r"`?(monai|torch) >= ([\d.]+)", policy))
    assert set(lowest) == {"monai", "torch"}
    assert {f"{package}>={version}" for package, version in lowest.items()} <= set(_declared()["core"])


def test_versions_agree() -> None:
    version = robustmed_monai.__version__.partition("+")[0]
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version}" in changelog
    assert f"version: {version}" in citation
