"""A folder that has what the commands of the pages name, and a function that runs them in this process."""

from __future__ import annotations

import hashlib
import io
import json
import runpy
import sys
import tarfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from robustmed_monai.data.embedded import embedded_dataset
from robustmed_monai.utils.files import read_json, write_json

SUBJECTS = {"training": 4, "validation": 2, "test": 2}


@pytest.fixture(scope="module", autouse=True)
def _offline(no_network: None) -> None:
    """No command of a page needs a network; one that asks for it fails here as it would offline."""


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the pages' names stand for: images, folders and archives, cut out of the embedded data."""
    import medmnist

    folder = tmp_path_factory.mktemp("stock")
    _small_datalist(folder / "my_slices")
    (folder / "data").mkdir()
    (folder / "data" / "oasis_slices").symlink_to(folder / "my_slices")
    _images(folder)
    _archive(folder / "IXI-T1.tar")
    with pytest.MonkeyPatch.context() as patch:
        digest = _medmnist(folder / "medmnist")
        patch.setitem(medmnist.INFO, "pneumoniamnist", medmnist.INFO["pneumoniamnist"] | {"MD5": digest})
        yield folder


@pytest.fixture
def place(stock: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of one page: the stock, and of the checkout what commands name."""
    for path in (
        *stock.iterdir(),
        repository / "bundles",
        repository / "Makefile",
        repository / "benchmarks",
    ):
        (tmp_path / path.name).symlink_to(path)
    # `data` is written to.
    (tmp_path / "data").unlink()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "oasis_slices").symlink_to(stock / "my_slices")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], tuple[int, str]]:
    """`module(words)`: what `python -m words...` does, in here; exit status, and the end of what it said."""

    def run(words: Sequence[str]) -> tuple[int, str]:
        name = words[0]
        place = sys.modules[name].__path__[0] + "/__main__.py" if name == "monai.bundle" else name
        monkeypatch.setattr(sys, "argv", [place, *words[1:]])
        monkeypatch.setattr(sys, "path", sys.path.copy())
        monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
        said = io.StringIO()
        try:
            with warnings.catch_warnings(), redirect_stderr(said), redirect_stdout(said):
                # MONAI 1.6.1 hands ignite's early stopping arguments that ignite 0.5.5 has renamed.
                warnings.filterwarnings(
                    "ignore", "'(min_delta|cumulative_delta)' is deprecated", DeprecationWarning
                )
                # It is in sys.modules already: these tests import from it.
                warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
                runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()[-2000:]
        except Exception as error:
            return 1, f"{said.getvalue()[-1000:]}\n{type(error).__name__}: {error}; {_causes(error)}"
        return 0, said.getvalue()[-2000:]

    return run


def _causes(error: BaseException) -> str:
    causes = []
    while error.__cause__ is not None:
        error = error.__cause__
        causes.append(f"{type(error).__name__}: {error}")
    return "; ".join(causes)


def _small_datalist(folder: Path) -> None:
    """Few subjects of the embedded data, all five levels of each, files where they are."""
    source = embedded_dataset()
    content = read_json(source / "datalist.json")
    for section, count in SUBJECTS.items():
        kept = sorted({item["subject"] for item in content[section]})[:count]
        content[section] = [
            {**item, **{key: str(source / item[key]) for key in ("image", "label", "mask") if key in item}}
            for item in content[section]
            if item["subject"] in kept
        ]
    folder.mkdir()
    write_json(folder / "datalist.json", {**content, "digests": {}})


def _images(folder: Path) -> None:
    """Four slices of two volumes, and one slice as a picture, under the names that the pages use."""
    source = embedded_dataset()
    items = read_json(source / "volumes.json")["test"]
    for names, item in ((("brain_t1", "scan", "T1", "t1"), items[0]), (("brain_t2", "T2", "t2"), items[2])):
        volume = nib.load(source / item["image"]).slicer[:, :, 40:44]  # type: ignore[attr-defined]
        for name in names:
            nib.save(volume, folder / f"{name}.nii.gz")
    for name in ("scans", "healthy_scans", "folder"):
        (folder / name).mkdir()
        (folder / name / "first.nii.gz").symlink_to(folder / "brain_t1.nii.gz")
    picture = read_json(source / "datalist.json")["test"][0]["image"]
    for name in ("chest.png", "xray.png"):
        (folder / name).symlink_to(source / picture)
    suite = {"name": "scanner", "seed": 0, "rows": [{"family": "mr", "name": "ghosting", "severity": 1}]}
    (folder / "suite.json").write_text(json.dumps(suite))


def _archive(path: Path) -> None:
    """Two embedded volumes as if they came from IXI."""
    source = embedded_dataset()
    volumes = [item["image"] for item in read_json(source / "volumes.json")["training"][:2]]
    with tarfile.open(path, "w") as archive:
        for i, name in enumerate(volumes):
            archive.add(source / name, f"IXI{100 + i}-Guys-0{700 + i}-T1.nii.gz")


def _medmnist(folder: Path) -> str:
    """A made-up PneumoniaMNIST; returns its md5."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 16), ("val", 8), ("test", 8)):
        labels = np.arange(count)[:, None] % 2
        noise = rng.integers(0, 60, (count, 28, 28))
        arrays[f"{part}_images"] = (noise + 100 * labels[:, :, None]).astype(np.uint8)
        arrays[f"{part}_labels"] = labels.astype(np.uint8)
    folder.mkdir()
    path = folder / "pneumoniamnist.npz"
    np.savez_compressed(path, **arrays)
    return hashlib.md5(path.read_bytes()).hexdigest()
