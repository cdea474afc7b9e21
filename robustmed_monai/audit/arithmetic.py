"""Operators of expressions: small values are computed, and nothing may grow beyond measure."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

from robustmed_monai.audit.values import NUMBER, Value, join
from robustmed_monai.audit.verdicts import Opinion, unknown

LONGEST = 4000  # characters of an expression, and of a text that is put together
_GROWTH = 100  # a factor that may make text or a list long
_LARGEST = 10**6  # of a factor, a range or a base
_KNOWN: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_LOGICAL = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.MatMult)
_FILLED = re.compile(r"\d{4}|\*")


def result(sign: ast.operator, left: Value, right: Value) -> Value | Opinion:
    """What is known of the result of an operator, or why it may not be used.

    Args:
        sign: the operator.
        left: what is known of the left side.
        right: of the right side.

    Example:
        >>> two = Value("data", literal=2, number=True)
        >>> result(ast.Mult(), two, two).literal
        4
    """
    if isinstance(sign, ast.Pow):
        return _power(left, right)
    operation = _KNOWN.get(type(sign))
    if operation is None and not isinstance(sign, _LOGICAL):
        return unknown(f"the operator {type(sign).__name__} is not among those known")
    if operation is not None and (computed := _computed(operation, left, right)) is not None:
        return computed
    if isinstance(sign, ast.Mult) and not (left.number and right.number):
        return _product(left, right)
    plain = isinstance(left.literal, str) and not _FILLED.search(left.literal)
    if isinstance(sign, ast.Mod) and not left.number and not plain:
        return unknown("a text that may be filled up to any length")
    if left.number and right.number:
        return NUMBER
    if isinstance(sign, ast.Sub | ast.FloorDiv) and left.kind == right.kind == "data":
        return NUMBER
    return join([left.called(), right.called()])


def large(value: Value) -> bool:
    """Whether a number is known to be beyond a million."""
    number = value.literal
    return value.known and isinstance(number, int | float) and abs(number) > _LARGEST


def _power(left: Value, right: Value) -> Value | Opinion:
    exponent = right.literal if right.known else None
    limit = 64 if left.known else 8
    if large(left) or not isinstance(exponent, int | float) or abs(exponent) > limit:
        return unknown("a power without a known, small exponent may take for ever")
    return _computed(operator.pow, left, right) or NUMBER


def _product(left: Value, right: Value) -> Value | Opinion:
    factors = [value.literal for value in (left, right) if value.known and isinstance(value.literal, int)]
    many = any(factor > _GROWTH for factor in factors)
    grown = left.grown or right.grown
    if large(left) or large(right) or (many and grown):
        return unknown("a product that may be of any length")
    return Value(join([left.called(), right.called()]).kind, grown=many or grown)


def _computed(operation: Callable[[Any, Any], Any], left: Value, right: Value) -> Value | None:
    """The value of an operation on two known, small values; ``None`` where that has none."""
    if not (left.known and right.known):
        return None
    both = (left.literal, right.literal)
    numbers = all(isinstance(value, int | float) for value in both)
    if numbers and any(abs(value) > 10**18 for value in both):
        return None
    texts = all(isinstance(value, str) and len(value) <= LONGEST for value in both)
    if not numbers and not (texts and operation is operator.add):
        return None
    try:
        return Value("data", literal=operation(*both), number=numbers)
    except (ArithmeticError, TypeError, ValueError):
        return None
