"""Promises of the package as a whole: cheap import, small documented files, declared dependencies."""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import robustmed_monai

REPOSITORY = Path(__file__).resolve().parents[1]
# Loaded inside the functions that need them, unless MONAI itself has loaded them already.
HEAVY = {
    "SimpleITK", "lpips", "matplotlib", "medmnist", "nilearn", "pandas", "skimage", "sklearn", "torchvision",
}  # fmt: skip
SOURCES = sorted(
    path
    for folder in ("robustmed_monai", "benchmarks", "tests")
    for path in (REPOSITORY / folder).rglob("*.py")
)
PACKAGE_SOURCES = [path for path in SOURCES if path.relative_to(REPOSITORY).parts[0] == "robustmed_monai"]
MODULES = [
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE_SOURCES
    # The app is imported by MONAI Label, in an environment of its own.
    if path.parent.name != "monailabel"
]
# From the ground up: a folder imports from itself, its own floor and those below.
FLOORS = (
    {"utils"},
    {"transforms"},
    {"data", "networks"},
    {"losses"},
    {"inferers", "metrics", "visualize"},
    {"handlers"},
    {"engines"},
    {"apps", "data_prep"},
)


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def _python(program: str) -> set[str]:
    """Words that a program writes in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    return set(done.stdout.split())


def _declared() -> dict[str, list[str]]:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    declared = {"core": config["options"]["install_requires"], **config["options.extras_require"]}
    return {group: [line for line in text.splitlines() if line] for group, text in declared.items()}


def _distribution(requirement: str) -> str:
    return re.split(r"[\[<>=~! ]", requirement)[0].lower().replace("_", "-")


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _floor(folder: str) -> int:
    return next(floor for floor, folders in enumerate(FLOORS) if folder in folders)


def test_importing_the_package_loads_next_to_nothing() -> None:
    loaded = _python("import robustmed_monai, sys; sys.stdout.write(' '.join(sys.modules))")
    assert "robustmed_monai" in loaded
    assert not {"torch", "monai", "numpy"} & loaded


def test_importing_every_module_loads_nothing_heavy_that_monai_does_not() -> None:
    extra = _python(
        "import monai, sys\n"
        "before = set(sys.modules)\n"
        f"import {', '.join(MODULES)}\n"
        "sys.stdout.write(' '.join(set(sys.modules) - before))"
    )
    assert set(MODULES) <= extra
    assert not extra & HEAVY


def test_every_folder_of_modules_is_installed() -> None:
    assert not {path.parent for path in PACKAGE_SOURCES if not (path.parent / "__init__.py").is_file()}


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_and_classes_are_documented_and_exported_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    exported = getattr(module, "__all__", [])
    assert not [item for item in exported if not hasattr(module, item)]
    for item, value in vars(module).items():
        public = not item.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value))
        if not public or value.__module__ != name:
            continue
        assert value.__doc__, f"{name}.{item} has no docstring"
        for method, function in vars(value).items() if inspect.isclass(value) else ():
            if inspect.isfunction(function) and not method.startswith("_"):
                assert inspect.getdoc(getattr(value, method)), f"{name}.{item}.{method} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_no_file_is_longer_than_500_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("path", PACKAGE_SOURCES, ids=_name)
def test_no_function_is_longer_than_50_lines(path: Path) -> None:
    """The docstring does not count."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 50, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "robustmed_monai").glob("*/**/*.py")), ids=_name)
def test_no_module_imports_from_a_floor_above(path: Path) -> None:
    floor = _floor(path.relative_to(REPOSITORY).parts[1])
    for name in _imports(path):
        if name.startswith("robustmed_monai."):
            assert _floor(name.split(".")[1]) <= floor, f"{name} stands above {_name(path)}"


@pytest.mark.parametrize("path", PACKAGE_SOURCES, ids=_name)
def test_every_import_is_a_declared_dependency(path: Path) -> None:
    allowed = {
        _distribution(line)
        for group in ("core", "export", "perceptual", "label")
        for line in _declared()[group]
    }
    ours = {"robustmed_monai", "data_prep", *sys.stdlib_module_names}
    for module in {name.partition(".")[0] for name in _imports(path)} - ours:
        owners = {owner.lower().replace("_", "-") for owner in _distributions().get(module, [module])}
        assert owners & allowed, f"{module} is not in install_requires of setup.cfg"


def test_the_floors_are_those_of_the_security_policy() -> None:
    core = _declared()["core"]
    assert {"monai>=1.6.1", "torch>=2.10", "numpy>=1.26"} <= set(core)
    policy = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
    assert "monai >= 1.6.1" in policy
    assert "torch >= 2.10" in policy


def test_extras_are_the_named_ones() -> None:
    assert set(_declared()) == {"core", "dev", "docs", "label", "plot", "export", "perceptual"}


def test_versions_agree() -> None:
    version = robustmed_monai.__version__
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version}" in changelog
    assert f"version: {version}" in citation
