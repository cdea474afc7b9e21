"""This package's own names that a bundle may use, as the audit lists them: ``python tools/audit_names.py``.

Written are the names that the configs of the bundles use and those that the packages export, except what
``denied.txt`` has. A new name is looked at before the list is committed: any config may call it.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustmed_monai.audit.names import judge_name
from robustmed_monai.audit.sources import meanings, module_exists
from robustmed_monai.audit.verdicts import Verdict

_ROOT = Path(__file__).resolve().parents[1]
_LIST = _ROOT / "robustmed_monai" / "audit" / "allowed_robustmed.txt"
_NAME = re.compile(r"robustmed_monai(?:\.\w+)+")
_EXPORTING = ("transforms", "inferers", "handlers", "engines", "data", "networks", "losses", "metrics")
_DATA = re.compile(
    r"^(str|int|float|bool|None|dict|list|tuple|Sequence|Mapping|Any)\b(?!.*(Tensor|Callable|Module))"
)
_HEAD = "# This package's own names, made by tools/audit_names.py. See allowed.txt.\n"


def main() -> int:
    """Write the list and say how long it is."""
    names = sorted({name for name in (*_used(), *_exported()) if _listable(name)})
    groups: dict[tuple[str, str], set[str]] = {}
    for name in names:
        module, _, last = name.rpartition(".")
        groups.setdefault((_kind(name), module), set()).add(last)
    text = _HEAD
    for (kind, module), members in sorted(groups.items(), key=lambda item: item[0][::-1]):
        text += (
            f"\n{kind} {module}\n"
            + textwrap.fill(" ".join(sorted(members)), 108, break_long_words=False)
            + "\n"
        )
    _LIST.write_text(text, encoding="utf-8")
    print(f"{_LIST.relative_to(_ROOT)}: {len(names)} names")
    return 0


def _used() -> Iterator[str]:
    """Names in the bundles' configs."""
    for path in sorted(_ROOT.glob("bundles/*/configs/*.json")):
        yield from _names_in(json.loads(path.read_text(encoding="utf-8")))


def _names_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _names_in(value)
    elif isinstance(node, str):
        yield from _NAME.findall(node)
        if match := re.match(r"\$from (\S+) import (\w+)", node):
            yield f"{match[1]}.{match[2]}"


def _exported() -> Iterator[str]:
    """Names that the packages export."""
    for package in _EXPORTING:
        path = _ROOT / "robustmed_monai" / package / "__init__.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id == "__all__"
            ):
                yield from (f"robustmed_monai.{package}.{name}" for name in ast.literal_eval(node.value))


def _listable(name: str) -> bool:
    return (
        not module_exists(name)
        and not any(part.startswith("_") for part in name.split("."))
        and all(meaning.startswith("robustmed_monai.") for meaning in meanings(name)[0])
        and judge_name(name).verdict is not Verdict.DANGEROUS
    )


def _kind(name: str) -> str:
    """What a function returns, by its annotations: data, a path, its arguments. A class makes objects."""
    meaning = sorted(meanings(name)[0])[0]
    module, _, last = meaning.rpartition(".")
    path = _ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not path.is_file():
        return "object"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == last and node.returns is not None:
            returns = ast.unparse(node.returns)
            if re.search(r"\bAny\b", returns) and re.search(r"\bAny\b", ast.unparse(node.args)):
                return "passed"
            return "path" if returns == "Path" else "data" if _DATA.match(returns) else "object"
    return "object"


if __name__ == "__main__":
    sys.exit(main())
