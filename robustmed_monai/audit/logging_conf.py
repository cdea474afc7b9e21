"""``configs/logging.conf``: Python's ``fileConfig`` evaluates parts of it, so only what is plain is safe."""

from __future__ import annotations

import ast
import configparser
from pathlib import Path

from robustmed_monai.audit.verdicts import Opinion, dangerous, safe, unknown

_HANDLERS = {"StreamHandler", "NullHandler"}
_STREAMS = {"sys.stdout", "sys.stderr"}
_EVALUATED = ("args", "kwargs", "class")


def judge_logging(path: Path) -> list[tuple[str, str, Opinion]]:
    """Judge a logging file.

    Args:
        path: the file.

    Returns:
        Place, text and opinion of every line that is evaluated, or of the whole file.
    """
    parser = configparser.ConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        # With its interpolation: one line may be made of others. Formats have signs of their own.
        sections = {
            name: {
                option: parser.get(name, option) for option in _EVALUATED if parser.has_option(name, option)
            }
            for name in parser.sections()
        }
    except (configparser.Error, UnicodeDecodeError, ValueError) as error:
        return [("", path.name, unknown(f"cannot be read ({type(error).__name__})"))]
    found = [("", path.name, safe("a logging file, judged line by line"))]
    for name, values in sections.items():
        found += [(f"{name}.{option}", text, _judge(name, option, text)) for option, text in values.items()]
    return found


def _judge(section: str, option: str, text: str) -> Opinion:
    if option == "class":
        name = text.removeprefix("logging.")
        if section.startswith("handler_") and name in _HANDLERS:
            return safe("a handler that writes to the console")
        if section.startswith("formatter_") and name == "Formatter":
            return safe("the formatter of Python")
        word = (
            "a handler of files or connections"
            if name.replace("handlers.", "").isidentifier()
            else "a program"
        )
        return dangerous(f"is evaluated, and is {word}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return unknown("is no Python expression")
    for part in ast.walk(tree):
        if isinstance(part, ast.Attribute | ast.Name):
            if isinstance(part, ast.Attribute) and ast.unparse(part) in _STREAMS:
                continue
            if (
                isinstance(part, ast.Name)
                and part.id == "sys"
                and ast.unparse(tree).count("sys")
                == sum(ast.unparse(tree).count(stream) for stream in _STREAMS)
            ):
                continue
            return dangerous("is evaluated, and names more than the console's streams")
        if not isinstance(part, ast.Constant | ast.Tuple | ast.List | ast.Dict | ast.Load):
            return dangerous(f"is evaluated, and is a program ({type(part).__name__})")
    return safe("is evaluated: literals and the console's streams")
