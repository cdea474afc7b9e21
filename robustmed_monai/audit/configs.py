"""Configs of a bundle as text and containers: JSON and YAML are read, nothing in them is evaluated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from robustmed_monai.audit.verdicts import Opinion, dangerous, unknown

SEPARATOR = "::"  # MONAI's own, between the parts of an id; `#` means the same
META = "_meta_"
SUFFIXES = (".json", ".yaml", ".yml")
LARGEST = 5_000_000  # bytes of one file
_COPIED = 5_000  # values that the macros of a bundle add
_DEPTH = 60
_PLAIN_TAGS = tuple(
    f"tag:yaml.org,2002:{name}"
    for name in ["null", "bool", "int", "float", "str", "seq", "map", "set", "timestamp", "merge", "value"]
)
_RELATIVE = re.compile(rf"[@%]{SEPARATOR}+")
_MACRO_FILE = re.compile(r"(.*\.(?:json|yaml|yml))(?=::|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """One config.

    Attributes:
        file: its name in the report.
        content: what it holds.
        below: id that MONAI puts it below (``_meta_`` for metadata).
        size: its characters: it cannot have more values, unless YAML's aliases repeat them.
    """

    file: str
    content: Any
    below: str = ""
    size: int = 10_000


@dataclass(frozen=True)
class Leaf:
    """A value that is no container, with the id that it has in the config."""

    file: str
    key: str
    value: Any
    copied: bool = False  # by a macro, from where it is judged too

    @property
    def last(self) -> str:
        """Name of the argument that it belongs to: the last part of its id that is no position in a list."""
        parts = [part for part in self.key.split(SEPARATOR) if not part.isdecimal()]
        return parts[-1] if parts else ""


@dataclass
class Configs:
    """All configs of a bundle, flattened.

    Attributes:
        leaves: every value that is no container.
        nodes: what any config has below an id: containers and values, from all files.
        problems: file, id and opinion of what could not be read or followed.
    """

    leaves: list[Leaf] = field(default_factory=list)
    nodes: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)
    problems: list[tuple[str, str, Opinion]] = field(default_factory=list)


def read_document(path: Path, file: str) -> tuple[Document | None, list[Opinion]]:
    """Read a JSON or YAML file without evaluating it.

    Args:
        path: the file.
        file: its name in the report.

    Returns:
        The document, ``None`` where it cannot be read, and what is wrong with it.
    """
    if not path.is_file():
        return None, [unknown("not a regular file, not read")]
    if path.stat().st_size > LARGEST:
        return None, [unknown(f"larger than {LARGEST:,} bytes, not read")]
    problems: list[Opinion] = []
    try:
        text = path.read_bytes().decode("utf-8")
        content = _json(text, problems) if path.suffix.lower() == ".json" else _yaml(text, problems)
    except UnicodeDecodeError:
        return None, [unknown("not UTF-8: other programs may read other text than the audit")]
    except RecursionError:
        return None, [unknown("nested too deeply to be read")]
    except ValueError as error:
        return None, [unknown(f"cannot be read: {str(error).splitlines()[0]}")]
    below = META if Path(file).stem == "metadata" else ""
    return Document(file, content, below, len(text)), problems


def flatten(documents: list[Document]) -> Configs:
    """Give every value of all documents its id, with overlays' long keys and macros followed.

    A config of a bundle can be laid over any other, so an id may have values of several files.
    """
    configs = Configs()
    for document in documents:
        budget = [document.size]
        for key, node, _ in _walk(document.content, document.below, configs, document.file, 0, budget):
            configs.nodes.setdefault(key, []).append((document.file, node))
    copies = [_COPIED]
    for document in documents:
        for key, node, copied in _expanded(document, configs, copies):
            if copied:
                configs.nodes.setdefault(key, []).append((document.file, node))
            if not isinstance(node, dict | list):
                configs.leaves.append(Leaf(document.file, key, node, copied))
    return configs


def normal(text: str) -> str:
    """Write ids with MONAI's own separator: ``train#trainer`` becomes ``train::trainer``."""
    return text.replace("#", SEPARATOR)


def absolute(key: str, text: str) -> str | None:
    """Replace relative ids (``@##device``) in a text by what they mean at ``key``; ``None`` out of range.

    Example:
        >>> absolute("train::trainer::device", "@##network")
        '@train::network'
    """
    text = normal(text)
    parts = key.split(SEPARATOR)
    for prefix in sorted(set(_RELATIVE.findall(text)), reverse=True):
        up = prefix.count(SEPARATOR)
        if up > len(parts):
            return None
        above = SEPARATOR.join(parts[:-up])
        text = text.replace(prefix, prefix[0] + (above + SEPARATOR if above else ""))
    return text


