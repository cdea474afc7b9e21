"""What the ids of a bundle's configs mean: values, followed through references, from all files at once."""

from __future__ import annotations

import ast
import re
from typing import Any

from robustmed_monai.audit.arithmetic import LONGEST
from robustmed_monai.audit.configs import SEPARATOR, Configs, absolute
from robustmed_monai.audit.expressions import REFERENCES, Expression
from robustmed_monai.audit.names import GLOBALS, judge_target, kind_of, targets
from robustmed_monai.audit.sources import module_exists
from robustmed_monai.audit.syntax import parse
from robustmed_monai.audit.values import DATA, OBJECT, PATH, UNKNOWN, Value, container, join, named_value
from robustmed_monai.audit.verdicts import Opinion, Verdict, dangerous, safe, unknown

_REFERENCE = re.compile(rf"@\w*(?:{SEPARATOR}\w*)*")
_DEEPEST = 40  # references that lead to references
_SETTINGS = {"_requires_", "_disabled_", "_desc_", "_mode_"}


class References:
    """Values of ids and of names in expressions.

    An id may have several values, from several files: what is said of it holds for all of them.
    """

    def __init__(self, configs: Configs) -> None:
        self._nodes = configs.nodes
        self._children: dict[str, list[str]] = {}
        for key in configs.nodes:
            self._children.setdefault(key.rpartition(SEPARATOR)[0], []).append(key)
        self._values: dict[str, Value] = {}
        self._open: list[str] = []
        self._imports: dict[str, list[str]] = {}
        for leaf in configs.leaves:
            text = absolute(leaf.key, leaf.value) if isinstance(leaf.value, str) else None
            for name, dotted in imported(text) or []:
                self._imports.setdefault(name, []).append(dotted)

    def value(self, key: str) -> Value | None:
        """What is known of an id; ``None`` if no config has it."""
        if key in self._values:
            return self._values[key]
        if key not in self._nodes:
            return None
        if key in self._open or len(self._open) > _DEEPEST:
            return UNKNOWN
        self._open.append(key)
        found = [self._of_node(key, node) for _, node in self._nodes[key]]
        self._open.pop()
        value = join([one for one in found if one is not None] or [UNKNOWN])
        if not self._open or value.kind != "unknown":
            self._values[key] = value
        return value

    def loop(self, key: str) -> bool:
        """Whether the references of an id lead back to it, or further than they are followed."""
        seen: set[str] = set()
        waiting = {key}
        for _ in range(_DEEPEST):
            texts = [
                text
                for id_ in waiting
                for _, node in self._nodes.get(id_, [])
                if isinstance(node, str) and (text := absolute(id_, node))
            ]
            waiting = {id_ for text in texts for id_ in references_of(text)}
            if key in waiting:
                return True
            waiting -= seen
            seen |= waiting
            if not waiting:
                return False
        return True

    def judge(self, key: str, text: str) -> tuple[Opinion, Value]:
        """Judge an expression and return what is known of its value.

        Args:
            key: id of its place.
            text: the expression without ``$``, as the config has it.
        """
        resolved = absolute(key, text)
        if resolved is None:
            return unknown("a relative id leads out of the config"), UNKNOWN
        if REFERENCES in resolved:
            return dangerous(f"{REFERENCES} is the inside of MONAI's parser"), UNKNOWN
        code = _REFERENCE.sub(lambda match: f"{REFERENCES}['{match[0][1:]}']", resolved)
        tree = parse(code)
        if isinstance(tree, str):
            return unknown(tree), UNKNOWN
        expression = Expression(self._bound, self.value)
        value = expression.judge(tree)
        if expression.problems:
            bad = max(expression.problems, key=lambda opinion: opinion.verdict)
            return bad, UNKNOWN
        return safe("names, calls and reaches only what is allowed"), value

    def _bound(self, name: str) -> Value | None:
        """What a name means in an expression: an import of the configs, MONAI's own, or a builtin."""
        dotted = [*self._imports.get(name, []), *([GLOBALS[name]] if name in GLOBALS else [])]
        if dotted:
            values = list(dict.fromkeys(named_value(one) for one in dotted))
            several = Value("unknown", " or ".join(sorted(set(dotted))))
            return values[0] if len(values) == 1 else several
        return Value("named", f"builtins.{name}") if kind_of(f"builtins.{name}") else None

    def _of_node(self, key: str, node: Any) -> Value | None:
        if isinstance(node, dict | list):
            return (
                self._of_component(key) if f"{key}{SEPARATOR}_target_" in self._nodes else self._of_items(key)
            )
        if not isinstance(node, str):
            return Value("data", literal=node, number=isinstance(node, int | float))
        text = absolute(key, node) or node
        if text.startswith("$"):
            found = imported(text)
            if found is not None:
                return named_value(found[0][1]) if len(found) == 1 else UNKNOWN
            return self.judge(key, text[1:])[1]
        if text.startswith("%"):
            return None  # its copies are nodes of their own
        if _REFERENCE.fullmatch(text):
            value = self.value(text[1:])
            return UNKNOWN if value is None else value
        return Value("data", literal=node)

    def _of_items(self, key: str) -> Value:
        values = [self.value(child) or UNKNOWN for child in self._children.get(key, [])]
        found = container([UNKNOWN if value.kind == "module" else value for value in values])
        if (
            values
            and all(value.known for value in values)
            and all(isinstance(n, list) for _, n in self._nodes[key])
        ):
            return Value(found.kind, literal=[value.literal for value in values])
        return found

    def _of_component(self, key: str) -> Value:
        """What a component returns, by the kind of what its ``_target_`` names."""
        kinds = set()
        for opinion, name in self.targets(f"{key}{SEPARATOR}_target_"):
            if opinion.verdict is not Verdict.SAFE:
                return UNKNOWN
            passed = self._of_arguments(key) if kind_of(name) == "passed" else OBJECT
            kinds.add({"data": DATA, "path": PATH}.get(kind_of(name), passed))
        # `_mode_` can make it a function, which is called later.
        return OBJECT if f"{key}{SEPARATOR}_mode_" in self._nodes else join(kinds)

    def _of_arguments(self, key: str) -> Value:
        """What is known of all arguments of a component together."""
        parts = [child for child in self._children.get(key, []) if not child.endswith("_")]
        return container([self.value(child) or UNKNOWN for child in parts])

    def targets(self, key: str) -> list[tuple[Opinion, str]]:
        """Judge everything that a ``_target_`` can be: texts, also behind references, and callables."""
        found: list[tuple[Opinion, str]] = []
        for _, node in self._nodes[key]:
            text = absolute(key, node) if isinstance(node, str) else None
            if text and text.startswith("%"):
                continue
            if text and not text.startswith(("$", "@")):
                found.append((self._named_target(key, text), targets(text)[0]))
                continue
            value = self._of_node(key, node) or UNKNOWN
            if value.known and isinstance(value.literal, str):
                opinion = self._named_target(key, value.literal)
                found.append(
                    (Opinion(opinion.verdict, f"is {value.literal}: {opinion.reason}"), value.literal)
                )
            elif value.kind in ("named", "object"):
                found.append((safe("a function of something that is allowed"), value.name))
            else:
                found.append((unknown("what it names is only known when it runs"), ""))
        return found

    def _named_target(self, key: str, name: str) -> Opinion:
        """Judge a name of a ``_target_``, with how it will be called."""
        opinion = judge_target(name)
        if opinion.verdict is Verdict.SAFE and _guarded(name) and f"{key[:-8]}_mode_" in self._nodes:
            return unknown("is called later with any arguments, and some make it do more")
        return opinion


