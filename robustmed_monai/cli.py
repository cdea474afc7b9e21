"""The command ``robustmed``: the bundles' configs by short names, with names of files that mean themselves.

robustmed demo                                              a method on a brain that the package brings along
robustmed infer ra scan.nii.gz --output_dir results         a method on an image, a folder or a datalist
robustmed infer cifl_registration --moving a.nii --fixed b.nii
robustmed calibrate ra my_healthy_scans                     a method calibrated to a scanner: p-values
robustmed train ra --dataset_dir my_slices                  a method trained
robustmed evaluate ra --weights out/ra/train/model.pt       a method evaluated
robustmed prepare ixi --source IXI-T1.tar --output ixi      an official download to a datalist
robustmed audit BUNDLE                                      what any MONAI bundle would run
robustmed stress --bundle BUNDLE --data DATALIST            how any MONAI bundle fails
robustmed run --audited BUNDLE --config inference           a bundle that is safe in every part
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from robustmed_monai.audit.command import DESCRIPTION, audit_command, refusal
from robustmed_monai.utils.bundle import bundle_names, bundle_root, is_path, literal, world_size
from robustmed_monai.utils.errors import ConfigError, RobustMedError, original_error
from robustmed_monai.utils.files import read_json

_CONFIGS = {
    "infer": "inference",
    "demo": "inference",
    "calibrate": "inference",
    "train": "train",
    "evaluate": "evaluate",
}
# Words that stand before the options.
_WORDS = {"infer": 2, "calibrate": 2, "demo": 1, "train": 1, "evaluate": 1, "prepare": 1, "run": 1}
# Arguments of MONAI's workflow that name files beside the configs.
_BESIDE = {"meta_file", "logging_file", "properties_path", "tracking"}
_SUFFIXES = (".json", ".yaml", ".yml")
# Modalities of networks that the demo's head can be given to.
_OF_HEADS = ("MR", "any")
_JSON = {"true": True, "false": False, "null": None}
_MAIN = 'if __name__ == "__main__"'
_MORE = (
    "--processes N lets N processes share the work; --overlay NAME[,FILE.json] adds configs of the bundle or "
    "your own. All else goes to the config: --fpr 0.01, fpr=0.01, --device cpu. An unknown key is an error "
    "that names the nearest."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments; the process's own by default.

    Returns:
        0, 1 when the run failed, 2 when there was none; the status of the program for ``prepare``.
    """
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if words[0] == "audit":
        return audit_command(words[1:])
    if words[0] == "stress":
        from robustmed_monai.apps.stress.command import stress_command

        return stress_command(words[1:], values_of)
    if words[0] == "run" and "--audited" in words:
        words = [*(word for word in words if word != "--audited"), "--audited"]
    leading = list(takewhile(lambda word: not word.startswith("-"), words))
    own = leading[: 1 + _WORDS.get(words[0], len(words))] or words[:1]
    rest = words[len(own) :]
    if words[0] in (*_CONFIGS, "run") and {"-h", "--help"} & set(rest):
        own.append("--help")
    options = _parser().parse_args([*own, *(w for w in rest if words[0] == "prepare" and len(own) == 1)])
    try:
        if options.command == "prepare":
            module = f"robustmed_monai.data_prep.{_nearest(options.source, sources(), 'source')}"
            _show(["-m", module, *rest])
            return _started(["-m", module, *rest])
        if options.command == "run":
            return _run(options, overrides(rest))
        return _applied(options, overrides(rest))
    except RobustMedError as error:
        sys.stderr.write(f"robustmed: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def overrides(words: Sequence[str]) -> dict[str, str]:
    """Read ``--key value``, ``--key=value``, ``key=value``, and ``--key`` alone, which is true.

    Raises:
        ConfigError: for a word that is neither a key nor the value of one.

    Example:
        >>> overrides(["fpr=0.01", "--device", "cpu", "--amp"])
        {'fpr': '0.01', 'device': 'cpu', 'amp': 'True'}
    """
    given: dict[str, str] = {}
    waiting = None
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if word.startswith("--"):
            given[key] = text if equals else "True"
            waiting = None if equals else key
        elif waiting is not None:
            given[waiting], waiting = word, None
        elif equals and key.replace("#", "").isidentifier():
            given[key] = text
        else:
            raise ConfigError(f"{word}: neither --key value nor key=value; write one of them.")
    return given


def value_of(key: str, text: str) -> Any:
    """Read the text of an override: a path is made absolute, a Python or JSON literal becomes its value.

    MONAI is given nothing that its parser could evaluate or rewrite.

    Example:
        >>> value_of("channels", "[8, 16]"), value_of("section", "test"), value_of("amp", "false")
        ([8, 16], 'test', False)
    """
    if is_path(key):
        return literal(os.path.abspath(text))
    if text in _JSON:
        return _JSON[text]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    return literal(value)


def values_of(words: Sequence[str]) -> dict[str, Any]:
    """Keys and values of overrides, see ``overrides`` and ``value_of``."""
    return {key: value_of(key, text) for key, text in overrides(words).items()}


def run_bundle(files: Sequence[str], values: Mapping[str, Any]) -> int:
    """Run a bundle's config in this process, as ``python -m monai.bundle run`` does.

    Args:
        files: config file and overlays.
        values: keys of the config with their values.

    Returns:
        0, or 1 after an error of this package, whose own line is printed.
    """
    from monai.bundle import ConfigWorkflow

    try:
        try:
            workflow = ConfigWorkflow(config_file=list(files), **values)
        except (KeyError, ValueError) as error:
            keys = ", ".join(f"--{key}" for key in values)
            raise ConfigError(
                f"{keys}: the config {files[0]} has no place for one of these ({error})."
            ) from error
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        cause = original_error(error)
        if not isinstance(cause, RobustMedError):
            raise
        sys.stderr.write(f"{type(cause).__name__}: {cause}\n")
        return 1
    return 0


def demo_input(method: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Return a virtual head with a lesion as the input of a config.

    Where the config shows a true lesion, it gets that one too, and the head is aligned to where the weights
    have learnt (overlay ``whole_head``, and ``demo`` where there is one).

    Raises:
        ConfigError: for an unknown method, one that knows no heads or takes two images, or when the bundle
            has no weights yet.
    """
    root = _bundle(method)
    models = root / "models"
    if not any(models.glob("*.pt")):
        raise ConfigError(
            f"{models}: holds no weights yet; train the bundle and give its weights to `robustmed infer "
            f"{method} INPUT --weights out/{method}/train/model.pt`."
        )
    inputs = read_json(root / "configs" / "metadata.json")["network_data_format"]["inputs"]
    if len(inputs) > 1:
        raise ConfigError(
            f"demo {method}: takes two images: robustmed infer {method} --moving IMAGE --fixed IMAGE"
        )
    if (modality := next(iter(inputs.values()))["modality"]) not in _OF_HEADS:
        raise ConfigError(
            f"demo {method}: the embedded image is a head, these weights know {modality} images; give one of "
            f"yours: robustmed infer {method} IMAGE"
        )
    from robustmed_monai.data.embedded import demo_head

    head = demo_head()
    if "mask" not in config:
        return {"input": head["image"]}
    overlays = [name for name in ("whole_head", "demo") if (root / "configs" / f"{name}.json").is_file()]
    return {"input": head["image"], "mask": head["mask"], "overlay": ",".join(overlays)}


def sources() -> list[str]:
    """Names of the sources that ``data_prep`` reads."""
    files = (Path(__file__).resolve().parent / "data_prep").glob("*.py")
    return sorted(p.stem for p in files if _MAIN in p.read_text(encoding="utf-8"))


def _applied(options: argparse.Namespace, given: dict[str, str]) -> int:
    """Run a bundle's config in this process, or in several that torchrun starts with the same words."""
    config = _bundle(options.method) / "configs" / f"{_CONFIGS[options.command]}.json"
    if not config.is_file():
        raise ConfigError(f"method {options.method}: has no {config}; it cannot {options.command}.")
    if options.command == "demo":
        given = {**demo_input(options.method, read_json(config)), **given}
    elif options.command in ("infer", "calibrate"):
        given = _with_input(options, given, read_json(config))
    processes, overlays = given.pop("processes", "1"), given.pop("overlay", "")
    if options.command == "calibrate":
        if processes != "1":
            raise ConfigError(f"--processes {processes}: calibrate in one process.")
        overlays = f"{overlays},calibrate".strip(",")
    if not processes.isdecimal() or processes == "0":
        raise ConfigError(f"--processes {processes}: give 1 or more.")
    if processes != "1" and options.command == "train" and "multi_gpu_train" not in overlays:
        overlays = f"{overlays},multi_gpu_train".strip(",")
    names = [name for name in overlays.split(",") if name]
    files = [str(config), *(n if n.endswith(".json") else str(config.with_name(f"{n}.json")) for n in names)]
    values = {key: value_of(key, text) for key, text in given.items()}
    if missing := [path for path in files if not Path(path).is_file()]:
        known = "cannot be calibrated" if options.command == "calibrate" else f"--overlay {overlays}"
        raise ConfigError(f"{options.method}: {known}: there is no {missing[0]}.")
    several = ["--standalone", "--nproc_per_node", processes] if processes != "1" else []
    # MONAI's own command would rewrite what `literal` has to protect.
    if world_size() == 1 and not any(isinstance(value, dict) for value in values.values()):
        _show([*(["-m", "torch.distributed.run", *several] if several else []), *_words(files, values)])
    if not several:
        return run_bundle(files, values)
    words = [f"--{key}={text}" for key, text in given.items()] + [f"--overlay={overlays}"] * bool(overlays)
    command = "infer" if options.command == "demo" else options.command
    launch = ["-m", "robustmed_monai.utils.launch", *several]
    return _started([*launch, "-m", "robustmed_monai.cli", command, options.method, *words])


def _run(options: argparse.Namespace, given: dict[str, str]) -> int:
    """Run configs of any bundle; with ``--audited`` only one of which everything is known to be safe."""
    given = dict(given)
    root = Path(options.bundle)
    root = root if root.is_dir() else _bundle(options.bundle)
    names = [Path(name).name for name in given.pop("config", "inference").split(",")]
    audited = given.pop("audited", "False") != "False"
    found = [[p for p in (root / "configs").glob(f"{name}.*") if p.suffix in _SUFFIXES] for name in names]
    if missing := [name for name, paths in zip(names, found, strict=True) if len(paths) != 1]:
        raise ConfigError(
            f"{root / 'configs'}: there is not one config called {missing[0]}; give --config NAME."
        )
    if audited:
        if beside := _BESIDE & given.keys():
            raise ConfigError(f"--{beside.pop()}: reads a file that the audit does not know; leave it out.")
        verdict, report = refusal(root)
        if report:
            sys.stderr.write(f"{report}\nrobustmed: not run.\n")
            return int(verdict)
    values = {key: value_of(key, text) for key, text in given.items()}
    return run_bundle([str(path) for paths in found for path in paths], values)


def _with_input(
    options: argparse.Namespace, given: dict[str, str], config: Mapping[str, Any]
) -> dict[str, str]:
    """Add the input to the overrides, or say what the method takes instead."""
    pair = "moving" in config
    if options.input is None and not {"input", "moving", "fixed"} & given.keys():
        wanted = "--moving IMAGE --fixed IMAGE" if pair else "INPUT"
        raise ConfigError(
            f"what to apply {options.method} to is missing: robustmed {options.command} {options.method} "
            f"{wanted}"
        )
    if options.input is None:
        return given
    if pair and Path(options.input).suffix != ".json":
        raise ConfigError(
            f"{options.input}: {options.method} takes two images, or a list of pairs (JSON): "
            f"robustmed infer {options.method} --moving IMAGE --fixed IMAGE"
        )
    return {"input": options.input, **given}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robustmed", description="Robust medical imaging methods as MONAI bundles."
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="the version, with the commit of a checkout"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, usage: str, more: str = _MORE) -> argparse.ArgumentParser:
        usage = f"robustmed {name} {usage}"
        return commands.add_parser(name, help=text, usage=usage, description=f"{text}. {more}")

    methods = f"one of {', '.join(bundle_names()) or 'none found'}"
    keys = "[--processes N] [--output_dir FOLDER] [--key value | key=value ...]"
    two = f"METHOD INPUT {keys}\n       robustmed infer cifl_registration --moving IMAGE --fixed IMAGE {keys}"
    infer = add("infer", "Apply a method to an image, a folder or a datalist", two)
    infer.add_argument("method", help=methods)
    kinds = "NIfTI, NRRD, MGZ, PNG, TIFF, a DICOM folder, a folder of these, or a datalist (JSON)"
    infer.add_argument(
        "input", nargs="?", help=f"{kinds}; cifl_registration takes --moving and --fixed instead"
    )
    calibrate = add(
        "calibrate",
        "Calibrate a method to a scanner with healthy images of it, for `infer --site FILE`",
        f"METHOD FOLDER {keys}",
        "Writes site.json into --output_dir, or to --site_file.",
    )
    calibrate.add_argument("method", help=methods)
    calibrate.add_argument("input", nargs="?", help="folder or datalist of healthy images")
    demo = add(
        "demo", "Apply a method's shipped weights to an embedded brain with a lesion", f"[METHOD] {keys}"
    )
    demo.add_argument("method", nargs="?", default="ra", help=f"{methods} (ra)")
    own = f"METHOD [--overlay NAME] [--dataset_dir FOLDER] {keys}"
    add("train", "Train a method, on embedded images by default", own).add_argument("method", help=methods)
    add("evaluate", "Evaluate a method", own).add_argument("method", help=methods)
    run = add(
        "run",
        "Run a config of any MONAI bundle",
        "[--audited] BUNDLE [--config NAME[,NAME]] [--key value ...]",
        "With --audited it is refused unless `robustmed audit` finds all of it safe. --config names a config "
        "of it (inference), and those laid over it. All else goes to the config: --device cpu, x=1.",
    )
    run.add_argument("bundle", help="folder of the bundle, or one of this package's methods")
    commands.add_parser("audit", help=DESCRIPTION.partition(":")[0])
    commands.add_parser("stress", help="Say how a model fails")
    more = "`robustmed prepare SOURCE --help` says what a source takes."
    prepare = add("prepare", "Make a datalist of an official download", "SOURCE [words of the source]", more)
    prepare.add_argument("source", help=f"one of {', '.join(sources())}")
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import robustmed_monai

        parser.exit(message=f"robustmed_monai {robustmed_monai.__version__}\n")


def _bundle(method: str) -> Path:
    return Path(bundle_root(_nearest(method, bundle_names(), "method")))


def _nearest(name: str, known: Sequence[str], kind: str) -> str:
    """Return a name that is known, or say which one is nearest."""
    if name in known:
        return name
    if not known:
        raise ConfigError(
            f"{kind} {name}: none is found; set ROBUSTMED_BUNDLES to the folder of the bundles."
        )
    nearest = max(known, key=lambda word: difflib.SequenceMatcher(None, name.lower(), word).ratio())
    raise ConfigError(f"{kind} {name}: unknown; the nearest is {nearest}. Choose one of {', '.join(known)}.")


def _words(files: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Words for python that do the same by MONAI's own command, where that takes all values as they are."""
    config = files[0] if len(files) == 1 else str(list(files))
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    return ["-m", "monai.bundle", "run", "--config_file", config, *words]


def _show(words: Sequence[str]) -> None:
    # A list of files is easier to read, and to copy, within double quotes.
    quoted = [
        f'"{word}"' if "'" in word and not set(word) & set('"\\$`!') else shlex.quote(word) for word in words
    ]
    sys.stderr.write(f"$ {' '.join(['python', *quoted])}\n")
    sys.stderr.flush()


def _started(words: Sequence[str]) -> int:
    return subprocess.run([sys.executable, *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
