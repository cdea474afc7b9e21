"""What is known of a value without computing it, and which of its attributes may be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

_UNSET: Final = object()


@dataclass(frozen=True)
class Value:
    """What is known of a value.

    Attributes:
        kind: ``module``, ``named`` (a class, function or constant that is known by name), ``data`` (numbers,
            text, containers of these), ``path``, ``object`` (made by an allowed name), ``any`` (the argument
            of a lambda), or ``unknown``.
        name: dotted name of a module or of what is named.
        literal: the value itself where it is known.
        number: whether it is a number or a truth value.
        grown: whether it is a product that may be long.
        method: whether it may be called although it is data, path or any.
    """

    kind: str
    name: str = ""
    literal: Any = _UNSET
    number: bool = False
    grown: bool = False
    method: bool = False

    @property
    def known(self) -> bool:
        """Whether the value itself is known."""
        return self.literal is not _UNSET

    def called(self) -> Value:
        """What a call of a method, or of an object, returns."""
        return replace(self, literal=_UNSET, method=False)


UNKNOWN = Value("unknown")
DATA = Value("data")
NUMBER = Value("data", number=True)
OBJECT = Value("object")
ANY = Value("any")
PATH = Value("path")

_ANY = frozenset(
    "T abs all any argmax argmin bool clone cpu detach device dim dtype exists flatten float get half int item"
    " items keys long lower max mean min name ndim numpy permute repeat reshape shape size split"
    " squeeze startswith endswith strip sum to tolist transpose unbind unsqueeze upper values view".split()
)
_DATA = _ANY | frozenset(
    "append copy count extend index isdigit is_integer join lstrip partition removeprefix removesuffix replace"
    " rpartition rsplit rstrip splitlines strftime title".split()
)
_PATH = frozenset(
    "absolute as_posix exists glob is_absolute is_dir is_file iterdir joinpath mkdir name parent parents parts"
    " relative_to resolve stem suffix suffixes with_name with_suffix".split()
)
_OBJECT = _ANY | frozenset(
    "add_event_handler append apply attach backbone batch buffers children classifier close cuda data"
    " dataset decoder discriminator_loss encoder epoch eval features flush forward generator"
    " generator_loss images iteration labels load_old_state_dict load_state_dict logger manual_seed"
    " max_epochs metrics module modules named_children named_parameters network num_rotations output"
    " parameters path pending requires_grad requires_grad_ rotnet run sample sampler setLevel"
    " set_atss_matcher set_box_selector_parameters set_epoch set_hard_negative_sampler set_random_state"
    " set_sliding_window_inferer set_target_keys set_timesteps set_trainer start_from state state_dict"
    " strftime temperature tensors train transform type zero_grad".split()
)
_ATTRIBUTES = {"any": _ANY, "data": _DATA, "path": _PATH, "object": _OBJECT}
# What opens the inside of functions, frames and generators, or reads attributes that a text names.
INSIDE = frozenset(
    "cr_frame cr_code f_back f_builtins f_code f_globals f_locals format format_map func_code func_globals"
    " gi_code gi_frame mro tb_frame tb_next".split()
)


def attribute(value: Value, name: str) -> Value | None:
    """What is known of an attribute of data, a path, an object or an argument; ``None`` if not allowed."""
    if name not in _ATTRIBUTES.get(value.kind, ()):
        return None
    return Value(value.kind, method=value.kind != "object")


def join(values: Iterable[Value]) -> Value:
    """What is known of a value that is one of several.

    Example:
        >>> join([DATA, OBJECT]).kind, join([OBJECT, UNKNOWN]).kind, join([DATA, DATA]).kind
        ('any', 'unknown', 'data')
    """
    known = list(values)
    found = list(dict.fromkeys(replace(value, literal=_UNSET) for value in known))
    if not found:
        return DATA
    if len(found) == 1:
        same = all(value.known and value.literal == known[0].literal for value in known)
        return known[0] if same else found[0]
    kinds = {value.kind for value in found}
    if kinds <= {"data"}:
        return Value("data", number=all(v.number for v in found), grown=any(v.grown for v in found))
    if "unknown" in kinds or "module" in kinds:
        return UNKNOWN
    # Named things and objects may both be called.
    return OBJECT if kinds <= {"object", "named"} else ANY


def container(values: Iterable[Value]) -> Value:
    """What is known of a list or dictionary of values: as much as of the least known one."""
    joined = join(values)
    return Value("object" if joined.kind == "named" else joined.kind, grown=joined.grown)
