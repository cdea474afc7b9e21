"""torchrun with every bundle: two processes equal one, a killed rank ends the attempt, a restart goes on.

One bundle is killed and restarted by the real command. The others run what torchrun's processes run, the same
command line in the same environment, in forks of one new process, which has imported everything already.
A bundle is covered when CASES lists it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.utils.tensorboard

from robustmed_monai.utils.files import sha256, write_json
from robustmed_monai.utils.weights import load_weights

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = sorted(path.name for path in BUNDLES.iterdir() if (path / "configs" / "metadata.json").is_file())

Overrides = dict[str, Any]
SHORT: Overrides = {"batch_size": 4, "max_epochs": 2, "val_interval": 1, "seed": 3}
SLICES: Overrides = {**SHORT, "slice_range": [0.1, 0.9]}
RISC: Overrides = {"rotnet_batch_size": 4, "classifier_batch_size": 4}
RA: Overrides = {**SLICES, "image_size": 32, "channels": [4, 8, 8], "latent_size": 8, "warmup_epochs": 1}
TINY_CLASSIFIER = {
    "_target_": "monai.networks.nets.Classifier", "in_shape": [1, 32, 32], "classes": 4, "channels": [4, 8],
    "strides": [2, 2], "norm": "INSTANCE",
}  # fmt: skip
# Bundle: config files beside multi_gpu_train.json, and overrides with a norm that does not look at the batch.
CASES: dict[str, tuple[list[str], Overrides]] = {
    "ra": (["train"], {**RA, "norm": "affine"}),
    "unoranic": (
        ["train", "pca"],
        {**SLICES, "hidden": 16, "network_def#latent_size": 4, "network_def#tone": 8},
    ),
    "pchvae": (
        ["train"],
        {**SLICES, "image_size": 32, "channels": [4, 6, 6, 8], "high_channels": 4},
    ),
    # RotNet has BatchNorm and no other norm to choose; the rest of its config is as it is.
    "risc": (
        ["train"],
        {
            **RISC, "max_epochs": 2, "seed": 3, "num_classes": 2, "learning_rate": 0.005,
            "rotnet_def": TINY_CLASSIFIER, "classifier_def": {**TINY_CLASSIFIER, "classes": 2},
        },
    ),
    # CIFL's last biases are centred away and the U-Net has biases in front of its norms: their gradients are
    # rounding errors, which Adam would blow up.
    "cifl": (
        ["train"],
        {
            **SLICES, "image_size": 32, "spatial_size": [32, 32], "epoch_length": 3, "num_labels": 4,
            "filters": 4, "depth": 3, "optimizer#eps": 1e-3,
        },
    ),
    "cifl_segmentation": (
        ["train"],
        {**SHORT, "image_size": 32, "channels": [4, 8], "optimizer#eps": 1e-3},
    ),
    "cifl_registration": (["train"], {**SHORT, "image_size": 32, "channels": [4, 4, 6, 6]}),
}  # fmt: skip
# What one process needs to see the images of two. Synthesised batches are each process's own.
ALONE: dict[str, Overrides] = {
    "cifl": {
        "train#dataset#batch_size": 2,
        "train#dataset#length": 6,
        "train#dataloader#dataset": {"_target_": "rank_probe.Joined", "views": "@train#dataset"},
    },
}
PROBE = '''
import os, signal, time
from pathlib import Path
import torch
from ignite.engine import Events

class Joined(torch.utils.data.IterableDataset):
    """Two batches of synthesised views as one, view after view."""

    def __init__(self, views):
        self.views = views

    def __len__(self):
        return len(self.views) // 2

    def __iter__(self):
        batches = iter(self.views)
        for first, second in zip(batches, batches):
            images = zip(first["image"].chunk(2), second["image"].chunk(2))
            image = torch.cat([torch.cat(views) for views in images])
            yield {"image": image, "label": torch.cat([first["label"], second["label"]])}

class Probe:
    """Notes each attempt, kills rank 1 of the first one if told to, and keeps the weights of every rank."""

    def __init__(self, networks, folder):
        parts = isinstance(networks, torch.nn.Module)
        self.networks = dict(networks.named_children()) if parts else networks
        self.folder = Path(folder)
        self.rank = os.environ.get("RANK", "0")
        self.attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")

    def attach(self, engine):
        self.note("started")
        engine.add_event_handler(Events.ITERATION_STARTED, self.kill)
        engine.add_event_handler(Events.COMPLETED, self.keep)

    def note(self, event):
        (self.folder / f"{event}-{self.attempt}-{self.rank}").write_text(str(time.time()))

    def kill(self, engine):
        if (self.attempt, self.rank, str(engine.state.epoch)) == ("0", "1", os.environ.get("KILL_IN")):
            self.note("killed")
            os.kill(os.getpid(), signal.SIGKILL)

    def keep(self, engine):
        states = {f"{n}.{k}": v for n, net in self.networks.items() for k, v in net.state_dict().items()}
        torch.save(states, self.folder / f"rank{self.rank}.pt")
'''

# Python 3.12 warns of forks of processes with threads; the children end by _exit and use none of them.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")]


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training and two validation volumes of six slices: an ellipse with texture, labelled in halves."""
    folder, rng = tmp_path_factory.mktemp("volumes"), np.random.default_rng(2)
    content: Overrides = {"name": "ellipses", "license": "CC0-1.0", "description": "drawn by the tests"}
    x, y, z = np.ogrid[:32, :36, :6]
    inside = ((x - 16) / 13) ** 2 + ((y - 18) / 15) ** 2 + 0 * z < 1
    nib.save(nib.Nifti1Image((inside * (1 + (x > 16))).astype(np.uint8), np.eye(4)), folder / "label.nii.gz")
    for section, count in (("training", 4), ("validation", 2)):
        content[section] = []
        for number in range(count):
            name = f"{section}{number}"
            volume = np.where(inside, rng.uniform(300, 500, inside.shape) * (1 + (number % 2) * (x > 16)), 0)
            nib.save(nib.Nifti1Image(volume.astype(np.float32), np.eye(4)), folder / f"{name}.nii.gz")
            item = {"image": f"{name}.nii.gz", "label": "label.nii.gz", "subject": name}
            content[section].append({**item, "healthy": True, "level": number % 2})
    write_json(folder / "datalist.json", content)
    return folder


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay that adds the probe's handler, beside its module."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "rank_probe.py").write_text(PROBE)
    handler = {"_target_": "rank_probe.Probe", "networks": "@train#trainer_networks", "folder": "@output"}
    content = {"train#trainer_networks": None, "+train#handlers": [handler]}
    for name in CASES:
        networks = _first_config(name)["train"]["trainer"]["networks"]
        write_json(folder / f"{name}.json", content | {"train#trainer_networks": networks})
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one(name: str, dataset_dir: Path, probe: Path, tmp_path: Path) -> None:
    files, overrides = _case(name)
    settings = {**overrides, "dataset_dir": str(dataset_dir), "device": "$torch.device('cpu')"}
    one, two = tmp_path / "one", tmp_path / "two"
    alone = {**settings, **ALONE.get(name, {}), "output_dir": str(one)}
    _forked(1, _config_files(name, files, probe), alone, probe)
    del settings["device"]
    _forked(
        2,
        _config_files(name, [*files, "multi_gpu_train"], probe),
        {**settings, "output_dir": str(two)},
        probe,
    )
    expected, first, second = (
        torch.load(p, weights_only=True) for p in (one / "rank0.pt", two / "rank0.pt", two / "rank1.pt")
    )
    for key, tensor in expected.items():
        assert torch.equal(first[key], second[key]), f"{key} differs between the ranks"
        torch.testing.assert_close(first[key], tensor, atol=1e-5, rtol=1e-4, msg=key)
    assert (two / "rank1").is_dir(), "rank 1 writes its curves beside those of rank 0, not into them"
    found, wanted = (_best(folder) for folder in (two, one))
    assert found == pytest.approx(wanted, rel=1e-4)
    assert load_weights(two / "model.pt").keys() == load_weights(one / "model.pt").keys()