def _guarded(name: str) -> bool:
    return any(kind_of(one) == "guarded" for one in targets(name))


def imported(text: str | None) -> list[tuple[str, str]] | None:
    """Names that an import statement binds, with what they mean; ``None`` if the text is none.

    Example:
        >>> imported("$import os.path as p"), imported("$1 + 1")
        ([('p', 'os.path')], None)
    """
    if text is None or not text.startswith("$") or "import" not in text or len(text) > LONGEST:
        return None
    try:
        body = ast.parse(text[1:]).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    node = body[0] if body else None
    if isinstance(node, ast.Import):
        return [(alias.asname or alias.name, alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names]
    return None


def judge_import(text: str) -> Opinion:
    """Judge an import statement: it runs the module, and binds a name that expressions can use."""
    found = imported(text) or []
    statements = len(ast.parse(text[1:]).body)
    if statements > 1 or len(found) != 1:
        return unknown("more than one import in one text: MONAI runs the first only")
    dotted = found[0][1]
    top = dotted.partition(".")[0]
    if top in ("scripts", "") or dotted.startswith("None."):
        return unknown("code of the bundle itself, which was not judged")
    if kind_of(dotted):
        return safe("allowed by name")
    if module_exists(dotted) or dotted == "os.path":
        return _judge_module(dotted)
    opinion = judge_target(dotted)
    return opinion if opinion.verdict is not Verdict.SAFE else safe("allowed by name")


def _judge_module(dotted: str) -> Opinion:
    """A module may be imported where something in it may be used; what is used of it is judged by itself."""
    from robustmed_monai.audit.names import importable

    if importable(dotted):
        return safe("a module of which names are allowed; what is used of it is judged by itself")
    opinion = judge_target(dotted)
    return (
        opinion
        if opinion.verdict is Verdict.DANGEROUS
        else unknown(f"the module {dotted} is on neither list")
    )


def references_of(text: str) -> list[str]:
    """Ids that a text refers to: all of an expression, or the whole of a text that is a reference."""
    if text.startswith("$"):
        return [match[1:] for match in _REFERENCE.findall(text)]
    return [text[1:]] if _REFERENCE.fullmatch(text) else []
