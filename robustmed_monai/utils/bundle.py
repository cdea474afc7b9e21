"""What bundle configs need from Python: folders, the device, a check of overrides."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections import UserString
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc import locate
from types import TracebackType
from typing import TYPE_CHECKING, Any

from robustmed_monai.utils.errors import ConfigError, RobustMedError, original_error
from robustmed_monai.utils.files import read_json

if TYPE_CHECKING:
    import torch
    from monai.bundle import ConfigWorkflow

# MONAI and torch are imported where they are needed: `robustmed --help` must not wait for them.
BUNDLES_VARIABLE = "ROBUSTMED_BUNDLES"
_SEPARATOR = "::"  # MONAI's own, between the parts of an id
# Keys whose values are paths, beside those that end in these words.
_PATHS = ("input", "mask", "site", "moving", "fixed", "dir", "weights", "file", "path")
# Keys that mean numbers in all bundles, whatever a config computes them from.
_NUMBERS = frozenset({"spacing", "image_size", "share"})
_RUN_IDS = frozenset({"imports", "initialize", "run", "finalize", "save_execute_config"})
# What users call settings that have another name here.
_SYNONYMS = {
    "threshold": "fpr",
    "epochs": "max_epochs",
    "lr": "learning_rate",
    "gpu": "device",
    "output": "output_dir",
}


def bundles_dir() -> str:
    """Return the folder that holds the bundles of this installation, for MONAI's functions.

    Example:
        >>> import monai.bundle
        >>> network = monai.bundle.load("ra", bundle_dir=bundles_dir())
        >>> type(network).__name__
        'ReversedAutoEncoder'
    """
    return str((Path(__file__).resolve().parents[1] / "bundles").resolve())


def bundle_root(name: str) -> str:
    """Return the absolute folder of the bundle called ``name``, whatever the working directory.

    The first of these that holds ``configs/metadata.json`` is taken: ``$ROBUSTMED_BUNDLES/<name>``, the
    bundle whose config a MONAI workflow runs at the moment, ``bundles/<name>`` below the working directory,
    the working directory itself when it is called ``name``, and the package's own ``bundles/<name>``.

    Args:
        name: folder name of the bundle, as in ``bundles/<name>``.

    Raises:
        ConfigError: when the environment variable points at no such bundle, or none of the places holds it.
    """
    override = os.environ.get(BUNDLES_VARIABLE)
    if override:
        candidate = Path(override).expanduser() / name
        if not _is_bundle(candidate):
            raise ConfigError(
                f"{BUNDLES_VARIABLE}={override}: {candidate} holds no configs/metadata.json; "
                "set the variable to the folder that holds the bundles, or unset it."
            )
        return str(candidate.resolve())
    here = Path.cwd()
    workflow = _running_workflow()
    candidates = [
        *([workflow.config_root_path.resolve().parent] if workflow is not None else []),
        here / "bundles" / name,
        *([here] if here.name == name else []),
        Path(bundles_dir()) / name,
    ]
    for candidate in candidates:
        if _is_bundle(candidate):
            return str(candidate.resolve())
    looked = ", ".join(dict.fromkeys(map(str, candidates)))
    raise ConfigError(
        f"bundle '{name}': none of {looked} holds configs/metadata.json; "
        f"give --bundle_root <its folder> or set {BUNDLES_VARIABLE} to the folder that holds the bundles."
    )


def bundle_names() -> list[str]:
    """Names of the bundles that ``bundle_root`` finds by their name alone, sorted."""
    override = os.environ.get(BUNDLES_VARIABLE)
    folders = [Path(override).expanduser()] if override else [Path.cwd() / "bundles", Path(bundles_dir())]
    return sorted({p.name for folder in folders for p in folder.glob("*") if _is_bundle(p)})


def default_output_dir(bundle: str, task: str = "inference") -> str:
    """Return the absolute ``out/<bundle>/<task>`` below the working directory, outside of any bundle.

    Started inside ``bundles/<name>``, the folder that holds ``bundles`` takes that place.

    Args:
        bundle: name of the bundle.
        task: name of the run, such as ``train``.
    """
    base = Path.cwd()
    inside = _enclosing_bundle(base)
    if inside is not None:
        base = inside.parent.parent if inside.parent.name == "bundles" else inside.parent
    return str(base / "out" / bundle / task)


def open_output_dir(path: str | os.PathLike[str]) -> str:
    """Make the folder ``path`` for the outputs of a run and return it as an absolute path.

    Args:
        path: folder to make; it may exist.

    Raises:
        ConfigError: when it lies inside a bundle, is a file or cannot be written to.
    """
    folder = Path(path).expanduser().resolve()
    inside = _enclosing_bundle(folder)
    if inside is not None:
        raise ConfigError(
            f"output_dir {folder}: lies inside the bundle {inside}, whose folder is never written to; "
            "give --output_dir a folder outside of it."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output_dir {folder}: cannot be made ({error.strerror}); give --output_dir a folder of your own."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"output_dir {folder}: cannot be written to; give --output_dir a folder of your own."
        )
    return str(folder)


def default_device(name: str | None = None) -> torch.device:
    """Return the device of this process: its own GPU where there are GPUs, else the CPU.

    Args:
        name: device to take instead, such as ``cpu`` or ``cuda:1``; plain ``cuda`` is the process's own GPU.

    Raises:
        ConfigError: when this machine has no such device.

    Example:
        >>> default_device("cpu")
        device(type='cpu')
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    present = ["cpu", *(f"cuda:{k}" for k in range(gpus)), *["mps"] * torch.backends.mps.is_available()]
    own = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % gpus}" if gpus else "cpu"
    chosen = own if name is None or (name == "cuda" and gpus) else name
    if chosen not in present:
        raise ConfigError(f"device {chosen}: this machine has none; give one of {', '.join(present)}.")
    return torch.device(chosen)


