"""What the MONAI Label app needs of the bundles, without MONAI Label."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustmed_monai.apps.monailabel.methods import METHODS, calibrated, run_inference, weight_files
from robustmed_monai.apps.monailabel.server import make_app_folder, server_command
from robustmed_monai.utils.errors import ImageError
from robustmed_monai.utils.files import read_json
from robustmed_monai.utils.weights import save_weights


@pytest.fixture
def ra(repository: Path) -> Path:
    return repository / "bundles" / "ra"


def test_an_image_goes_through_the_config_of_its_bundle(ra: Path, tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 72))
    Image.fromarray((200 * (x**2 + y**2 < 0.7)).astype(np.uint8)).save(tmp_path / "slice.png")
    found = run_inference(ra, tmp_path / "out", {"input": str(tmp_path / "slice.png")})
    with Image.open(found / f"{METHODS['ra'].result}.png") as mask:
        assert mask.size == (64, 72)
    urgency = METHODS["ra"].urgency
    assert urgency
    assert 0 < urgency.score(read_json(found / METHODS["ra"].report)) < 1


def test_the_reason_of_a_bundle_is_not_wrapped(ra: Path, tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"no gzip")
    with pytest.raises(ImageError, match=r"scan\.nii\.gz: the compressed data are damaged"):
        run_inference(ra, tmp_path / "out", {"input": str(tmp_path / "scan.nii.gz")})


def test_a_map_is_cut_where_its_weights_are_calibrated(repository: Path, tmp_path: Path) -> None:
    root, path = repository / "bundles" / "pchvae", tmp_path / "model.pt"
    assert calibrated(root, path) == {}
    save_weights({"any": torch.zeros(1)}, path, {})
    assert calibrated(root, path) == {}
    save_weights({"any": torch.zeros(1)}, path, {"calibration": {"thresholds": {"0.05": 0.3}}})
    assert calibrated(root, path) == {"threshold": 0.3}


def test_several_images_are_refused(ra: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.full((32, 32), 90, np.uint8)).save(tmp_path / f"{name}.png")
    with pytest.raises(ImageError, match="2 images"):
        run_inference(ra, tmp_path / "out", {"input": str(tmp_path)})


def test_the_weights_of_a_bundle_are_found_from_anywhere(
    ra: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert weight_files(ra) == [ra / "models" / "model.pt"]


@pytest.mark.parametrize("name", METHODS)
def test_a_bundle_has_the_keys_that_the_app_sets(name: str, repository: Path) -> None:
    config = repository / "bundles" / name / "configs" / "inference.json"
    if not config.is_file():
        pytest.skip(f"{config} is not there yet")
    assert {*METHODS[name].inputs, "weights", "device", "output_dir", "bundle_root"} <= set(read_json(config))


def test_the_server_listens_to_this_machine_only(tmp_path: Path) -> None:
    app = make_app_folder(tmp_path / "app")
    assert [path.name for path in app.iterdir()] == ["main.py"]
    command = server_command(app, tmp_path / "studies", 8123, {"models": "ra"})
    assert command[0] == sys.executable
    assert command[command.index("--host") + 1] == "127.0.0.1"
