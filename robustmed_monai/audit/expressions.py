"""Verdicts on ``$`` expressions: what they name, call and reach, by a walk over their syntax tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from robustmed_monai.audit.arguments import judge_argument, judge_text
from robustmed_monai.audit.arithmetic import large, result
from robustmed_monai.audit.names import judge_name, kind_of
from robustmed_monai.audit.values import (
    ANY,
    DATA,
    INSIDE,
    NUMBER,
    OBJECT,
    PATH,
    UNKNOWN,
    Value,
    attribute,
    container,
    join,
    named_value,
)
from robustmed_monai.audit.verdicts import Opinion, Verdict, dangerous, unknown

REFERENCES = "__local_refs"  # MONAI's name for what `@id` becomes
_SETTABLE = {"torch.backends.cudnn", "torch.backends.cuda.matmul"}
_SETTINGS = {"benchmark", "deterministic", "enabled", "allow_tf32"}
_LAUNCHER = re.compile("(LOCAL_|GROUP_|NODE_)?RANK|(LOCAL_)?WORLD_SIZE|MASTER_(ADDR|PORT)")
_MADE = ("list", "tuple", "set", "dict", "sorted", "zip", "enumerate", "reversed", "min", "max")
_CONTAINERS = {f"builtins.{name}" for name in _MADE}
_COUNTED = ("len", "int", "float", "bool", "round", "abs", "all", "any", "isinstance")
_NUMBERS = {f"builtins.{name}" for name in _COUNTED}


class Expression:
    """One expression, judged as a whole.

    Args:
        bound: what a name means here, or ``None``: imports of the configs, MONAI's globals, builtins.
        reference: what ``@id`` means, or ``None`` where no config has it.
    """

    def __init__(
        self, bound: Callable[[str], Value | None], reference: Callable[[str], Value | None]
    ) -> None:
        self.problems: list[Opinion] = []
        self._bound = bound
        self._reference = reference
        self._locals: list[dict[str, Value]] = []

    def judge(self, tree: ast.expr) -> Value:
        """Return what is known of the expression's value; ``problems`` holds what is not safe in it."""
        value = self._value(tree)
        if value.kind == "module":
            self._problem(unknown(f"hands out the module {value.name} with all that is in it"))
        return value if not self.problems else UNKNOWN

    def _problem(self, opinion: Opinion) -> Value:
        self.problems.append(opinion)
        return UNKNOWN

    def _value(self, node: ast.AST) -> Value:
        value = self._callee(node)
        if value.kind == "named" and kind_of(value.name) == "guarded":
            self._problem(unknown(f"{value.name} is passed on: its arguments cannot be checked"))
        return value

    def _callee(self, node: ast.AST) -> Value:
        method = getattr(self, f"_of_{type(node).__name__.lower()}", None)
        if method is None:
            return self._problem(unknown(f"{type(node).__name__} is not among the forms that are known"))
        value: Value = method(node)
        return value

    def _plain(self, node: ast.AST | None) -> Value:
        """The value of a part that must not be a module."""
        if node is None:
            return DATA
        value = self._value(node)
        if value.kind == "module":
            return self._problem(unknown(f"passes the module {value.name} on, with all that is in it"))
        return value

    def _of_constant(self, node: ast.Constant) -> Value:
        if isinstance(node.value, str) and (opinion := judge_text(node.value)):
            self._problem(opinion)
        return Value("data", literal=node.value, number=isinstance(node.value, int | float | complex))

    def _of_name(self, node: ast.Name) -> Value:
        for names in reversed(self._locals):
            if node.id in names:
                return names[node.id]
        if node.id.startswith("__") and node.id != "__import__":
            return self._problem(dangerous(f"{node.id} reaches the inside of Python or of MONAI"))
        value = self._bound(node.id)
        if value is not None and value.kind != "unknown":
            return value
        if value is not None:
            return self._problem(_with_name(value.name))
        opinion = judge_name(f"builtins.{node.id}")
        if opinion.verdict is not Verdict.DANGEROUS:
            opinion = unknown(f"the name {node.id} is bound to nothing")
        return self._problem(opinion)

    def _of_attribute(self, node: ast.Attribute) -> Value:
        base = self._callee(node.value)
        if node.attr.startswith("__") or INSIDE.fullmatch(node.attr):
            return self._problem(dangerous(f".{node.attr} reaches the inside of Python"))
        if base.kind in ("module", "named"):
            dotted = f"{base.name}.{node.attr}"
            value = named_value(dotted)
            return value if value.kind != "unknown" else self._problem(_with_name(dotted))
        if base.kind == "unknown":
            return self._unknown_base(f".{node.attr} of a value of which nothing is known")
        found = attribute(base, node.attr)
        of = {"any": "a value that may be anything", "object": "an object"}.get(base.kind, base.kind)
        return found or self._problem(unknown(f".{node.attr} of {of} is not on the list"))

    def _unknown_base(self, reason: str) -> Value:
        return UNKNOWN if self.problems else self._problem(unknown(reason))

    def _of_subscript(self, node: ast.Subscript) -> Value:
        if isinstance(node.value, ast.Name) and node.value.id == REFERENCES:
            if not isinstance(node.slice, ast.Constant) or not isinstance(node.slice.value, str):
                return self._problem(dangerous("reaches MONAI's references by a computed name"))
            value = self._reference(node.slice.value)
            return UNKNOWN if value is None else value
        if self._environment(node.value) and isinstance(node.slice, ast.Constant):
            return self._variable(node.slice.value)
        base = self._plain(node.value)
        self._plain(node.slice)
        if base.kind == "named":
            return self._problem(unknown(f"{base.name} has no items"))
        return base.called() if not base.method else Value(base.kind)

    def _environment(self, node: ast.expr) -> bool:
        """Whether a part is ``os.environ``."""
        if (
            not isinstance(node, ast.Attribute)
            or node.attr != "environ"
            or not isinstance(node.value, ast.Name)
        ):
            return False
        module = self._bound(node.value.id)
        return module is not None and module.name == "os"

    def _variable(self, name: object) -> Value:
        """A variable of the environment: those of torch's launcher alone."""
        if isinstance(name, str) and _LAUNCHER.fullmatch(name):
            return DATA
        return self._problem(dangerous(f"reads {name} of the environment, where secrets are"))

    def _of_slice(self, node: ast.Slice) -> Value:
        return join([self._plain(part) for part in (node.lower, node.upper, node.step)])

    def _of_call(self, node: ast.Call) -> Value:
        if isinstance(node.func, ast.Name) and node.func.id == "setattr":
            return self._setattr(node)
        of = node.func
        if isinstance(of, ast.Attribute) and of.attr == "get" and self._environment(of.value) and node.args:
            for part in node.args[1:]:
                self._plain(part)
            return self._variable(getattr(node.args[0], "value", "what is computed"))
        function = self._callee(node.func)
        arguments = [self._plain(part) for part in node.args]
        keywords = {part.arg: self._plain(part.value) for part in node.keywords}
        for name, value in keywords.items():
            if name and (opinion := judge_argument(name, value)):
                self._problem(opinion)
        if function.kind == "named":
            return self._named(function.name, arguments, keywords)
        if function.kind == "object" or function.method:
            return function.called()
        what = "a module" if function.kind == "module" else "a value of which too little is known"
        return self._unknown_base(f"calls {what}")

    def _setattr(self, node: ast.Call) -> Value:
        """``setattr`` for the switches of torch's backends, and for nothing else."""
        if len(node.args) == 3 and not node.keywords:
            module = self._callee(node.args[0])
            setting, value = (self._plain(part) for part in node.args[1:])
            if module.name in _SETTABLE and setting.known and str(setting.literal) in _SETTINGS:
                return DATA if value.kind == "data" else UNKNOWN
        return self._problem(dangerous("setattr changes whatever its text names"))

    def _named(self, name: str, arguments: list[Value], keywords: dict[str | None, Value]) -> Value:
        """The result of a call of something that is known by name."""
        kind = kind_of(name)
        if kind == "guarded" and (None in keywords or arguments):
            self._problem(unknown(f"{name} looks up names in its arguments: give them by keyword"))
        if name == "builtins.range" and any(large(value) for value in arguments):
            self._problem(unknown("a range of more than a million"))
        if name in _NUMBERS:
            return NUMBER
        if name in _CONTAINERS:
            return container([value.called() for value in [*arguments, *keywords.values()]])
        if kind == "passed":
            return container([value.called() for value in [*arguments, *keywords.values()]])
        return {"data": DATA, "path": PATH}.get(kind, OBJECT)

    def _of_binop(self, node: ast.BinOp) -> Value:
        value = result(node.op, self._plain(node.left), self._plain(node.right))
        if isinstance(value, Opinion):
            return self._problem(value)
        if isinstance(value.literal, str) and (opinion := judge_text(value.literal)):
            self._problem(opinion)
        return value

    def _of_unaryop(self, node: ast.UnaryOp) -> Value:
        value = self._plain(node.operand)
        if isinstance(node.op, ast.USub) and value.known and isinstance(value.literal, int | float):
            return Value("data", literal=-value.literal, number=True)
        return NUMBER if isinstance(node.op, ast.Not) else value.called()

    def _of_boolop(self, node: ast.BoolOp) -> Value:
        return join([self._plain(part).called() for part in node.values])

    def _of_compare(self, node: ast.Compare) -> Value:
        values = [self._plain(part) for part in (node.left, *node.comparators)]
        return NUMBER if all(value.kind == "data" for value in values) else ANY

    def _of_ifexp(self, node: ast.IfExp) -> Value:
        self._plain(node.test)
        return join([self._plain(node.body), self._plain(node.orelse)])

    def _of_list(self, node: ast.List | ast.Tuple | ast.Set) -> Value:
        values = [self._plain(part) for part in node.elts]
        found = container(values)
        if values and all(value.known for value in values):
            return Value(found.kind, literal=[value.literal for value in values])
        return found

    _of_tuple = _of_set = _of_list

    def _of_starred(self, node: ast.Starred) -> Value:
        return self._plain(node.value).called()

    def _of_dict(self, node: ast.Dict) -> Value:
        values = [self._plain(part) for part in node.values]
        for key, value in zip(node.keys, values, strict=True):
            name = self._plain(key)
            if isinstance(name.literal, str) and (opinion := judge_argument(name.literal, value)):
                self._problem(opinion)
        return container([value.called() if value.kind == "data" else value for value in values])

    def _of_lambda(self, node: ast.Lambda) -> Value:
        arguments = node.args
        if arguments.kwarg or arguments.vararg:
            self._problem(unknown("a lambda of any arguments"))
        for default in [*arguments.defaults, *filter(None, arguments.kw_defaults)]:
            self._plain(default)
        names = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        self._locals.append({name.arg: ANY for name in names})
        self._plain(node.body)
        self._locals.pop()
        return OBJECT

    def _of_listcomp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Value:
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        if len(node.generators) > 2:
            self._problem(unknown("a comprehension of more than two loops"))
        self._locals.append({})
        for loop in node.generators:
            items = self._plain(loop.iter)
            names = [part for part in ast.walk(loop.target) if isinstance(part, ast.Name)]
            plain = isinstance(loop.target, ast.Name | ast.Tuple) and not loop.is_async
            if not plain or items.kind == "unknown":
                self._unknown_base("a loop over something of which nothing is known")
            self._locals[-1].update({name.id: Value(items.kind) for name in names})
            for condition in loop.ifs:
                self._plain(condition)
        found = container([self._plain(part) for part in parts])
        self._locals.pop()
        return found

    _of_setcomp = _of_generatorexp = _of_dictcomp = _of_listcomp

    def _of_joinedstr(self, node: ast.JoinedStr) -> Value:
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self._plain(part.value)
                width = ast.unparse(part.format_spec) if part.format_spec else ""
                if re.search(r"\d{4}|\{", width):
                    self._problem(unknown("a text that is filled up to any length"))
        return DATA


def _with_name(dotted: str) -> Opinion:
    opinion = judge_name(dotted)
    return Opinion(opinion.verdict, f"{dotted}: {opinion.reason}")
