"""What a value of a request may be; each check raises a ``RequestError`` that names the value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

from robustmed_monai.utils.errors import RequestError

# A value and where it stands, such as "params: threshold".
Check: TypeAlias = Callable[[Any, str], None]

MAX_TEXT = 64 << 10
_MAX_NAME = 200
_MAX_DEPTH = 32
_TAG = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_SHOWN = 80


def is_name(value: Any, where: str) -> None:
    """Text that can be the name of a file in one folder: any characters that show, no path."""
    _of(isinstance(value, str), value, where, "a name")
    plain = value.isprintable() and not set(value) & set("/\\") and not value.startswith(".")
    _of(value != "" and plain and len(value.encode()) <= _MAX_NAME, value, where, "a name without a path")


def is_tag(value: Any, where: str) -> None:
    """Name of a kind of labels, such as "final"."""
    fits = isinstance(value, str) and _TAG.fullmatch(value) is not None
    _of(fits, value, where, "a tag of letters, digits, '_', '-' and '.'")


def is_text(value: Any, where: str) -> None:
    """One line of text."""
    fits = isinstance(value, str) and (value.isprintable() and len(value) <= _MAX_NAME)
    _of(fits, value, where, f"one line of at most {_MAX_NAME} characters")


def is_bool(value: Any, where: str) -> None:
    """A JSON boolean, or the words for one in an address."""
    _of(isinstance(value, bool) or value in ("true", "false", "True", "False"), value, where, "true or false")


def one_of(*choices: str) -> Check:
    """One of some texts."""

    def check(value: Any, where: str) -> None:
        _of(isinstance(value, str) and value in choices, value, where, f"one of {', '.join(choices)}")

    return check


def matches(pattern: str, what: str) -> Check:
    """Text that a regular expression describes as a whole."""

    def check(value: Any, where: str) -> None:
        fits = isinstance(value, str) and len(value) <= _MAX_NAME and re.fullmatch(pattern, value) is not None
        _of(fits, value, where, what)

    return check


def number(low: float, high: float, whole: bool = False) -> Check:
    """A number, also as text, from ``low`` to ``high``, both included."""

    def check(value: Any, where: str) -> None:
        kind = "whole number" if whole else "number"
        try:
            given = math.nan if isinstance(value, bool) else float(value)
            fits = low <= given <= high and (not whole or str(int(given)) == str(value))
        except (TypeError, ValueError, OverflowError):
            fits = False
        _of(fits, value, where, f"a {kind} from {low:g} to {high:g}")

    return check


def is_json(value: Any, where: str) -> None:
    """Anything that JSON can say, not nested without end."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise RequestError(400, f"{where}: nested more than {_MAX_DEPTH} deep.")


def unlike(*reserved: str) -> Check:
    """A JSON object that leaves some keys to the server."""

    def check(value: Any, where: str) -> None:
        is_json(value, where)
        _of(isinstance(value, dict), value, where, "a JSON object")
        for key in reserved:
            if key in value:
                raise RequestError(400, f"{where}: {key!r} is kept by the server; leave it out.")

    return check


def entries(allowed: Mapping[str, Check]) -> Check:
    """A JSON object that holds no other keys than some, each with its check."""

    def check(value: Any, where: str) -> None:
        is_json(value, where)
        _of(isinstance(value, dict), value, where, "a JSON object")
        keys(allowed, value, where)

    return check


def as_json(check_object: Check) -> Check:
    """Text that is a JSON object of some kind."""

    def check(value: Any, where: str) -> None:
        _of(isinstance(value, str), value, where, "text")
        check_object(parse_object(value, where), where)

    return check


def file_name(suffixes: Collection[str], plain: bool = False) -> Check:
    """Name of an uploaded file, with one of some suffixes; with ``plain`` also without any."""

    def check(value: Any, where: str) -> None:
        is_name(value, where)
        fits = value.lower().endswith(tuple(suffixes)) or (plain and "." not in value)
        _of(
            fits,
            value,
            where,
            f"a file of a type that is read; it is not an image type. Use {sorted(suffixes)}",
        )

    return check


def keys(allowed: Mapping[str, Check], given: Mapping[str, Any], where: str) -> None:
    """Refuse keys that are not listed, and check the values of those that are; "*" lists all others."""
    for key, value in given.items():
        if "*" in allowed and key not in allowed:
            allowed["*"](value, f"{where}: {_shown(key)}")
            continue
        if key not in allowed:
            listed = ", ".join(sorted(allowed)) or "nothing"
            raise RequestError(400, f"{where}: there is no {_shown(key)} here; {listed} may be given.")
        allowed[key](value, f"{where}: {key}")


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """The JSON object that a text is; an empty text is an empty one.

    Raises:
        RequestError: 400 for any other text, 413 for a long one.
    """
    if len(text) > MAX_TEXT:
        raise RequestError(413, f"{where}: longer than {MAX_TEXT} bytes.")
    try:
        found = json.loads(text, parse_constant=_no_number) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"{where}: not JSON ({error}).") from error
    _of(isinstance(found, dict), found, where, "a JSON object")
    return dict(found)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _of(fits: bool, value: Any, where: str, what: str) -> None:
    if not fits:
        raise RequestError(400, f"{where}={_shown(value)}: give {what}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
