"""Verdicts on dotted names: the deny-list, the allow-list, and what is in neither."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

from robustmed_monai.audit.sources import may_exist, meanings, module_exists, monai_definitions
from robustmed_monai.audit.verdicts import Opinion, dangerous, safe, unknown, worst

_LISTS = Path(__file__).parent
# Names that MONAI puts into every expression.
GLOBALS = {"monai": "monai", "torch": "torch", "np": "numpy", "numpy": "numpy"}
# Ends of file names, which are no names of functions.
_FILES = re.compile(
    "conf|csv|dcm|gz|h5|html|jpg|json|log|md|mha|nii|np[yz]|nrrd|onnx|png|pth?|py|ts|txt|ya?ml"
)
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@cache
def judge_name(dotted: str) -> Opinion:
    """Judge a dotted name by what it resolves to.

    Args:
        dotted: name from a config, beginning with a module or a builtin (``builtins.len``).

    Example:
        >>> judge_name("torch.optim.Adam").verdict.word, judge_name("logging.os.system").verdict.word
        ('safe', 'dangerous')
    """
    if not _DOTTED.fullmatch(dotted):
        return unknown(f"{dotted!r} is no dotted name")
    if reason := _inside(dotted):
        return dangerous(reason)
    found, seen = meanings(dotted)
    if kind_of(dotted):
        return safe("allowed by name")
    against = [(name, why) for name in sorted(seen, key=len) if (why := denied(name)) and not kind_of(name)]
    if against:
        name, why = against[0]
        return dangerous(f"{why}" if name == dotted else f"resolves to {name}, which {why}")
    if inner := next((reason for name in sorted(seen) if (reason := _inside(name))), None):
        return unknown(f"{inner}")
    return unknown(_why_unknown(dotted, found))


def judge_target(dotted: str) -> Opinion:
    """Judge the name in a ``_target_``, which may be one of MONAI's own without its module.

    Example:
        >>> judge_target("UNet").verdict.word, judge_target("run_cmd").verdict.word
        ('safe', 'dangerous')
    """
    return worst([judge_name(name) for name in targets(dotted)])


def targets(dotted: str) -> list[str]:
    """Full names that MONAI's ``locate`` can find for the text of a ``_target_``."""
    if dotted in monai_definitions():
        return monai_definitions()[dotted]
    first = dotted.partition(".")[0]
    if not module_exists(first) and (first.startswith("__") or first in _builtins()):
        return [f"builtins.{dotted}"]
    return [dotted]


@cache
def kind_of(dotted: str) -> str:
    """The kind of an allowed name as ``allowed.txt`` says (``object``, ``data``, ...), or nothing.

    Args:
        dotted: name from a module or ``builtins`` on; all that it can mean has to be allowed.
    """
    found, seen = meanings(dotted)
    lasts = {name.rpartition(".")[2] for name in seen}
    kinds = {_kind(name, lasts) for name in found}
    return kinds.pop() if len(kinds) == 1 else ("" if "" in kinds else "object")


@cache
def is_denied(dotted: str) -> bool:
    """Whether a text names something on the deny-list: a function below a denied module, not the module."""
    if "." not in dotted or not _DOTTED.fullmatch(dotted) or _FILES.fullmatch(dotted.rpartition(".")[2]):
        return False
    names = [name for name in meanings(dotted)[1] if denied(name) and not kind_of(name)]
    return any(may_exist(name) and not module_exists(name) for name in names)


@cache
def importable(module: str) -> bool:
    """Whether importing a module is harmless: it, or a module below it, has names that are allowed.

    Modules that act when they are imported have none.
    """
    if any(name.startswith(f"{module}.") for name in _allowed().values()):
        return True
    known = {"monai", "torch", "ignite", "robustmed_monai", "numpy"}
    return module.partition(".")[0] in known and not denied(module)


def top_levels() -> set[str]:
    """Top-level packages that configs rely on: a module of the bundle by such a name would replace them."""
    return {name.partition(".")[0] for name in _allowed().values()} | set(sys.stdlib_module_names)


def denied(name: str) -> str:
    """Why a name is denied, or nothing: it, or what it lies below, is on the deny-list."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if why := _deny_list().get(".".join(parts[:length])):
            return why
    return ""


def allowed() -> list[str]:
    """All allowed names as they are listed."""
    return sorted(set(_allowed().values()))


def _kind(resolved: str, lasts: set[str]) -> str:
    """The kind of one resolved name; ``lasts`` are the last parts of the names on the way to it."""
    for last in lasts:
        for kind, listed in _by_last().get(last, ()):
            if resolved in meanings(listed)[0]:
                return kind
    enum = resolved.rpartition(".")[0]
    listed_enums = _by_last().get(enum.rpartition(".")[2], ())
    return "object" if any(k == "enum" and enum in meanings(n)[0] for k, n in listed_enums) else ""


def _inside(dotted: str) -> str:
    dunder = next((part for part in dotted.split(".") if part.startswith("__")), None)
    if dunder and dotted != "builtins.__import__":
        return f"{dunder} reaches the inside of Python"
    return ""


def _why_unknown(dotted: str, found: frozenset[str]) -> str:
    first = dotted.partition(".")[0]
    meant = ", ".join(sorted(found - {dotted}))
    resolved = f" (it is {meant})" if meant else ""
    if first == "scripts":
        return "code of the bundle itself, which was not judged"
    if first != "builtins" and not module_exists(first):
        if "." not in dotted:
            return "no class or function of MONAI and no package has this name"
        return f"the package {first} is not installed, so nothing is known of it"
    return f"on neither list{resolved}"


@cache
def _allowed() -> dict[str, str]:
    """Allowed names as they are listed, keyed by ``kind name``."""
    table = {}
    for path in sorted(_LISTS.glob("allowed*.txt")):
        kind = module = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if not words or line.startswith("#"):
                kind = ""
            elif not kind:
                kind, module = words
            else:
                table.update({f"{kind} {module}.{name}": f"{module}.{name}" for name in words})
    return table


@cache
def _by_last() -> dict[str, list[tuple[str, str]]]:
    """Kinds and allowed names by the last part of the name."""
    table: dict[str, list[tuple[str, str]]] = {}
    for key, name in _allowed().items():
        table.setdefault(name.rpartition(".")[2], []).append((key.partition(" ")[0], name))
    return table


@cache
def _deny_list() -> dict[str, str]:
    """Denied names with what they do; what they resolve to is denied with them."""
    table = {}
    for line in (_LISTS / "denied.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, why = line.split(maxsplit=1)
            table[name] = why
            if "." in name:
                table.update({meaning: why for meaning in meanings(name)[0] if meaning not in table})
    return table


@cache
def _builtins() -> frozenset[str]:
    import builtins

    return frozenset(dir(builtins))
