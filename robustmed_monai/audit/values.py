"""What is known of a value without computing it, and which of its attributes may be used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from robustmed_monai.audit.names import kind_of
from robustmed_monai.audit.sources import meanings, module_exists

_UNSET: Final = object()


@dataclass(frozen=True)
class Value:
    """What is known of a value.

    Attributes:
        kind: ``module``, ``named`` (a class, function or constant that is known by name), ``data`` (numbers,
            text, containers of these), ``path``, ``object`` (made by an allowed name), ``any`` (the argument
            of a lambda), or ``unknown``.
        name: dotted name of a module or of what is named.
        literal: the value itself where it is known.
        number: whether it is a number or a truth value.
        grown: whether it is a product that may be long.
        method: whether it may be called although it is data, path or any.
    """

    kind: str
    name: str = ""
    literal: Any = _UNSET
    number: bool = False
    grown: bool = False
    method: bool = False

    @property
    def known(self) -> bool:
        """Whether the value itself is known."""
        return self.literal is not _UNSET

    def called(self) -> Value:
        """What a call of a method, or of an object, returns."""
        return replace(self, literal=_UNSET, method=False)


UNKNOWN = Value("unknown")
DATA = Value("data")
NUMBER = Value("data", number=True)
OBJECT = Value("object")
ANY = Value("any")
PATH = Value("path")

# What opens the inside of functions, frames and generators, or reads attributes that a text names.
INSIDE = re.compile(
    r"(cr|f|gi|ag)_(back|builtins|code|frame|globals|locals)|tb_\w+|func_\w+|format(_map)?|mro"
)
_ATTRIBUTES = Path(__file__).with_name("attributes.txt")


def named_value(dotted: str) -> Value:
    """What is known of a dotted name: a module, something allowed, or nothing.

    Example:
        >>> named_value("os.path").kind, named_value("os.path.join").kind, named_value("os.system").kind
        ('module', 'named', 'unknown')
    """
    if kind_of(dotted):
        return Value("named", dotted)
    modules = any(module_exists(meaning) for meaning in meanings(dotted)[0])
    return Value("module" if modules else "unknown", dotted)


def attribute(value: Value, name: str) -> Value | None:
    """What is known of an attribute of data, a path, an object or an argument; ``None`` if not allowed."""
    if name not in _listed().get(value.kind, ()):
        return None
    return Value(value.kind, method=value.kind != "object")


def join(values: Iterable[Value]) -> Value:
    """What is known of a value that is one of several.

    Example:
        >>> join([DATA, OBJECT]).kind, join([OBJECT, UNKNOWN]).kind, join([DATA, DATA]).kind
        ('any', 'unknown', 'data')
    """
    known = list(values)
    found = list(dict.fromkeys(replace(value, literal=_UNSET) for value in known))
    if not found:
        return DATA
    if len(found) == 1:
        same = all(value.known and value.literal == known[0].literal for value in known)
        return known[0] if same else found[0]
    kinds = {value.kind for value in found}
    if kinds <= {"data"}:
        return Value("data", number=all(v.number for v in found), grown=any(v.grown for v in found))
    if "unknown" in kinds or "module" in kinds:
        return UNKNOWN
    # Named things and objects may both be called.
    return OBJECT if kinds <= {"object", "named"} else ANY


@cache
def _listed() -> dict[str, frozenset[str]]:
    """Attributes that may be used, by kind."""
    found: dict[str, set[str]] = {}
    kind = ""
    for line in _ATTRIBUTES.read_text(encoding="utf-8").splitlines():
        if line.startswith("of "):
            kind = line.removeprefix("of ")
        elif not line.startswith("#"):
            found.setdefault(kind, set()).update(line.split())
    return {name: frozenset(words | found["any"]) for name, words in found.items() if name}


def container(values: Iterable[Value]) -> Value:
    """What is known of a list or dictionary of values: as much as of the least known one."""
    joined = join(values)
    return Value("object" if joined.kind == "named" else joined.kind, grown=joined.grown)