def test_with_batchnorm_both_ranks_hold_the_same_parameters(
    dataset_dir: Path, probe: Path, tmp_path: Path
) -> None:
    """Each rank normalises by its own part of the batch, so that two processes cannot equal one.

    The running statistics are each rank's own as well; rank 0's are those that are saved.
    """
    settings = {**RA, "norm": "batch", "max_epochs": 2, "dataset_dir": str(dataset_dir)}
    files = _config_files("ra", ["train", "multi_gpu_train"], probe)
    _forked(2, files, {**settings, "output_dir": str(tmp_path)}, probe)
    first, second = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    differing = {k for k in first if not torch.equal(first[k], second[k])}
    assert all(k.endswith(("running_mean", "running_var")) for k in differing)
    assert differing, "the statistics are those of each rank"


def test_a_killed_rank_ends_the_attempt_and_the_restart_goes_on_exactly(
    dataset_dir: Path, probe: Path, tmp_path: Path
) -> None:
    settings = {**RA, "norm": "affine", "max_epochs": 4, "dataset_dir": str(dataset_dir)}
    files = _config_files("ra", ["train", "multi_gpu_train"], probe)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _forked(2, files, {**settings, "output_dir": str(whole)}, probe)
    launcher = [
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--max-restarts",
        "1",
        "--standalone",
    ]
    # Rank 1 dies in its third epoch, after two checkpoints. Left to itself torchrun shares one store among
    # all attempts, where a restarted rank may find the address of a dead one.
    settled = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            *launcher,
            "-m",
            "monai.bundle",
            "run",
            *_words(files, {**settings, "output_dir": str(killed)}),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **settled, "PYTHONPATH": str(probe), "KILL_IN": "3"},
    )
    assert done.returncode == 0, done.stderr[-30000:] + done.stdout[-10000:]
    times = {p.name: float(p.read_text()) for p in killed.glob("*-?-?")}
    assert set(times) == {"started-0-0", "started-0-1", "killed-0-1", "started-1-0", "started-1-1"}
    seconds = max(times["started-1-0"], times["started-1-1"]) - times["killed-0-1"]
    assert seconds < 60, "from the death of a rank until both train again"
    assert "Resumed after epoch 2" in done.stderr + done.stdout
    for name in ("checkpoint.pt", "model.pt", "rank0.pt", "rank1.pt"):
        assert _same_bits(killed / name, whole / name), name


