"""What a result was made from: a stamp of the image, a digest of the networks and settings at work."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from torch import nn

# Values that have no attributes, and say all in writing.
_PLAIN = (bytes, complex, range, slice, re.Pattern, torch.dtype, torch.layout, torch.memory_format)


def input_stamp(path: str | os.PathLike[str]) -> dict[str, int]:
    """Size in bytes, last change in ns and number of the files that make an image (a file, or a folder).

    Raises:
        OSError: when there is nothing at the path.
    """
    place = Path(path)
    files = [p for p in place.iterdir() if p.is_file()] if place.is_dir() else [place]
    stats = [p.stat() for p in files]
    return {
        "bytes": sum(s.st_size for s in stats),
        "modified": max((s.st_mtime_ns for s in stats), default=0),
        "files": len(files),
    }


def digest_objects(*objects: Any) -> str:
    """One sha256 over networks, their weights and the settings of whatever works with them.

    Two processes that build the same objects from the same configuration get the same digest; a changed
    weight, setting, function or source file of this package gives another. Devices do not count. Objects are
    described by their class and attributes, functions by their code and all that it names, so that no setting
    can be left out by mistake.

    Args:
        objects: networks, inferers, iterations, plain values.

    Example:
        >>> digest_objects({"size": 3}) == digest_objects({"size": 3}) != digest_objects({"size": 4})
        True
    """
    described = [_package_digest(), [_describe(item, ()) for item in objects]]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _describe(value: Any, above: tuple[int, ...]) -> Any:
    """JSON that says what a value is, without addresses and times."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, _PLAIN):
        return [type(value).__qualname__, repr(value)]
    if id(value) in above or isinstance(value, torch.device):
        return None
    above = (*above, id(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return _array(value)
    if isinstance(value, Mapping):
        return [[_describe(key, above), _describe(item, above)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_describe(item, above) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(_describe(item, above), sort_keys=True) for item in value)
    if isinstance(value, partial):
        return ["partial", *(_describe(part, above) for part in (value.func, value.args, value.keywords))]
    if isinstance(value, MethodType):
        return [value.__name__, _describe(value.__self__, above)]
    if isinstance(value, FunctionType):
        return _function(value, above)
    if hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    if isinstance(value, Engine | ModuleType):
        # What an engine goes through and writes is no setting.
        return type(value).__qualname__
    return [_describe(type(value), above), _describe(_attributes(value), above)]


def _attributes(value: Any) -> dict[str, Any]:
    """Attributes of an object in a fixed order; of a module its tensors, parts and public settings."""
    slots = [name for kind in type(value).__mro__ for name in _names(getattr(kind, "__slots__", ()))]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name) and name != "__dict__"}
    found = dict(sorted({**found, **getattr(value, "__dict__", {})}.items()))
    if isinstance(value, nn.Module):
        own = {k: v for k, v in found.items() if not k.startswith("_") and k != "training"}
        tensors = {**dict(value.named_parameters(recurse=False)), **dict(value.named_buffers(recurse=False))}
        return {"settings": own, "tensors": tensors, "parts": dict(value.named_children())}
    return found


def _array(value: torch.Tensor | np.ndarray[Any, Any] | np.generic) -> list[Any]:
    array = value.detach().cpu().as_subclass(torch.Tensor) if isinstance(value, torch.Tensor) else value
    if isinstance(array, torch.Tensor):
        # NumPy has no bfloat16.
        kind, array = str(array.dtype), array.contiguous().flatten().view(torch.uint8).numpy()
    else:
        kind = str(array.dtype)
    return [kind, list(np.shape(value)), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]


def _names(slots: str | Iterable[str]) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _function(value: FunctionType, above: tuple[int, ...]) -> list[Any]:
    name = f"{value.__module__}.{value.__qualname__}"
    if (value.__module__ or "").partition(".")[0] == __package__.partition(".")[0]:
        # The digest of the package's files stands for what its own code names.
        around: dict[str, Any] = {}
    else:
        named = sorted(_global_names(value.__code__) & value.__globals__.keys())
        around = {n: value.__globals__[n] for n in named if not isinstance(value.__globals__[n], ModuleType)}
    # A lambda of a config is known by its code and by what it closes over.
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    described = [cells, value.__defaults__, value.__kwdefaults__, around]
    return [name, _code(value.__code__), _describe(described, above)]


def _global_names(code: CodeType) -> set[str]:
    """What a function, and the functions within it, may mean by a name that is not their own."""
    within = (_global_names(c) for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*within)


def _code(code: CodeType) -> list[Any]:
    """What a function does, without the file and line where it stands."""
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    names = [*code.co_names, *code.co_varnames, *code.co_freevars]
    return [hashlib.sha256(code.co_code).hexdigest(), constants, names]


@cache
def _package_digest() -> str:
    """Digest of the source files of this package: results of other code are not taken for its own."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()
