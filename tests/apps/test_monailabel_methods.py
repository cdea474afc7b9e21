"""What the MONAI Label app needs of the bundles, without MONAI Label."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from robustmed_monai.apps.monailabel.methods import METHODS, calibrated, run_inference, weight_files
from robustmed_monai.apps.monailabel.server import make_app_folder, server_command
from robustmed_monai.utils.errors import ImageError
from robustmed_monai.utils.files import read_json
from robustmed_monai.utils.weights import load_weights, save_weights


@pytest.fixture
def ra(repository: Path) -> Path:
    return repository / "bundles" / "ra"


def _disc(path: Path) -> Path:
    x, y = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 72))
    Image.fromarray((200 * (x**2 + y**2 < 0.7)).astype(np.uint8)).save(path)
    return path


def test_an_image_goes_through_the_config_of_its_bundle(ra: Path, tmp_path: Path) -> None:
    found = run_inference(ra, tmp_path / "out", {"input": str(_disc(tmp_path / "slice.png"))})
    with Image.open(found / f"{METHODS['ra'].result}.png") as mask:
        assert mask.size == (64, 72)
    report = read_json(found / METHODS["ra"].report)
    urgency = METHODS["ra"].urgency
    assert urgency
    assert urgency.score(report) is None, "a disc is no brain"
    assert "assessed 0 of 1 slices" in report["warnings"][0]
    assert urgency.score({**report, "score": 0.02}) == 0.02


def test_nothing_in_a_path_is_evaluated(ra: Path, tmp_path: Path) -> None:
    place = tmp_path / "@bundle_root #1 %x $(y)"
    place.mkdir()
    path = _disc(place / "$1::2.png")
    found = run_inference(ra, place / "out", {"input": str(path)})
    assert read_json(found / "scores.json")["image"] == str(path)
    assert set(place.iterdir()) == {place / "out", path}


@pytest.mark.parametrize("calibration", [{"thresholds": {"0.05": 0.3}}, None])
def test_a_map_is_cut_where_a_request_says(
    calibration: dict[str, object] | None, repository: Path, tmp_path: Path
) -> None:
    """The mask is the map from the threshold on, whether the weights are calibrated or not."""
    root, path = repository / "bundles" / "pchvae", tmp_path / "model.pt"
    info = {"calibration": calibration} if calibration else {}
    save_weights(load_weights(root / "models" / "model.pt"), path, info)
    settings = {"input": str(_disc(tmp_path / "slice.png")), "weights": str(path)}
    found = run_inference(root, tmp_path / "out", {**settings, "threshold": 0.4, "fpr": None})
    report = read_json(found / "scores.json")
    assert (report["threshold"], report["threshold_fpr"]) == (0.4, None)
    shown, mask = (np.asarray(Image.open(found / f"anomaly_{name}.png")) for name in ("map", "mask"))
    # White of the map's picture is 1.0; values beside the threshold are within its rounding.
    clear = np.abs(shown / 255 - 0.4) > 1 / 255
    np.testing.assert_array_equal((mask > 0)[clear], (shown / 255 >= 0.4)[clear])
    assert mask.any()
    assert report["anomalous_voxels"] == (mask > 0).sum()


def test_the_reason_of_a_bundle_is_not_wrapped(ra: Path, tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"no gzip")
    with pytest.raises(ImageError, match=r"scan\.nii\.gz: not compressed by gzip"):
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


def test_every_model_reads_weights_that_ship(repository: Path) -> None:
    """Those of its overlays: the app hands them over, and whole heads have others than slices."""
    for name, method in METHODS.items():
        root = repository / "bundles" / (method.bundle or name)
        files = weight_files(root, overlays=method.overlays)
        assert all(file.is_file() for file in files), (name, files)
    heads = weight_files(repository / "bundles/cifl_segmentation", overlays=METHODS["whole_head"].overlays)
    assert [file.name for file in heads] == ["painted_heads.pt"]


def test_a_head_goes_through_the_overlay(repository: Path, tmp_path: Path) -> None:
    bundle, method = repository / "bundles" / "cifl_segmentation", METHODS["whole_head"]
    nib.save(nib.Nifti1Image(np.ones((40, 44, 12), np.float32), np.eye(4)), tmp_path / "box.nii.gz")
    with pytest.raises(ImageError, match="not aligned to the MNI152 template"):
        run_inference(bundle, tmp_path / "out", {"input": str(tmp_path / "box.nii.gz")}, method.overlays)


@pytest.mark.parametrize("name", METHODS)
def test_a_bundle_has_the_keys_that_the_app_sets(name: str, repository: Path) -> None:
    method = METHODS[name]
    configs = repository / "bundles" / (method.bundle or name) / "configs"
    content = read_json(configs / "inference.json")
    for overlay in method.overlays:
        names = read_json(configs / f"{overlay}.json")["class_names"]
        assert method.labels == {label: number for number, label in enumerate(names) if number}
    assert {*METHODS[name].inputs, "weights", "device", "output_dir", "bundle_root"} <= set(content)
    writer = content["writer"]
    assert METHODS[name].result in writer["images"].values()
    assert METHODS[name].report == writer.get("report_name", "scores.json")
    assert not METHODS[name].cut or {"threshold", "fpr"} <= set(content)


def test_the_server_listens_to_this_machine_only(tmp_path: Path) -> None:
    app = make_app_folder(tmp_path / "app")
    assert [path.name for path in app.iterdir()] == ["main.py"]
    command = server_command(app, tmp_path / "studies", 8123, {"models": "ra"})
    assert command[0] == sys.executable
    assert command[command.index("--host") + 1] == "127.0.0.1"
