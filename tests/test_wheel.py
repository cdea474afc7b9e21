"""The wheel, installed away from the checkout: what it holds, and that its command works there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import DenseNet
from PIL import Image

pytestmark = pytest.mark.slow

LIMIT = 95e6  # bytes; the package index takes 100 MB


def _run(words: Sequence[str | Path], **settings: Any) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, **settings)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return str(done.stdout)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A copy of what is built, for a build leaves files behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("robustmed_monai", "bundles", "data_prep"):
        ignored = shutil.ignore_patterns("__pycache__", "out", "eval")
        shutil.copytree(repository / name, copy / name, symlinks=True, ignore=ignored)
    for path in repository.glob("*.*"):
        if path.is_file():
            shutil.copy2(path, copy)
    shutil.copy2(repository / "LICENSE", copy)
    git = ["git", "-C", str(copy), "-c", "user.name=a", "-c", "user.email=a@b"]
    _run([*git, "init", "--quiet"])
    _run([*git, "commit", "--quiet", "--allow-empty", "-m", "first"])
    return copy


def _commit(source: Path) -> str:
    return _run(["git", "-C", source, "rev-parse", "--short=12", "HEAD"])


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    _run([sys.executable, "-m", "pip", "wheel", *options, str(source)])
    (built,) = folder.glob("*.whl")
    return built


def test_holds_the_package_and_its_bundles_alone(wheel: Path, repository: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"robustmed_monai"}
    held = {name.removeprefix("robustmed_monai/") for name in names}
    shipped = [p.relative_to(repository) for p in (repository / "bundles").glob("*/[cm]o*/*.*")]
    assert shipped
    assert {path.as_posix() for path in shipped} <= held
    assert {"data_prep/ixi.py", "audit/allowed.txt", "audit/denied.txt", "audit/attributes.txt"} <= held
    assert wheel.stat().st_size < LIMIT


def test_knows_its_commit(wheel: Path, source: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("robustmed_monai/utils/commit.txt").decode() == _commit(source)


def test_source_distribution_holds_everything_once(source: Path, tmp_path: Path) -> None:
    code = "import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])"
    _run([sys.executable, "-c", code, tmp_path], cwd=source)
    (built,) = tmp_path.glob("*.tar.gz")
    assert built.stat().st_size < LIMIT
    with tarfile.open(built) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
        (record,) = (m for m in archive.getmembers() if m.name.endswith("utils/commit.txt"))
        packed = archive.extractfile(record)
        assert packed is not None
        assert packed.read().decode() == _commit(source)
    assert {"setup.cfg", "pyproject.toml", "robustmed_monai/bundles/ra/models/model.pt"} <= held
    assert not {"bundles", "data_prep", "tests"} & held


def test_works_in_an_empty_folder(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    place, empty = tmp_path / "environment", tmp_path / "empty"
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    packages = Path(_run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    target = ["--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    _run([sys.executable, "-m", "pip", *target])
    # What the package depends on is there already; its editable installation is not reached by this line.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    empty.mkdir()
    grid = np.stack(np.meshgrid(*[np.linspace(-1.2, 1.2, n) for n in (48, 56, 12)], indexing="ij"))
    head = ((grid**2).sum(0) < 1) * (1 + 0.2 * grid[0])
    nib.save(nib.Nifti1Image(head.astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0])), empty / "head#1.nii.gz")
    command = place / "bin" / "robustmed"
    _run([command, "infer", "ra", "head#1.nii.gz", "--output_dir", "done"], cwd=empty)
    assert list((empty / "done").rglob("*anomaly*.nii.gz"))
    _audits(command, empty)
    _stresses(command, empty)
    where = _run(
        [python, "-c", "import robustmed_monai.utils.bundle as b; print(b.bundles_dir())"], cwd=empty
    )
    assert Path(where.strip()) == (packages / "robustmed_monai" / "bundles").resolve()


def _stresses(command: Path, folder: Path) -> None:
    """A stress test of a bundle that is not of this package, with its report."""
    (folder / "foreign" / "configs" / "evaluate.json").unlink()
    sizes = {"init_features": 4, "growth_rate": 4, "block_config": [1, 1]}
    config = {
        "network_def": {
            "_target_": "DenseNet",
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 2,
            **sizes,
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
                {"_target_": "ScaleIntensityd", "keys": "image"},
            ],
        },
    }
    (folder / "foreign" / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "foreign" / "models").mkdir()
    torch.manual_seed(0)
    built = DenseNet(2, 1, 2, **sizes)  # type: ignore[arg-type]
    torch.save(built.state_dict(), folder / "foreign" / "models" / "model.pt")
    items = []
    for i in range(8):
        Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20) // (i + 1)).save(folder / f"{i}.png")
        items.append({"image": f"{i}.png", "label": i % 2})
    (folder / "datalist.json").write_text(json.dumps({"test": items}))
    words = ["--bundle", "foreign", "--data", "datalist.json", "--suite", "orientation", "--device", "cpu"]
    said = _run([command, "stress", *words, "--fail-under", "accuracy=0@flip_x"], cwd=folder)
    assert "met: accuracy=0@flip_x" in said
    assert (folder / "stress" / "report.html").stat().st_size > 5000


def _audits(command: Path, folder: Path) -> None:
    """The audit of a bundle that is not of this package, safe and with a trick."""
    configs = folder / "foreign" / "configs"
    configs.mkdir(parents=True)
    network = '"network": {"_target_": "torch.nn.Identity"}, "run": ["$print(@network)"]'
    (configs / "inference.json").write_text(f"{{{network}}}")
    (configs / "metadata.json").write_text('{"version": "0.1.0"}')
    said = _run([command, "audit", "foreign"], cwd=folder)
    assert said == "foreign: safe: everything it names is allowed (2 safe, 0 unknown, 0 dangerous)\n"
    assert "Identity()" in _run([command, "run", "--audited", "foreign", "--config", "inference"], cwd=folder)
    (configs / "evaluate.json").write_text('{"network": {"_target_": "monai.bundle.scripts.os.system"}}')
    done = subprocess.run(
        [command, "run", "--audited", "foreign"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "configs/evaluate.json" in done.stderr
