"""The catalogue of docs/audit.md: ``python tools/audit_catalogue.py FORMS.json``.

``FORMS.json`` counts what many configs hold: ``targets``, ``called_in_expressions``, ``imports``,
``attributes`` and ``ast_nodes``, each a list of form and count. Every form gets its verdict and the reason.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from robustmed_monai.audit.expressions import Expression
from robustmed_monai.audit.names import GLOBALS, judge_target, kind_of
from robustmed_monai.audit.references import imported, judge_import
from robustmed_monai.audit.syntax import parse
from robustmed_monai.audit.values import ANY, DATA, OBJECT, PATH, UNKNOWN, Value, attribute, named_value
from robustmed_monai.audit.verdicts import Opinion, Verdict, safe, unknown
from robustmed_monai.utils.files import atomic_path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "audit.md"
START, END = "<!-- catalogue -->\n", "<!-- end catalogue -->\n"
KINDS = {
    "targets": "target",
    "called_in_expressions": "call",
    "imports": "import",
    "ast_nodes": "syntax",
    "attributes": "attribute",
}
_WORDS = ("safe", "unknown: code of the bundle", "unknown: rightly", "unknown: false alarm", "dangerous")
# Parts of the syntax tree that belong to another part, which is judged.
_PARTS = frozenset(
    [
        "Load",
        "Store",
        "Expression",
        "Module",
        "Import",
        "ImportFrom",
        "alias",
        "keyword",
        "arg",
        "arguments",
        "comprehension",
        "FormattedValue",
        "Add",
        "Sub",
        "Mult",
        "Div",
        "FloorDiv",
        "Mod",
        "USub",
        "Not",
        "And",
        "Or",
        "Gt",
        "GtE",
        "Lt",
        "Eq",
        "Is",
    ]
)
# Unknown with a reason, when they are read by hand: they load engines, fetch code, unpickle or unpack.
_RIGHTLY = re.compile(
    r".*trt_compile|.*torch_tensorrt|.*PerceptualLoss|.*CellSamWrapper|.*\.extractall|.*\.read"
)


class Row(NamedTuple):
    """One form of the catalogue."""

    kind: str
    form: str
    count: int
    opinion: Opinion


def rows(forms: Mapping[str, Any]) -> list[Row]:
    """Judge every form.

    Args:
        forms: content of the file of forms.
    """
    bound = bound_names(forms)
    found = []
    for key, kind in KINDS.items():
        for form, count in forms[key]:
            found.append(Row(kind, form, count, judge(kind, form, bound)))
    return found


def bound_names(forms: Mapping[str, Any]) -> dict[str, list[str]]:
    """What the imports among the forms, and MONAI, make of names."""
    bound: dict[str, list[str]] = {name: [dotted] for name, dotted in GLOBALS.items()}
    for text, _ in forms["imports"]:
        for name, dotted in imported(f"${text}") or []:
            bound.setdefault(name, []).append(dotted)
    return bound


def judge(kind: str, form: str, bound: Mapping[str, list[str]]) -> Opinion:
    """Judge one form as the audit would where it stands.

    Args:
        kind: ``target``, ``call``, ``import``, ``syntax`` or ``attribute``.
        form: as it is written; ``REF`` is a reference to an object, ``(...)`` any other value.
        bound: what imports make of names.
    """
    if kind == "target":
        return judge_target(form)
    if kind == "import":
        return judge_import(f"${form}")
    if kind == "syntax":
        known = form in _PARTS or hasattr(Expression, f"_of_{form.lower()}")
        return safe("its parts are judged") if known else unknown("not among the forms that are known")
    if kind == "attribute":
        return _attribute(form)
    return _call(form, bound)


def render(found: list[Row], forms: Mapping[str, Any]) -> str:
    """The catalogue as Markdown."""
    lines = [_summary(found, forms), ""]
    for kind in KINDS.values():
        part = [row for row in found if row.kind == kind]
        lines += [f"### {kind.capitalize()}s" if kind != "syntax" else "### Syntax", ""]
        lines += ["| form | uses | verdict | reason |", "| --- | --- | --- | --- |"]
        order = sorted(part, key=lambda row: (-row.opinion.verdict, -row.count, row.form))
        lines += [
            f"| `{row.form}` | {row.count} | {row.opinion.verdict.word} | {row.opinion.reason} |"
            for row in order
        ]
        lines.append("")
    return "\n".join(lines)


def written(text: str) -> Iterator[tuple[str, str, str]]:
    """Kind, form and verdict of every row of a page.

    Args:
        text: content of docs/audit.md.
    """
    kind = ""
    for line in text.partition(START)[2].partition(END)[0].splitlines():
        if line.startswith("### "):
            kind = line.removeprefix("### ").lower().removesuffix("s")
        elif line.startswith("| `"):
            form, _, verdict, _ = (cell.strip() for cell in line.strip("|").split("|"))
            yield kind, form.strip("`"), verdict


def main() -> int:
    """Write the catalogue into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("forms", type=Path)
    forms = json.loads(parser.parse_args().forms.read_text(encoding="utf-8"))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    with atomic_path(PAGE) as temporary:
        temporary.write_text(before + START + render(rows(forms), forms) + END + after, encoding="utf-8")
    return 0


