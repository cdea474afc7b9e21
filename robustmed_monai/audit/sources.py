"""What a dotted name means, read from the source of the installed packages: nothing is imported."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

_OWN = Path(__file__).resolve().parents[2]
_STEPS = 40  # aliases that are followed before a name is given up


@cache
def meanings(dotted: str) -> tuple[frozenset[str], frozenset[str]]:
    """Resolve a dotted name through the imports and aliases of the modules that it passes.

    Args:
        dotted: name as it is written, such as ``logging.os.system``.

    Returns:
        The names that it can mean, where they are defined: ``{"os.system"}``. There is more than one where
        a module binds the name twice. A name that the source does not show (C extensions, ``__getattr__``)
        stays as far as it was resolved. Second: these, the name itself and all names on the way.

    Example:
        >>> sorted(meanings("logging.os.system")[0]), sorted(meanings("json.JSONEncoder")[0])
        (['os.system'], ['json.encoder.JSONEncoder'])
    """
    found: set[str] = set()
    waiting, seen = [dotted], {dotted}
    while waiting:
        name = waiting.pop()
        following = _step(name) if len(seen) <= _STEPS else None
        if following is None:
            found.add(name)
            continue
        waiting += [new for new in following if new not in seen]
        seen.update(following)
    return frozenset(found), frozenset(seen)


def module_exists(dotted: str) -> bool:
    """Whether a module of this name is installed; its parents are not imported."""
    return _spec(dotted) is not None


@cache
def monai_definitions() -> dict[str, list[str]]:
    """Classes and functions of the installed MONAI by bare name, as its ``ComponentLocator`` finds them."""
    spec = _spec("monai")
    table: dict[str, list[str]] = {}
    for folder in spec.submodule_search_locations or [] if spec else []:
        for path in sorted(Path(folder).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            module = ".".join(["monai", *(part for part in parts if part != "__init__")])
            text = path.read_text(encoding="utf-8", errors="replace")
            found = re.findall(r"^(?:class|def) (\w+)|^((?:\w+ = )+)[A-Z]\w+$", text, re.MULTILINE)
            for name in dict.fromkeys(word for pair in found for word in re.findall(r"\w+", " ".join(pair))):
                table.setdefault(name, []).append(f"{module}.{name}")
    return table


def may_exist(dotted: str) -> bool:
    """Whether a module can have a name: its source binds it, or does not show all that it binds."""
    module, _, name = dotted.rpartition(".")
    table, stars = _table(module)
    hidden = bool(stars) or "__getattr__" in table or not table
    return module_exists(module) and (hidden or name in table or module_exists(dotted))


def _step(dotted: str) -> list[str] | None:
    """Replace the first alias of a dotted name by what it stands for; ``None`` where there is none."""
    parts = dotted.split(".")
    module = parts[0]
    if not module_exists(module):
        return None
    for index in range(1, len(parts)):
        part, rest = parts[index], parts[index + 1 :]
        bound = _bound(module, part)
        inner = f"{module}.{part}"
        is_module = module_exists(inner)
        # A module that holds a function of its own name is also reached through that function's path.
        others = [name for name in bound if not (f"{dotted}.").startswith(f"{name}.")]
        if others:
            here = [dotted] if is_module else []
            following = [".".join([name, *rest]) for name in others]
            return following + here if dotted not in following else following
        if not is_module:
            return None
        module = inner
    return None


@cache
def _bound(module: str, name: str, depth: int = 0) -> tuple[str, ...]:
    """What ``name`` is bound to at the top of a module: other names, or itself where it is defined."""
    table, stars = _table(module)
    if name in table:
        return tuple(dict.fromkeys(table[name]))
    if depth > _STEPS or name.startswith("_"):
        return ()
    found: list[str] = []
    for star in stars:
        found += _bound(star, name, depth + 1)
    return tuple(dict.fromkeys(found))


@cache
def _table(module: str) -> tuple[dict[str, list[str]], list[str]]:
    """Top-level names of a module with what they are bound to, and the modules that it imports whole."""
    spec = _spec(module)
    origin = getattr(spec, "origin", None)
    if not origin or not origin.endswith(".py"):
        return {}, []
    try:
        tree = ast.parse(Path(origin).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return {}, []
    package = module if spec and spec.submodule_search_locations is not None else module.rpartition(".")[0]
    table: dict[str, list[str]] = {}
    stars: list[str] = []
    for node in _statements(tree.body):
        _bind(node, module, package, table, stars)
    return table, stars


def _statements(body: list[ast.stmt]) -> list[ast.stmt]:
    """Statements of a module, those below ``if``, ``try`` and ``with`` included."""
    found = []
    for node in body:
        found.append(node)
        if isinstance(node, ast.If | ast.Try | ast.With):
            for field in ("body", "orelse", "finalbody"):
                found += _statements(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                found += _statements(handler.body)
    return found


def _bind(node: ast.stmt, module: str, package: str, table: dict[str, list[str]], stars: list[str]) -> None:
    """Add what one statement binds."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            table.setdefault(alias.asname or top, []).append(alias.name if alias.asname else top)
    elif isinstance(node, ast.ImportFrom):
        levels = package.split(".")
        base = ".".join(levels[: len(levels) - node.level + 1]) if node.level else ""
        source = ".".join(filter(None, [base, node.module]))
        for alias in node.names:
            if alias.name == "*":
                stars.append(source)
            else:
                table.setdefault(alias.asname or alias.name, []).append(f"{source}.{alias.name}")
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        table.setdefault(node.name, []).append(f"{module}.{node.name}")
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for name in (
            name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)
        ):
            table.setdefault(name, []).append(_assigned(node.value, module, name))


def _assigned(value: ast.expr | None, module: str, name: str) -> str:
    """What an assignment binds: the name it copies, or itself."""
    if isinstance(value, ast.Name) and value.id != name:
        return f"{module}.{value.id}"
    return f"{module}.{name}"


@cache
def _spec(dotted: str) -> ModuleSpec | None:
    """Find a module as an import would, without importing it or its parents."""
    path: list[str] | None = None
    spec = None
    name = ""
    for part in dotted.split("."):
        name = f"{name}.{part}" if name else part
        if not name.replace(".", "").isidentifier():
            return None
        if name in sys.builtin_module_names:
            spec = ModuleSpec(name, None, origin="built-in")
            path = []
            continue
        # An editable installation may be known to the running interpreter alone.
        spec = PathFinder.find_spec(name, [*sys.path, str(_OWN)] if path is None else path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    return spec