def rank() -> int:
    """Return the number of this process among those that share a run, 0 for a single one."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Return the number of processes that share a run, 1 for a single one."""
    return int(os.environ.get("WORLD_SIZE", 1))


def start_processes() -> None:
    """Join the processes that torchrun started: nccl where there are GPUs, else gloo."""
    import ignite.distributed as idist
    import torch

    idist.initialize("nccl" if torch.cuda.is_available() else "gloo")


def batch_share(batch_size: int) -> int:
    """Images of a batch that fall to each process of a run, at least 1."""
    return max(1, batch_size // world_size())


def rank_dir(path: str, folder: str = "") -> str:
    """Return ``<path>/<folder>``; for all but the first process of a run ``<path>/rank<number>/<folder>``."""
    return str(Path(path, f"rank{rank()}" if rank() else "", folder))


def given(value: Any, default: Any) -> Any:
    """Return the value, or the default where it is None."""
    return default if value is None else value


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return one dictionary of two; the second one's values win."""
    return {**first, **second}


def class_name(component: Any) -> str | None:
    """Return the name of a component's class, for records; None without one."""
    return None if component is None else type(component).__name__


def restarted() -> bool:
    """Return whether torchrun or SLURM started this run again after a failure."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(os.environ.get(count, "0") != "0" for count in counts)


def literal(value: Any) -> Any:
    """Write a value so that MONAI's parser reads it as it stands: ``$``, ``@``, ``%``, ``#`` mean themselves.

    Args:
        value: text, number, list or dict. The result goes to ``ConfigWorkflow(..., key=result)``.

    Raises:
        ConfigError: for a dict with ``_target_``, which MONAI would call.

    Example:
        >>> from monai.bundle import ConfigParser
        >>> ConfigParser({"input": literal("$1 #2")}).get_parsed_content("input")
        '$1 #2'
    """
    if isinstance(value, str):
        plain = value[:1] not in ("$", "@", "%") and "#" not in value and _SEPARATOR not in value
        # MONAI rewrites nothing but str; builtins.str makes one again of what is none.
        return value if plain else {"_target_": "builtins.str", "object": UserString(value)}
    if isinstance(value, dict):
        if "_target_" in value:
            raise ConfigError(f"{value}: a component is no value here; write it into a config file.")
        return {key: literal(item) for key, item in value.items()}
    return [literal(item) for item in value] if isinstance(value, list | tuple) else value


def is_path(key: str) -> bool:
    """Whether the value of a key of the configs is a path.

    Example:
        >>> is_path("output_dir"), is_path("network#weights"), is_path("fpr")
        (True, True, False)
    """
    return key.replace("#", "_").rpartition("_")[2] in _PATHS


def check_overrides() -> None:
    """Refuse overrides that the running config does not use.

    MONAI takes ``--lrr 5``, or ``ConfigWorkflow(..., lrr=5)``, silently and trains with the old ``lr``. This
    is the first step of ``initialize`` in every config. A key is right when something in the config refers to
    it, or when a config file of the bundle has it; an argument of a ``_target_``, when its signature has it.
    In the process of ``python -m monai.bundle`` an error of this package ends the command with its own line
    instead of MONAI's traceback from here on. Without a workflow it does nothing.

    Raises:
        ConfigError: for the first unknown key, with the nearest one, for a word in the place of a number, for
            a device that is not there, and for a path that MONAI's command reads as something else.
    """
    workflow = _running_workflow()
    if workflow is None:
        return
    if Path(*sys.argv[:1]).parts[-3:] == ("monai", "bundle", "__main__.py"):
        sys.excepthook = _report_briefly
        _check_paths(workflow, sys.argv[1:])
    config = workflow.parser.get()
    written = _file_values(workflow.config_root_path, config)
    known = written.keys() | _RUN_IDS
    known |= {workflow.init_id, workflow.run_id, workflow.final_id}
    refs = set(_references(config))
    for identity, arguments in _unchecked_ids(config):
        if identity in known or (arguments is None and _is_used(identity, refs)):
            continue
        parent, _, leaf = identity.rpartition(_SEPARATOR)
        if arguments is None or leaf not in arguments:
            raise _unknown_key(
                identity, [*known, *(f"{parent}{_SEPARATOR}{name}" for name in arguments or ())]
            )
    _check_words(written, _values(config))
    device = config.get("device")
    if isinstance(device, str) and device[:1] not in ("$", "@"):
        default_device(device)


def _check_paths(workflow: ConfigWorkflow, words: list[str]) -> None:
    """Refuse paths that do not mean themselves: python-fire and MONAI's parser rewrite or evaluate some."""
    for place, word in enumerate(words):
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            text = "".join(words[place + 1 : place + 2])
        if not word.startswith("--") or not is_path(key):
            continue
        read = workflow.parser.get(key, text)
        # A list of paths is one, and None leaves the config as it is.
        if text[:1] in ("$", "@", "%") or (read != text and text != "None" and not isinstance(read, list)):
            raise ConfigError(
                f"--{key} {text}: MONAI's command does not take this as a name (it has {read!r}); the "
                "command `robustmed` takes every name as it is."
            )


def _is_bundle(folder: Path) -> bool:
    return (folder / "configs" / "metadata.json").is_file()


def _enclosing_bundle(folder: Path) -> Path | None:
    return next((place for place in (folder, *folder.parents) if _is_bundle(place)), None)


def _running_workflow() -> ConfigWorkflow | None:
    """The MONAI workflow whose config is evaluated at the moment: MONAI hands it to no component."""
    if "monai.bundle" not in sys.modules:
        return None
    from monai.bundle import ConfigWorkflow

    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigWorkflow):
            return caller
        frame = frame.f_back
    return None