def _summary(found: list[Row], forms: Mapping[str, Any]) -> str:
    judged = [row for row in found if row.kind in ("target", "call", "import")]
    uses: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for row in judged:
        word = _word(row)
        uses[word] += row.count
        kinds[word] += 1
    lines = [
        f"{forms['files']} config files of {forms['bundles']} bundles of the MONAI model zoo hold these "
        f"{len(judged)} targets, calls and imports. A false alarm is unknown to the audit and harmless when "
        "it is read by hand.",
        "",
        "| | forms | uses | share of uses |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {word} | {kinds[word]} | {uses[word]} | {uses[word] / uses.total():.1%} |" for word in _WORDS
    ]
    return "\n".join(lines)


def _word(row: Row) -> str:
    """The line of the summary that a form counts for."""
    if row.opinion.verdict is not Verdict.UNKNOWN:
        return row.opinion.verdict.word
    if "code of the bundle" in row.opinion.reason:
        return "unknown: code of the bundle"
    return "unknown: rightly" if _RIGHTLY.fullmatch(row.form) else "unknown: false alarm"


def _attribute(name: str) -> Opinion:
    kinds = [value.kind for value in (DATA, PATH, OBJECT, ANY) if attribute(value, name)]
    if kinds:
        return safe(f"of {', '.join(kinds)}")
    return unknown("not of a value; as part of a dotted name, the whole name counts")


def _call(form: str, bound: Mapping[str, list[str]]) -> Opinion:
    if form == "setattr":
        return safe("for the switches of torch.backends.cudnn alone; dangerous for anything else")
    if form == "Call":
        return unknown("a call of what a call returned: it depends on the first")
    code = form.replace("(...)", "value") + "()"
    tree = parse(code)
    if not isinstance(tree, ast.expr):
        return unknown(tree)
    first = code.partition(".")[0].partition("(")[0]
    opinions = [_judged(tree, first, value) for value in _values(first, bound)]
    return min(opinions, key=lambda opinion: opinion.verdict)


def _values(first: str, bound: Mapping[str, list[str]]) -> list[Value | None]:
    """What the first name of a call can be."""
    if first == "REF":
        return [OBJECT]
    if first == "value":
        return [OBJECT, DATA, PATH]
    if first in bound:
        return [named_value(dotted) for dotted in bound[first]]
    if first in ("x", "i", "batch", "batchdata"):
        return [ANY]
    return [named_value(f"builtins.{first}") if kind_of(f"builtins.{first}") else None]


def _judged(tree: ast.expr, first: str, value: Value | None) -> Opinion:
    def names(name: str) -> Value | None:
        return value if name == first else None

    expression = Expression(names, lambda _: UNKNOWN)
    expression.judge(tree)
    if expression.problems:
        return max(expression.problems, key=lambda opinion: opinion.verdict)
    return safe(
        "allowed by name" if value and value.kind in ("named", "module") else "of a value that is safe"
    )


if __name__ == "__main__":
    sys.exit(main())