def _case(name: str) -> tuple[list[str], Overrides]:
    if not (BUNDLES / name / "configs" / "multi_gpu_train.json").is_file():
        pytest.skip(f"bundles/{name} has no multi_gpu_train.json yet")
    if name not in CASES:
        pytest.skip(f"bundles/{name} has no case here yet: add its tiny settings to CASES")
    return CASES[name]


def _first_config(name: str) -> Overrides:
    content: Overrides = json.loads((BUNDLES / name / "configs" / f"{CASES[name][0][0]}.json").read_text())
    return content


def _config_files(name: str, files: list[str], probe: Path) -> list[str]:
    return [
        *(str(BUNDLES / name / "configs" / f"{file}.json") for file in files),
        str(probe / f"{name}.json"),
    ]


def _words(files: list[str], overrides: Overrides) -> list[str]:
    words = ["--config_file", str(files)]
    return [*words, *(word for key, value in overrides.items() for word in (f"--{key}", str(value)))]


def _forked(world: int, files: list[str], overrides: Overrides, probe: Path) -> None:
    """Run the bundle's command in as many processes as torchrun would start."""
    log = Path(str(overrides["output_dir"]) + ".log")
    words = [str(world), str(_free_port()), str(probe), str(log), *_words(files, overrides)]
    # From a new process: this one may have used autograd, which does not go through a fork.
    done = subprocess.run([sys.executable, __file__, *words], check=False, timeout=600)
    assert done.returncode == 0, log.read_text()[-3000:]


def _fork_ranks(world: int, port: int, probe: Path, log: Path, words: list[str]) -> bool:
    """Run a command in forks of this process; whether all ended well."""
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(r, world, port, words, probe, log)) for r in range(world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(300)
    return [rank.exitcode for rank in ranks] == [0] * world


def _rank(rank: int, world: int, port: int, words: list[str], probe: Path, log: Path) -> None:
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    if world > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ |= {k: str(v) for k, v in (place | {"MASTER_PORT": port}).items()}
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    sys.path.insert(0, str(probe))
    sys.argv = ["monai.bundle", "run", *words, "--logging_file", "False"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def _best(folder: Path) -> float:
    content = json.loads((folder / "model.json").read_text())
    info = content["info"]
    return float(info.get("classifier", info)["value"])


def _same_bits(first: Path, second: Path) -> bool:
    if sha256(first) == sha256(second):
        return True
    a, b = (torch.load(path, weights_only=True) for path in (first, second))
    return _equal(a, b)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


if __name__ == "__main__":
    _world, _port, _probe, _log, *_given = sys.argv[1:]
    sys.exit(not _fork_ranks(int(_world), int(_port), Path(_probe), Path(_log), _given))
