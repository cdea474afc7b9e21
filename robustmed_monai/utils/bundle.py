"""What bundle configs need from Python: the bundle's folder, the output folder, a command line check."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc import locate
from types import TracebackType
from typing import TYPE_CHECKING, Any

from robustmed_monai.utils.errors import ConfigError, RobustMedError

if TYPE_CHECKING:
    import torch

# MONAI and torch are imported where they are needed: `robustmed --help` must not wait for them.
BUNDLES_VARIABLE = "ROBUSTMED_BUNDLES"
_ID_SEPARATOR = "::"  # MONAI's own, between the parts of an id

# Arguments of `python -m monai.bundle run` itself and of the workflow it builds.
_RUN_ARGUMENTS = frozenset(
    {"run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"}
    | {"workflow_type", "workflow_name", "properties_path"}
)
# Read by MONAI when --tracking is given.
_TRACKING_ARGUMENTS = frozenset({"tracking_uri", "experiment_name", "run_name", "save_execute_config"})


def bundle_root(name: str) -> str:
    """Return the absolute folder of the bundle called ``name``, whatever the working directory.

    The first of these that holds ``configs/metadata.json`` is taken: ``$ROBUSTMED_BUNDLES/<name>``, the
    bundle of the ``--config_file`` on the command line, an entry of ``sys.path`` called ``name`` (MONAI adds
    the folder of the running bundle there), ``bundles/<name>`` below the working directory, the working
    directory itself when it is called ``name``, and ``bundles/<name>`` beside an editable installation of
    this package. A renamed copy used from Python, not from the command line, needs ``bundle_root=`` given.

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
    candidates = list(_bundle_candidates(name))
    for candidate in candidates:
        if _is_bundle(candidate):
            return str(candidate.resolve())
    looked = ", ".join(dict.fromkeys(str(candidate) for candidate in candidates))
    raise ConfigError(
        f"bundle '{name}': none of {looked} holds configs/metadata.json; "
        f"give --bundle_root <its folder> or set {BUNDLES_VARIABLE} to the folder that holds the bundles."
    )


def bundle_names() -> list[str]:
    """Names of the bundles that ``bundle_root`` finds by their name alone, sorted."""
    override = os.environ.get(BUNDLES_VARIABLE)
    beside = Path(__file__).resolve().parents[2] / "bundles"
    folders = [Path(override).expanduser()] if override else [Path.cwd() / "bundles", beside]
    return sorted({p.name for folder in folders for p in folder.glob("*") if _is_bundle(p)})


def default_output_dir(bundle: str, task: str) -> str:
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


