"""Python files of a bundle: what they import and name, read from their syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from robustmed_monai.audit.names import is_denied, judge_name, top_levels
from robustmed_monai.audit.verdicts import Opinion, Verdict, dangerous, unknown

_LARGEST = 2_000_000
_NOT_JUDGED = "code of the bundle itself, which runs as soon as something names it; read it"


def judge_script(path: Path, file: str) -> list[tuple[str, str, Opinion]]:
    """Judge a Python file: unknown at best, dangerous where it names what is denied.

    Args:
        path: the file.
        file: its path in the bundle, with slashes.

    Returns:
        Place (line), text and opinion.
    """
    found = [("", file, unknown(_NOT_JUDGED))]
    top = file.split("/")[0].removesuffix(".py")
    if top in top_levels():
        reason = (
            f"takes the place of {top}: MONAI puts the bundle's folder in front of the installed packages"
        )
        found.append(("", file, dangerous(reason)))
    if path.stat().st_size > _LARGEST:
        return found
    try:
        tree = ast.parse(path.read_bytes())
        names = list(_names(tree))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return [*found, ("", file, unknown("is no Python of this version"))]
    seen = set()
    for line, dotted in names:
        if dotted in seen:
            continue
        seen.add(dotted)
        if is_denied(dotted) or dotted in ("builtins.eval", "builtins.exec"):
            opinion = judge_name(dotted)
            found.append((f"line {line}", dotted, Opinion(Verdict.DANGEROUS, opinion.reason)))
    return found


def _names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Dotted names that a file imports or uses, by what its imports make of them."""
    imports: dict[str, str] = {}
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield node.lineno, f"{node.module}.{alias.name}"
    for node in nodes:
        if isinstance(node, ast.Attribute) and (dotted := _dotted(node)):
            first, _, rest = dotted.partition(".")
            if first in imports:
                yield node.lineno, f"{imports[first]}.{rest}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in imports:
            yield node.lineno, f"builtins.{node.func.id}"


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""