def _file_values(folder: Path, config: dict[str, Any]) -> dict[str, list[Any]]:
    """Values by id in those config files that the running config may be made of: it has all their keys."""
    found: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        pairs = {key.removeprefix("+").replace("#", _SEPARATOR): value for key, value in content.items()}
        if {key.split(_SEPARATOR)[0] for key in pairs} <= config.keys():
            for identity, value in _values(pairs).items():
                found.setdefault(identity, []).append(value)
    return found


def _values(config: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        found[f"{prefix}{key}"] = value
        if isinstance(value, dict | list):
            found |= _values(value, f"{prefix}{key}{_SEPARATOR}")
    return found


def _check_words(written: Mapping[str, list[Any]], running: Mapping[str, Any]) -> None:
    """Refuse a word in the place of a number or a switch: `--amp true` is text to MONAI's command."""
    for identity, value in running.items():
        defaults = written.get(identity, [None])
        numbers = all(isinstance(default, int | float) for default in defaults)
        if not numbers and identity not in _NUMBERS:
            continue
        if not isinstance(value, str) or value[:1] in ("$", "@", "%"):
            continue
        wanted = "True or False" if isinstance(defaults[0], bool) else "a number"
        wanted += f", such as {defaults[0]}" if wanted == "a number" and numbers else ""
        raise ConfigError(f"--{identity.replace(_SEPARATOR, '#')} {value}: is a word; give {wanted}.")


def _references(config: Any) -> Iterator[str]:
    from monai.bundle import ReferenceResolver

    if isinstance(config, str):
        yield from ReferenceResolver.match_refs_pattern(config)
    elif isinstance(config, dict | list):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _references(value)


def _is_used(identity: str, refs: set[str]) -> bool:
    """Whether something refers to a key, to a part of it, or to what it is a part of."""
    parts = identity.split(_SEPARATOR)
    whole = any(_SEPARATOR.join(parts[:k]) in refs for k in range(1, len(parts) + 1))
    return whole or any(ref.startswith(identity + _SEPARATOR) for ref in refs)


def _unchecked_ids(config: Any, prefix: str = "") -> Iterator[tuple[str, list[str] | None]]:
    """Ids that must be right, with the arguments that their component has; None outside of components."""
    items = config.items() if isinstance(config, dict) else enumerate(config)
    arguments = _target_arguments(config)
    checked = isinstance(config, dict) and ("_target_" not in config or arguments is not None)
    for key, value in items:
        if str(key).startswith("_"):
            continue
        if checked:
            yield f"{prefix}{key}", arguments
        if isinstance(value, dict | list):
            yield from _unchecked_ids(value, f"{prefix}{key}{_SEPARATOR}")


def _target_arguments(component: Any) -> list[str] | None:
    """Names of the arguments that a component takes; None when it is none, or any name may be right."""
    target = component.get("_target_") if isinstance(component, dict) else None
    function = locate(target) if isinstance(target, str) and "." in target else target
    try:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]


def _unknown_key(key: str, known: list[str]) -> ConfigError:
    names = {name: name for name in known if not name.startswith("_")}
    names |= {word: name for word, name in _SYNONYMS.items() if name in names}
    nearest = names[max(sorted(names), key=lambda name: _likeness(key, name))]
    written, near = key.replace(_SEPARATOR, "#"), nearest.replace(_SEPARATOR, "#")
    return ConfigError(
        f"--{written}: the config has no such key; the nearest is --{near}. "
        "Correct the spelling or leave it out."
    )


def _likeness(key: str, candidate: str) -> float:
    # The last part counts twice: `--max_epoch` is meant for `train#trainer#max_epochs`, not for `max_pool`.
    ends = key.split(_SEPARATOR)[-1], candidate.split(_SEPARATOR)[-1]
    return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in ((key, candidate), ends))


def _report_briefly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Excepthook of bundle commands: our errors, wrapped by MONAI or not, end the run with their own line."""
    cause = original_error(error)
    if isinstance(cause, RobustMedError):
        sys.stderr.write(f"{type(cause).__name__}: {cause}\n")
    else:
        sys.__excepthook__(kind, error, trace)
