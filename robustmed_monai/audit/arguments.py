"""Arguments by whose value a component that is allowed does more than its name says."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from robustmed_monai.audit.names import is_denied, judge_target
from robustmed_monai.audit.values import Value
from robustmed_monai.audit.verdicts import Opinion, Verdict, dangerous, unknown

# Names of readers and writers, and of the one merger, that MONAI looks up itself.
_LOOKED_UP = {"reader", "writer", "merger_cls"}
_BUILT_IN = re.compile(
    "(itk|nibabel|numpy|pil|pydicom|nrrd|wsi)reader|(nibabel|itk|pil)writer|cucim|openslide|tifffile|(avg|zarravg)merger"
)
_FETCHED = {
    "pretrained": "fetches weights",
    "pretrained_url": "fetches weights",
    "download": "fetches a data set",
    "trust_repo": "runs fetched code",
}
_WRITTEN = re.compile(
    r"(output|save|log|cache|ckpt|data_root)_?dir|(save|output|mapping_file)_path|output_file|dirname|file_prefix"
    r"|(\w+_)?filename|filename_suffix|output_postfix"
)
_HOME = re.compile(r"^~|(^|/)\.\.(/|$)")
_SYSTEM = re.compile(r"/(bin|boot|dev|etc|home|lib\w*|opt|proc|root|sbin|sys|usr|var)(/|$)|\w+://")


def judge_argument(name: str, value: Value) -> Opinion | None:
    """Judge an argument of any component or call by its name and what is known of its value.

    Args:
        name: keyword, or key of a config.
        value: what is known of it.

    Returns:
        Why it is not safe, or ``None``.

    Example:
        >>> judge_argument("allow_pickle", Value("data", literal=True)).verdict.word
        'dangerous'
    """
    literal = value.literal if value.known else None
    if name == "_mode_" and literal not in ("default", "callable"):
        return (
            dangerous("starts the debugger, which runs what .pdbrc says")
            if literal == "debug"
            else (unknown("_mode_ is neither default nor callable"))
        )
    if name == "_debug_":
        return dangerous("starts the debugger")
    if name == "pickle_module" and not (value.known and literal in (None, "pickle")):
        return dangerous("pickle_module runs what it names")
    if name == "allow_pickle" and not (value.known and not literal):
        return dangerous("allow_pickle unpickles, which can run what a file says")
    if name == "weights_only" and not (value.known and literal is True):
        return dangerous("weights_only is not true: unpickling can run what a file says")
    if name == "shell" and not (value.known and not literal):
        return dangerous("shell runs commands")
    if name in _FETCHED and not (value.known and (not literal or literal == "False")):
        return unknown(f"{name} {_FETCHED[name]} over the network")
    if name in _LOOKED_UP:
        return _looked_up(name, value)
    if name == "init_method" and literal not in (None, "env://"):
        return unknown("init_method meets other processes over files or the network")
    if _WRITTEN.fullmatch(name) and isinstance(literal, str):
        return _written(name, literal)
    return None


def judge_text(text: str) -> Opinion | None:
    """Judge a text that is no expression: it must not name what is denied.

    Example:
        >>> judge_text("os.system").verdict.word, judge_text("a lesion")
        ('dangerous', None)
    """
    if is_denied(text):
        return dangerous(f"the text names {text}: a component that looks names up would call it")
    return None


def _looked_up(name: str, value: Value) -> Opinion | None:
    """A name that MONAI imports and calls: one of its own, or an allowed class."""
    if value.kind in ("named", "object") or (value.known and value.literal is None):
        return None
    names = value.literal if value.known else None
    for text in names if isinstance(names, list | tuple) else [names]:
        if not isinstance(text, str):
            return unknown(f"{name} is looked up by name, and the name is not known")
        if (
            not _BUILT_IN.fullmatch(text.lower())
            and (opinion := judge_target(text)).verdict is not Verdict.SAFE
        ):
            return Opinion(opinion.verdict, f"{name} is imported and called: {text}: {opinion.reason}")
    return None


def _written(name: str, text: str) -> Opinion | None:
    """A path that is written to: below the working directory or a folder of data."""
    path = PurePosixPath(text)
    if _HOME.search(text) or any(part.startswith(".") and part not in (".", "..") for part in path.parts):
        return dangerous(f"{name} writes to {text}: a home folder, a hidden file or outside of the run")
    if _SYSTEM.match(text):
        return unknown(f"{name} writes to {text}, a folder of the system or another machine")
    return None
