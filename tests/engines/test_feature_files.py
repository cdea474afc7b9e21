from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose, Invertd
from PIL import Image

from robustmed_monai.engines.file_evaluator import FileEvaluator
from robustmed_monai.handlers.result_writer import ResultWriter
from robustmed_monai.handlers.side_by_side import SideBySide
from robustmed_monai.inferers.cifl import FeatureInferer, channels_sheet, feature_report
from robustmed_monai.inferers.slicewise import SlicewiseInferer
from robustmed_monai.networks.cifl import CIFL
from robustmed_monai.transforms import LoadCheckedImaged, ScaleForegroundd, VolumeToSlicesd
from robustmed_monai.utils.errors import ImageError

# Turned, flipped and sheared a little: a geometry that must come back as it was.
AFFINE = np.array([[0, -1.5, 0.1, 20], [-1.2, 0, 0, 30], [0, 0.2, 2.0, -10], [0, 0, 0, 1.0]])


def _write(path: Path, seed: int = 0, shape: tuple[int, ...] = (20, 24, 6)) -> Path:
    volume = np.random.default_rng(seed).integers(1, 900, shape).astype(np.int16)
    volume[..., 0] = 0
    nib.save(nib.Nifti1Image(volume, AFFINE), path)
    return path


def _run(paths: list[Path], out: Path, network: CIFL, roi_size: int | None = None) -> None:
    volume = network.spatial_dims == 3
    before = Compose(
        [
            LoadCheckedImaged("image", channels=1, spatial_dims=3 if volume else None),
            ScaleForegroundd("image"),
            VolumeToSlicesd("image"),
        ]
    )
    inferer = FeatureInferer(roi_size)
    files = [{"image": str(p)} for p in paths]
    sheets = {"features.png": channels_sheet}
    settings: Any = {"report_name": "features.json", "summary": ["channels", "slice_shown"]}
    writer = ResultWriter(out, files, {"pred": "features"}, feature_report, sheets, **settings)
    evaluator = FileEvaluator(
        "cpu",
        Dataset(writer.pending(), before),
        network,
        inferer if volume else SlicewiseInferer(inferer),
        Compose([Invertd("pred", before, "image", nearest_interp=False)]),
        [SideBySide(out), writer],
    )
    evaluator.run()


@pytest.fixture
def network() -> CIFL:
    torch.manual_seed(0)
    return CIFL(out_channels=5, channels=4, depth=3)


def test_features_of_a_volume_are_those_of_its_slices_on_its_own_grid(network: CIFL, tmp_path: Path) -> None:
    path = _write(tmp_path / "head.nii.gz")
    _run([path], tmp_path / "out", network)
    source: Any = nib.load(path)
    features: Any = nib.load(tmp_path / "out" / "head" / "features.nii.gz")
    assert features.shape == (*source.shape, 5)
    assert features.get_data_dtype() == np.float32
    assert np.allclose(features.affine, source.affine, atol=1e-6)
    volume = np.asarray(source.dataobj, np.float32)
    scaled = np.clip(volume / np.percentile(volume[volume > 0], 99.5), 0, 1)
    # nibabel turns to x right, y front, z up; the network sees x right, y back.
    turned = [
        torch.from_numpy(np.asarray(nib.as_closest_canonical(image).dataobj, np.float32)[:, ::-1].copy())
        for image in (nib.Nifti1Image(scaled, source.affine), features)
    ]
    assert turned[0].shape == (24, 20, 6)
    for k in (3, 5):
        square = torch.nn.functional.pad(turned[0][:, :, k], (2, 2))
        with torch.no_grad():
            expected = network(square[None, None])[0, :, :, 2:-2]
        assert torch.allclose(turned[1][:, :, k].permute(2, 0, 1), expected, atol=1e-4)
    assert turned[1][:, :, 0].abs().max() == 0, "an empty slice has no features"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["failed"] == {}


def test_two_contrasts_come_side_by_side(network: CIFL, tmp_path: Path) -> None:
    paths = [_write(tmp_path / f"{name}.nii.gz", seed) for seed, name in enumerate(("T1", "T2"))]
    _run(paths, tmp_path / "out", network)
    for name in ("side_by_side.png", "T1/features.png", "T2/features.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            picture.verify()
    shown = [i["slice_shown"] for i in json.loads((tmp_path / "out/summary.json").read_text())["images"]]
    # The lowest slice of these volumes is empty.
    assert len(shown) == 2
    assert all(0 < place < 6 for place in shown)


def test_a_picture_gives_features_as_well(network: CIFL, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    _run([tmp_path / "a.png"], tmp_path / "out", network)
    features: Any = nib.load(tmp_path / "out" / "a" / "features.nii.gz")
    assert features.shape == (40, 30, 1, 5)
    assert not (tmp_path / "out" / "side_by_side.png").exists()


def test_volumes_whole_and_in_tiles(tmp_path: Path) -> None:
    path = _write(tmp_path / "head.nii.gz")
    network = CIFL(3, out_channels=3, channels=4, depth=3)
    for name, roi_size in (("whole", None), ("tiles", 9)):
        _run([path], tmp_path / name, network, roi_size=roi_size)
    whole: Any = nib.load(tmp_path / "whole" / "head" / "features.nii.gz")
    tiles: Any = nib.load(tmp_path / "tiles" / "head" / "features.nii.gz")
    assert whole.shape == (20, 24, 6, 3)
    assert np.allclose(np.asarray(whole.dataobj), np.asarray(tiles.dataobj), atol=1e-4)


def test_unusable_images_are_named_at_the_end_and_the_others_done(network: CIFL, tmp_path: Path) -> None:
    good, bad = _write(tmp_path / "good.nii.gz"), tmp_path / "bad.nii.gz"
    bad.write_bytes(good.read_bytes()[:500])
    with pytest.raises(ImageError, match=r"1 of 2 images could not be used:\n.*bad\.nii\.gz"):
        _run([bad, good], tmp_path / "out", network)
    assert (tmp_path / "out" / "good" / "features.nii.gz").is_file()


def test_an_empty_image_is_said_to_be_empty(network: CIFL, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 3), np.int16), np.eye(4)), tmp_path / "none.nii.gz")
    _run([tmp_path / "none.nii.gz"], tmp_path / "out", network)
    (image,) = json.loads((tmp_path / "out" / "summary.json").read_text())["images"]
    assert "empty" in image["warnings"][0]
