"""Lays the bundles' JSON out alike: whatever fits on one line stands on one line, arguments share lines.

python tools/format_configs.py            # rewrite
python tools/format_configs.py --check    # name those that are not laid out so, and fail
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from robustmed_monai.utils.files import atomic_path

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
WIDTH = 120


def laid_out(value: Any, indent: int = 0, before: int = 0) -> str:
    """Return JSON in which a list or dictionary is broken only where it does not fit on its line.

    The arguments of a component (`_target_`) share lines, as many on a line as fit; so do the entries of a
    dictionary of plain values. Where all but the last fit on the line, only the last is broken.

    Args:
        value: JSON content; the outermost dictionary is always broken.
        indent: columns that the line begins with.
        before: columns of the key in front of the value.
    """
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value or (indent and indent + before + len(flat) < WIDTH):
        return flat
    inner = indent + 4
    if isinstance(value, list):
        parts = [laid_out(item, inner) for item in value]
    else:
        keys = {key: json.dumps(key, ensure_ascii=False) + ": " for key in value}
        if indent and (line := _last_broken(value, keys, indent, before)):
            return line
        parts = [keys[key] + laid_out(item, inner, len(keys[key])) for key, item in value.items()]
        if indent and ("_target_" in value or not any(isinstance(v, dict | list) for v in value.values())):
            parts = _shared_lines(parts, inner)
    opening, closing = "[]" if isinstance(value, list) else "{}"
    lines = ",\n".join(" " * inner + part for part in parts)
    return f"{opening}\n{lines}\n{' ' * indent}{closing}"


def _last_broken(value: dict[str, Any], keys: dict[str, str], indent: int, before: int) -> str | None:
    """The dictionary with only its last entry broken, if the others are short enough."""
    *others, last = value
    head = "{" + "".join(f"{keys[key]}{json.dumps(value[key], ensure_ascii=False)}, " for key in others)
    head += keys[last]
    if indent + before + len(head) + 1 >= WIDTH or not isinstance(value[last], dict | list):
        return None
    return f"{head}{laid_out(value[last], indent, before + len(head))}}}"


def _shared_lines(parts: list[str], indent: int) -> list[str]:
    """Join arguments to lines; what is broken keeps lines of its own."""
    lines: list[str] = []
    for part in parts:
        fits = lines and indent + len(lines[-1]) + len(part) + 2 < WIDTH
        if fits and "\n" not in part and "\n" not in lines[-1]:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines


def main() -> int:
    """Rewrite or check all configs."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail where something would be")
    check = parser.parse_args().check
    other = 0
    for path in sorted(BUNDLES.glob("*/configs/*.json")):
        text = path.read_text(encoding="utf-8")
        wanted = laid_out(json.loads(text)) + "\n"
        if text != wanted:
            other += 1
            sys.stdout.write(
                f"{path.relative_to(BUNDLES.parent)}{': run make format-configs' if check else ''}\n"
            )
            if not check:
                with atomic_path(path) as temporary:
                    temporary.write_text(wanted, encoding="utf-8")
    return int(check and other > 0)


if __name__ == "__main__":
    sys.exit(main())
