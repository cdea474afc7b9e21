"""The command line of a source, read from the signature and the docstring of its ``prepare``."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from robustmed_monai.data_prep.common import REPORT, SHOWN_PROBLEMS
from robustmed_monai.utils.errors import RobustMedError

_ARGUMENT = re.compile(r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)", re.MULTILINE | re.DOTALL)


def command(prepare: Callable[..., Path]) -> Callable[..., int]:
    """Return ``main(argv=None)`` of a source: each argument of ``prepare`` is an option of its name."""

    def main(argv: Sequence[str] | None = None) -> int:
        """Run from the command line; see ``--help``. Returns the exit status: 0, or 1 where it failed."""
        return run(prepare, make_parser(prepare), argv)

    return main


def make_parser(prepare: Callable[..., Path]) -> argparse.ArgumentParser:
    """Return the parser: options, types, defaults and choices from the signature, help from the docstring."""
    module: Any = sys.modules[prepare.__module__]
    parser = argparse.ArgumentParser(
        prog=f"python -m {module.__spec__.name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    block = (inspect.getdoc(prepare) or "").partition("Args:\n")[2].partition("\n\n")[0]
    texts = {name: " ".join(text.split()).replace("%", "%%") for name, text in _ARGUMENT.findall(block)}
    hints = get_type_hints(prepare)
    for name, parameter in inspect.signature(prepare).parameters.items():
        default = None if parameter.default is parameter.empty else parameter.default
        words = " ".join(map(str, default)) if isinstance(default, tuple) else default
        shown = "" if default is None or default is False else f" ({words})"
        parser.add_argument(
            f"--{name}",
            required=parameter.default is parameter.empty,
            default=default,
            help=texts[name].rstrip(".") + shown,
            **_option(hints[name]),
        )
    return parser


def _option(hint: Any) -> dict[str, Any]:
    if hint is bool:
        return {"action": "store_true"}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if isinstance(hint, UnionType):
        return {"type": get_args(hint)[0]}
    if get_origin(hint) is Sequence:
        return {"type": get_args(hint)[0], "nargs": "+"}
    return {"type": hint}


def run(prepare: Callable[..., Path], parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Run ``prepare`` with the parsed arguments, say what came out, and return the exit status."""
    try:
        datalist = prepare(**vars(parser.parse_args(argv)))
    except RobustMedError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{parser.prog}: {error}; make room or give another --output, then run it again.\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{parser.prog}: stopped; give the same command again to resume.\n")
        return 130
    report = json.loads((datalist.parent / REPORT).read_text(encoding="utf-8"))
    problems = report["problems"]
    for entry in problems[:SHOWN_PROBLEMS]:
        sys.stderr.write(f"{entry['file']}: {entry['problem']}\n")
    for text in report["warnings"][:SHOWN_PROBLEMS]:
        sys.stderr.write(f"warning: {text}\n")
    lines = [
        f"{section}: {n['healthy'] + n['abnormal']} images of {n['subjects']} subjects, "
        f"{n['abnormal']} of the images abnormal"
        for section, n in report["counts"].items()
    ]
    lines += [f"{reason}: {count} left out" for reason, count in report["skipped"].items()]
    lines += [f"{name}: {value}" for name, value in report["notes"].items()]
    lines += [f"{len(problems)} problem(s), see {datalist.parent / REPORT}"] if problems else []
    sys.stdout.write("\n".join([*lines, f"datalist: {datalist}"]) + "\n")
    return 0