def _json(text: str, problems: list[Opinion]) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return _once(items, problems)

    return json.loads(text, object_pairs_hook=pairs)


def _yaml(text: str, problems: list[Opinion]) -> Any:
    """Read YAML as plain values, where it has no tags that make objects of Python."""
    try:
        top = yaml.compose(text, yaml.SafeLoader)
        sound = _plain_yaml(top, problems)
        return yaml.safe_load(text) if sound else None
    except yaml.YAMLError as error:
        raise ValueError(error) from error


def _plain_yaml(top: Any, problems: list[Opinion]) -> bool:
    """Whether all tags of YAML's nodes are plain; keys that stand twice are problems."""
    sound = True
    waiting, seen = [top], {id(top)}
    while waiting:
        node = waiting.pop()
        pairs = isinstance(getattr(node, "value", None), list)
        if node is not None and not node.tag.startswith(_PLAIN_TAGS):
            problems.append(dangerous(f"the YAML tag {node.tag} makes an object of Python"))
            sound = False
        inner = (
            [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
            if pairs
            else []
        )
        if pairs and node.value and isinstance(node.value[0], tuple):
            _once([(str(key.value), None) for key, _ in node.value if key.value != "<<"], problems)
        waiting += [part for part in inner if id(part) not in seen]
        seen.update(map(id, inner))
    return sound


def _once(items: list[tuple[Any, Any]], problems: list[Opinion]) -> dict[Any, Any]:
    """Make a dictionary; a key that stands twice is a problem, and both values are kept for the audit."""
    made: dict[Any, Any] = {}
    for key, value in items:
        if key in made:
            problems.append(unknown(f"the key {key!r} stands twice: readers differ in which one counts"))
            made[f"{key} (again)"] = value
        else:
            made[key] = value
    return made


def _walk(
    node: Any, key: str, configs: Configs, file: str, depth: int, budget: list[int]
) -> Iterator[tuple[str, Any, int]]:
    """All nodes below one, with their ids and depths, within the budget of nodes that all share."""
    if budget[0] < 0:
        return
    budget[0] -= 1
    if budget[0] < 0 or depth > _DEPTH:
        what = f"deeper than {_DEPTH} levels" if depth > _DEPTH else "more values than the text can have"
        configs.problems.append((file, key, unknown(f"{what}: not followed any further")))
        return
    yield key, node, depth
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        part = normal(str(name))
        part = part.removeprefix("+") if depth == 0 else part
        yield from _walk(value, f"{key}{SEPARATOR}{part}" if key else part, configs, file, depth + 1, budget)


def _expanded(document: Document, configs: Configs, copies: list[int]) -> list[tuple[str, Any, bool]]:
    """Nodes of a document with every macro (``%id``, ``%file.json#id``) replaced by what it copies."""
    found: list[tuple[str, Any, bool]] = []
    silent = Configs()  # what is too deep or too much was said when the ids were made
    waiting = [(document.below, document.content, False, 0)]
    while waiting:
        key, top, copied, depth = waiting.pop()
        budget = copies if copied else [document.size]
        silent.problems.clear()
        for inner, node, level in _walk(top, key, silent, document.file, depth, budget):
            found.append((inner, node, copied))
            text = absolute(inner, node) if isinstance(node, str) else None
            if text and text.startswith("%"):
                contents = _copied(text[1:], configs, document.file, inner)
                waiting += [(inner, content, True, level) for content in contents]
        if copied and (copies[0] < 0 or silent.problems):
            what = "macros that copy each other without an end, or too much"
            configs.problems.append((document.file, key, unknown(what)))
            break
    return found


def _copied(macro: str, configs: Configs, file: str, key: str) -> list[Any]:
    """What a macro can copy: the values of its id, of the one file that it names or of any."""
    match = _MACRO_FILE.match(macro)
    name = Path(match[1]).name if match else ""
    wanted = macro[match.end() :].removeprefix(SEPARATOR) if match else macro
    files = {file for nodes in configs.nodes.values() for file, _ in nodes if Path(file).name == name}
    if match and (not files or Path(match[1]).is_absolute() or ".." in Path(match[1]).parts):
        problem = unknown(f"copies from {match[1]}, which is no config of this bundle")
        configs.problems.append((file, key, problem))
        return []
    nodes = configs.nodes.get(wanted, [])
    if not nodes:
        configs.problems.append((file, key, unknown(f"copies {wanted or 'all'}, which no config has")))
    return [node for source, node in nodes if not match or source in files]
