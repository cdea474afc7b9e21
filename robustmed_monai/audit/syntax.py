"""Text of expressions as syntax trees, within a budget."""

from __future__ import annotations

import ast

from robustmed_monai.audit.arithmetic import LONGEST

_MOST_NODES = 600


def parse(text: str) -> ast.expr | str:
    """Parse the text of an expression as ``eval`` would, or say why it cannot be judged.

    Example:
        >>> parse("1 +")[:22], type(parse(" 1 + 1")).__name__
        ('is no Python expressio', 'BinOp')
    """
    if len(text) > LONGEST:
        return f"longer than {LONGEST:,} characters"
    try:
        tree = ast.parse(text.lstrip(" \t"), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return f"is no Python expression ({str(error) or type(error).__name__})"
    nodes = sum(1 for _ in ast.walk(tree))
    return f"has {nodes:,} parts, more than {_MOST_NODES}" if nodes > _MOST_NODES else tree