def restarted() -> bool:
    """Return whether torchrun or SLURM started this run again after a failure."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(os.environ.get(count, "0") != "0" for count in counts)


def check_overrides() -> None:
    """Refuse overrides of ``python -m monai.bundle run`` that the config does not have.

    MONAI takes ``--lrr 5`` silently and trains with the old ``lr``. This is the first expression of
    ``initialize`` in every config. Accepted are the arguments of ``run``, existing keys, and new arguments
    of a ``_target_`` whose signature has them; the error names the nearest key. From here on an error of
    this package, however deep, ends the command with its own line instead of MONAI's traceback. In any other
    program (tests, servers) it does nothing.

    Raises:
        ConfigError: for the first unknown override.
    """
    command = _bundle_command()
    overrides = _command_line_overrides(command[1:])
    if command[:1] != ["run"] or "config_file" not in overrides:
        return
    from monai.bundle import ConfigParser

    sys.excepthook = _report_briefly
    files = _config_files(overrides)
    parser = ConfigParser()
    parser.read_config(files)
    parser.read_meta(overrides.get("meta_file", Path(files[0]).parent / "metadata.json"))
    for key, value in overrides.items():
        _check_override(parser, key, tracking="tracking" in overrides)
        if key not in _RUN_ARGUMENTS:
            parser[key] = value


def _is_bundle(folder: Path) -> bool:
    return (folder / "configs" / "metadata.json").is_file()


def _enclosing_bundle(folder: Path) -> Path | None:
    return next((place for place in (folder, *folder.parents) if _is_bundle(place)), None)


def _bundle_candidates(name: str) -> Iterator[Path]:
    # A config named on the command line wins over places that merely have the right name: of two copies of a
    # bundle, the one whose config runs is meant.
    for config in _config_files(_command_line_overrides(_bundle_command()[1:])):
        yield Path(config).resolve().parent.parent
    yield from (Path(entry) for entry in sys.path if Path(entry).name == name)
    yield Path.cwd() / "bundles" / name
    if Path.cwd().name == name:
        yield Path.cwd()
    yield Path(__file__).resolve().parents[2] / "bundles" / name


def _bundle_command() -> list[str]:
    """Arguments of ``python -m monai.bundle``, such as ``run`` first; empty in any other program."""
    if not sys.argv or Path(sys.argv[0]).parts[-3:] != ("monai", "bundle", "__main__.py"):
        return []
    arguments = sys.argv[1:]
    # Fire keeps what follows the last isolated `--` for itself.
    return arguments[: len(arguments) - 1 - arguments[::-1].index("--")] if "--" in arguments else arguments


def _config_files(overrides: dict[str, Any]) -> list[str]:
    files = overrides.get("config_file", [])
    return files.split(",") if isinstance(files, str) else list(files)


def _command_line_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Read ``--key value``, ``--key=value``, ``--flag``, ``--noflag`` as fire does, and ``--args_file``."""
    if not arguments:
        return {}
    from fire.parser import DefaultParseValue

    given: dict[str, Any] = {}
    position = 0
    while position < len(arguments):
        argument, following = arguments[position], arguments[position + 1 : position + 2]
        position += 1
        if not _is_flag(argument):
            continue
        key, equals, text = argument.lstrip("-").partition("=")
        if not equals:
            if following and not _is_flag(following[0]):
                text = following[0]
                position += 1
            elif key.startswith("no"):
                key, text = key[2:], "False"
            else:
                text = "True"
        given[key.replace("-", "_")] = DefaultParseValue(text)
    from monai.bundle import ConfigParser, ReferenceResolver
    from monai.bundle.utils import MERGE_KEY

    defaults = ConfigParser.load_config_file(given["args_file"]) if "args_file" in given else {}
    # On the command line MONAI treats `+key` as `key`: there is nothing to merge with yet.
    pairs = (defaults | given).items()
    return {ReferenceResolver.normalize_id(key.removeprefix(MERGE_KEY)): value for key, value in pairs}


def _is_flag(argument: str) -> bool:
    # A negative number is a value.
    return argument.startswith("--") or (argument[:1] == "-" and argument[1:2].isalpha())


def _check_override(parser: Any, key: str, tracking: bool) -> None:
    from monai.bundle import ReferenceResolver

    accepted = _RUN_ARGUMENTS | (_TRACKING_ARGUMENTS if tracking else frozenset())
    if key in accepted or key in parser:
        return
    parent, leaf = ReferenceResolver.split_id(key, last=True)
    arguments = _target_arguments(parser.get(parent))
    if arguments is None or leaf in arguments:
        return
    known = [
        *_config_ids(parser.get()),
        *(f"{parent}{_ID_SEPARATOR}{name}" for name in arguments),
        *sorted(accepted),
    ]
    nearest = max(known, key=lambda candidate: _likeness(key, candidate))
    raise ConfigError(
        f"--{_written(key)}: the config has no such key; the nearest is --{_written(nearest)}. "
        "Correct the spelling or leave it out."
    )


def _target_arguments(component: Any) -> list[str] | None:
    """Names that a config item accepts as new keys, or None when any name may be right."""
    from monai.bundle.config_item import ConfigComponent

    if not ConfigComponent.is_instantiable(component):
        return []
    target = ConfigComponent(component).resolve_module_name()
    function = locate(target) if isinstance(target, str) else target
    if not callable(function):
        return None
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return sorted(ConfigComponent.non_arg_keys) + [parameter.name for parameter in parameters]


def _config_ids(config: Any, prefix: str = "") -> Iterator[str]:
    items: Any = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in items:
        identity = f"{prefix}{key}"
        yield identity
        if isinstance(value, dict | list):
            yield from _config_ids(value, identity + _ID_SEPARATOR)


def _likeness(key: str, candidate: str) -> float:
    # The last part counts twice: `--max_epoch` is meant for `train#trainer#max_epochs`, not for `max_pool`.
    whole = difflib.SequenceMatcher(None, key, candidate).ratio()
    last = difflib.SequenceMatcher(
        None, key.split(_ID_SEPARATOR)[-1], candidate.split(_ID_SEPARATOR)[-1]
    ).ratio()
    return whole + last


def _written(key: str) -> str:
    return key.replace(_ID_SEPARATOR, "#")


def _report_briefly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Excepthook of bundle commands: our errors, wrapped by MONAI or not, end the run with their own line."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, RobustMedError):
        cause = cause.__cause__
    if cause is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(f"{type(cause).__name__}: {cause}\n")
