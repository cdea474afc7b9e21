"""What `robustmed audit` costs, on our bundles and on the hostile corpus, beside scanners of model files.

    python benchmarks/bench_audit.py [--rounds 5] [--output FILE]

picklescan and modelscan get an environment of their own in ``out/benchmark_peers`` and take their turns in a
process there. They read the files of weights alone: no scanner that reads the configs of a bundle was found.
How many bundles of the corpus each of them flags is in the head of the results. ``--quick`` installs nothing.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be started by its path, from anywhere
from benchmarks.timing import Row, Work, interleaved, options, row, save, watch
from robustmed_monai.audit import audit_bundle
from robustmed_monai.audit.verdicts import Verdict
from robustmed_monai.utils.bundle import bundle_names, bundle_root
from robustmed_monai.utils.provenance import CHECKOUT

PEERS = {"picklescan": "picklescan==1.0.5", "modelscan": "modelscan==0.8.8"}
ENVIRONMENT = CHECKOUT / "out/benchmark_peers/scanners"


def hostile_bundles(folder: Path, limit: int | None = None) -> list[Path]:
    """Write the bundles of ``tests/audit/hostile.py``, one trick each."""
    corpus = _corpus()
    tricks = [{"keys": keys} for keys in corpus.KEYS.values()]
    tricks += [{"files": files} for files in corpus.FILES.values()]
    return [corpus.build(folder / f"{index:03}", **trick) for index, trick in enumerate(tricks[:limit])]


def weights_alone(folder: Path) -> list[Path]:
    """Copies of our bundles' folders of weights."""
    found = []
    for name in bundle_names():
        copy = folder / name / "models"
        shutil.copytree(Path(bundle_root(name)) / "models", copy)
        found.append(copy.parent)
    return found


def audit(folders: Sequence[Path]) -> list[bool]:
    """Which of these bundles are not safe."""
    return [audit_bundle(folder).verdict is not Verdict.SAFE for folder in folders]


@contextmanager
def scanners() -> Iterator[dict[str, Any]]:
    """Functions of folders by peer, each in a process in the other environment."""
    python = ENVIRONMENT / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS.values()], check=True)
    script = Path(__file__).with_name("scanners.py")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = {name: subprocess.Popen([python, script, name], **pipes) for name in PEERS}
    try:
        yield {PEERS[name].replace("==", " "): partial(_ask, child) for name, child in children.items()}
    finally:
        for child in children.values():
            child.communicate()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results file."""
    chosen = options("audit", __doc__, 5, arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = {
            "our bundles": [Path(bundle_root(bundle)) for bundle in bundle_names()],
            "their weights alone": weights_alone(folder / "weights"),
            "hostile corpus": hostile_bundles(folder / "hostile", 3 if chosen.quick else None),
        }
        if chosen.quick:
            sets["our bundles"] = sets["our bundles"][:1]
            rows, flagged = _measured(sets, {"again": audit}, chosen.rounds)
        else:
            with scanners() as peers:
                rows, flagged = _measured(sets, peers, chosen.rounds)
            rows += _command_rows(chosen.rounds)
    save(chosen, rows, flagged=flagged, bundles={title: len(found) for title, found in sets.items()})


def _measured(
    sets: dict[str, list[Path]], peers: dict[str, Any], rounds: int
) -> tuple[list[Row], dict[str, dict[str, int]]]:
    rows, flagged = [], {}
    for title, folders in sets.items():
        works: dict[str, Work] = {"ours": partial(audit, folders)}
        works |= {peer: partial(scan, folders) for peer, scan in peers.items()}
        judges = {"ours": audit, **peers}
        flagged[title] = {name: sum(judge(folders)) for name, judge in judges.items()}
        seconds = interleaved(works, rounds)
        rows += [row(title, seconds["ours"], seconds[peer], peer, "s", 1.0) for peer in peers]
    return rows, flagged


def _command_rows(rounds: int) -> list[Row]:
    """One bundle by the command, in a new process, whose imports and reading of sources count."""
    bundle = bundle_root("risc")
    ours = [watch([sys.executable, "-m", "robustmed_monai.cli", "audit", bundle]) for _ in range(rounds)]
    command = [str(ENVIRONMENT / "bin/picklescan"), "--path", bundle]
    peer = [watch(command) for _ in range(rounds)]
    name = PEERS["picklescan"].replace("==", " ")
    return [
        row("one bundle, by command", [r.seconds for r in ours], [r.seconds for r in peer], name, "s", 1.0),
        row(
            "one bundle, by command, peak memory",
            [r.peak for r in ours],
            [r.peak for r in peer],
            name,
            "MiB",
            1.0,
        ),
    ]


def _ask(child: subprocess.Popen[str], folders: Sequence[Path]) -> list[bool]:
    if child.stdin is None or child.stdout is None:
        raise TypeError("the scanner was started without pipes")
    child.stdin.write(json.dumps([str(folder) for folder in folders]) + "\n")
    child.stdin.flush()
    flagged: list[bool] = json.loads(child.stdout.readline())
    return flagged


def _corpus() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hostile", CHECKOUT / "tests/audit/hostile.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("tests/audit/hostile.py")
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a part of an archive of two parts of one name
        spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
