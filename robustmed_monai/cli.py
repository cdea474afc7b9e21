"""The command ``robustmed``: short names for commands that are printed and can be typed instead.

robustmed infer ra scan.nii.gz --output_dir results    a method on an image, a folder or a datalist
robustmed demo                                         a method on a brain that the package brings along
robustmed prepare ixi --source IXI-T1.tar --output ixi an official download to a datalist
robustmed results ra                                   the results tables of a method, made again
"""

from __future__ import annotations

import argparse
import difflib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from robustmed_monai import __version__
from robustmed_monai.utils.bundle import bundle_names, bundle_root
from robustmed_monai.utils.errors import ConfigError, RobustMedError

# Words of ours that stand first; everything behind them belongs to the command that is run.
_POSITIONALS = {"infer": 2, "demo": 1, "prepare": 1, "results": 1}
_PACKAGE = Path(__file__).resolve().parents[1]
_MAIN = 'if __name__ == "__main__"'
_OVERRIDES = (
    "--processes N lets N processes share the images. Everything else goes to the bundle: --fpr 0.01, "
    "fpr=0.01, --device cpu, ... A key that its config does not have is an error that names the nearest."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments; the process's own by default.

    Returns:
        Exit status of the command that was run, 2 when there is none to run.
    """
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    own, rest = _split(words[1:], _POSITIONALS.get(words[0], len(words)))
    if words[0] in ("infer", "demo") and {"-h", "--help"} & set(rest):
        own, rest = ["--help"], []
    # Nothing of ours is behind the first option, save --help; what is missing there argparse says best.
    options = _parser().parse_args([words[0], *(own or [w for w in rest if w in ("-h", "--help")])])
    try:
        return _run(_command(options, rest))
    except RobustMedError as error:
        sys.stderr.write(f"robustmed: {error}\n")
        return 2


def infer_command(method: str, given: str, rest: Sequence[str], processes: int = 1) -> list[str]:
    """Return the command that applies a method.

    Args:
        method: name of a bundle.
        given: image, folder or datalist.
        rest: overrides of the bundle's config, ``--key value``, ``--key=value`` or ``key=value``.
        processes: processes that share the images.

    Raises:
        ConfigError: for an unknown method, a number of processes below 1, or a word that is no override.
    """
    config = _bundle(method) / "configs" / "inference.json"
    if not config.is_file():
        raise ConfigError(f"method {method}: has no {config}; it is not applied to single images.")
    if processes < 1:
        raise ConfigError(f"--processes {processes}: give 1 or more.")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    words = ["-m", "monai.bundle", "run", "--config_file", str(config), "--input", given, *overrides(rest)]
    return [sys.executable, *(launch if processes > 1 else []), *words]


def overrides(words: Sequence[str]) -> list[str]:
    """Return words for ``monai.bundle run``, where ``key=value`` is written ``--key=value``.

    Raises:
        ConfigError: for a word that is neither a key nor the value of one.

    Example:
        >>> overrides(["fpr=0.01", "--device", "cpu"])
        ['--fpr=0.01', '--device', 'cpu']
    """
    written: list[str] = []
    after_key = False
    for word in words:
        if word.startswith("--"):
            after_key = "=" not in word
            written.append(word)
        elif after_key:
            after_key = False
            written.append(word)
        elif "=" in word and word.partition("=")[0].replace("#", "").isidentifier():
            written.append(f"--{word}")
        else:
            raise ConfigError(f"{word}: neither --key value nor key=value; write one of them.")
    return written


def demo_volume(method: str) -> str:
    """Return the path of an embedded brain volume with a lesion, after making sure that there are weights.

    Raises:
        ConfigError: for an unknown method, or when the bundle has no weights yet.
    """
    models = _bundle(method) / "models"
    if not any(models.glob("*.pt")):
        raise ConfigError(
            f"{models}: holds no weights yet; train the bundle and give its weights to `robustmed infer "
            f"{method} INPUT --weights out/{method}/train/model.pt`."
        )
    from robustmed_monai.data.embedded import embedded_dataset
    from robustmed_monai.utils.files import read_json

    folder = embedded_dataset()
    items = read_json(folder / "volumes.json")["test"]
    return str(folder / [item["image"] for item in items if item.get("kind") == "hyper"][-1])


def sources() -> list[str]:
    """Names of the sources that ``data_prep`` reads."""
    files = (_PACKAGE / "data_prep").glob("*.py")
    return sorted(p.stem for p in files if _MAIN in p.read_text(encoding="utf-8"))


def result_scripts() -> dict[str, Path]:
    """Scripts of a checkout that make results tables, by method."""
    found = sorted((_PACKAGE / "benchmarks").glob("results_*.py"))
    return {p.stem.removeprefix("results_"): p for p in found if p.stem != "results_common"}


def _split(words: Sequence[str], count: int) -> tuple[list[str], list[str]]:
    """Split off the words, ``count`` at most, that stand before the first option."""
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    count = min(first, count)
    return list(words[:count]), list(words[count:])


def _command(options: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    if options.command == "prepare":
        return [
            sys.executable,
            "-m",
            f"robustmed_monai.data_prep.{_nearest(options.source, sources(), 'source')}",
            *rest,
        ]
    if options.command == "results":
        scripts = result_scripts()
        return [sys.executable, str(scripts[_nearest(options.method, list(scripts), "method")]), *rest]
    shared = argparse.ArgumentParser("robustmed infer", add_help=False, allow_abbrev=False)
    shared.add_argument("--processes", type=int, default=1)
    ours, rest = shared.parse_known_args(rest)
    given = options.input if options.command == "infer" else demo_volume(options.method)
    return infer_command(options.method, given, rest, ours.processes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robustmed",
        description="Robust medical imaging methods as MONAI bundles. A command prints what it stands for.",
    )
    parser.add_argument("--version", action="version", version=f"robustmed_monai {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, usage: str, more: str) -> argparse.ArgumentParser:
        shown = f"robustmed {name} {usage}"
        return commands.add_parser(name, help=text, usage=shown, description=f"{text}. {more}")

    methods = f"one of {', '.join(bundle_names()) or 'none found'}"
    words = "[--processes N] [--output_dir FOLDER] [--key value | key=value ...]"
    text = "Apply a method to an image, a folder or a datalist"
    infer = add("infer", text, f"METHOD INPUT {words}", _OVERRIDES)
    infer.add_argument("method", help=methods)
    infer.add_argument(
        "input", help="NIfTI, NRRD, MGZ, PNG, TIFF, a DICOM folder, a folder of these, or a datalist (JSON)"
    )
    text = "Apply a method with its shipped weights to an embedded brain with a lesion"
    demo = add("demo", text, f"[METHOD] {words}", _OVERRIDES)
    demo.add_argument("method", nargs="?", default="ra", help=f"{methods} (ra)")
    more = "`robustmed prepare SOURCE --help` says what a source takes."
    prepare = add("prepare", "Make a datalist of an official download", "SOURCE [words of the source]", more)
    prepare.add_argument("source", help=f"one of {', '.join(sources())}")
    more = "Takes hours and the real images in ROBUSTMED_DATA."
    results = add(
        "results", "Make the results tables of a method again", "METHOD [words of the script]", more
    )
    results.add_argument("method", help=f"one of {', '.join(result_scripts()) or 'none: no checkout'}")
    return parser


def _bundle(method: str) -> Path:
    return Path(bundle_root(_nearest(method, bundle_names(), "method")))


def _nearest(name: str, known: Sequence[str], kind: str) -> str:
    """Return a name that is known, or say which one is nearest."""
    if name in known:
        return name
    if not known:
        raise ConfigError(
            f"{kind} {name}: none is found; start in a checkout of the repository, or set ROBUSTMED_BUNDLES "
            "to the folder that holds the bundles."
        )
    nearest = max(known, key=lambda word: difflib.SequenceMatcher(None, name.lower(), word).ratio())
    raise ConfigError(f"{kind} {name}: unknown; the nearest is {nearest}. Choose one of {', '.join(known)}.")


def _run(command: Sequence[str]) -> int:
    """Print a command, run it and return its exit status."""
    # Scripts of the checkout name its files as seen from its root.
    place = _PACKAGE if command[1].endswith(".py") else None
    line = shlex.join(["python", *command[1:]])
    sys.stderr.write(f"$ cd {shlex.quote(str(place))} && {line}\n" if place else f"$ {line}\n")
    sys.stderr.flush()
    try:
        return subprocess.run(command, check=False, cwd=place).returncode
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
