"""Inference by the config: pictures, volumes and folders come back on their own grid, with a score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from robustmed_monai.utils.errors import ConfigError, ImageError
from robustmed_monai.utils.files import read_json


@pytest.fixture
def infer(unoranic: Any, with_heads: Path, tmp_path: Path) -> Any:
    """`infer(input, **overrides)` gives the output folder."""

    def run(given: Path, **overrides: Any) -> Path:
        settings = {
            "channels": [4, 4, 4, 8],
            "weights": str(with_heads / "model.pt"),
            "device": "cpu",
            # Drawn rings are no chest X-rays.
            "postprocessing#transforms#0#refuse": False,
        }
        out = tmp_path / "out"
        unoranic(
            "inference.json",
            settings | overrides,
            workflow_type="infer",
            input=str(given),
            output_dir=str(out),
        )
        return out

    return run


def _ring(shape: tuple[int, int] = (40, 30)) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    return 200 * np.exp(-(((np.hypot(x, y) - 0.6) / 0.2) ** 2))


def test_a_picture(infer: Any, tmp_path: Path) -> None:
    Image.fromarray(_ring().T.astype(np.uint8)).save(tmp_path / "ring.png")
    out = infer(tmp_path / "ring.png")
    for name in ("anatomy_image", "full_reconstruction"):
        with Image.open(out / "ring" / f"{name}.png") as picture:
            assert (picture.size, picture.mode) == ((40, 30), "L")
    report = read_json(out / "ring" / "scores.json")
    assert 0 <= report["corruption_score"] <= 1
    assert report["change"] >= 0
    assert report["slices"] == [
        {"slice": 0, "corruption_score": report["corruption_score"], "change": report["change"]}
    ]
    assert report["assessed"] == 1
    assert (out / "ring" / "slices.png").is_file()
    assert read_json(out / "summary.json")["images"][0]["corruption_score"] == report["corruption_score"]


def test_a_volume_keeps_its_geometry_and_empty_slices(infer: Any, tmp_path: Path) -> None:
    volume = np.zeros((30, 40, 4), np.float32)
    volume[..., 1] = volume[..., 2] = 5 * _ring((30, 40))
    affine = np.diag([-1.5, 2.0, 3.0, 1.0])
    affine[:3, 3] = (10, -20, 30)
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "head.nii.gz")
    out = infer(tmp_path / "head.nii.gz")
    for name in ("anatomy_image", "full_reconstruction"):
        found: Any = nib.load(out / "head" / f"{name}.nii.gz")
        assert found.shape == volume.shape
        np.testing.assert_allclose(found.affine, affine)
        data = found.get_fdata()
        assert not data[..., 0].any()
        assert not data[..., 3].any()
        assert data[..., 1].any()
        # Intensities are the source's, not [0, 1].
        assert data.max() <= 1001
        assert data.max() > 10
    assert [s["slice"] for s in read_json(out / "head" / "scores.json")["slices"]] == [1, 2]


def test_a_folder_with_a_damaged_file_does_the_others(infer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(_ring().T.astype(np.uint8)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(RuntimeError) as caught:
        infer(folder)
    cause = caught.value.__cause__
    assert isinstance(cause, ImageError)
    assert "1 of 2 images could not be used" in str(cause)
    summary = read_json(tmp_path / "out" / "summary.json")
    assert [Path(p).name for p in summary["failed"]] == ["b.png"]
    assert (tmp_path / "out" / "a" / "anatomy_image.png").is_file()


def test_without_heads_there_is_no_score(infer: Any, trained_nets: dict[str, Path], tmp_path: Path) -> None:
    Image.fromarray(_ring().T.astype(np.uint8)).save(tmp_path / "ring.png")
    out = infer(tmp_path / "ring.png", weights=str(trained_nets["train"] / "model.pt"))
    report = read_json(out / "ring" / "scores.json")
    assert report["corruption_score"] is None


def test_an_empty_image_is_said_to_be_empty(infer: Any, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "black.png")
    out = infer(tmp_path / "black.png")
    report = read_json(out / "black" / "scores.json")
    assert report["warnings"] == ["the image is empty: no voxel is above 0"]
    assert (report["corruption_score"], report["change"], report["slices"]) == (None, None, [])


def test_unknown_features_are_refused(infer: Any, tmp_path: Path) -> None:
    Image.fromarray(_ring().T.astype(np.uint8)).save(tmp_path / "ring.png")
    with pytest.raises(RuntimeError) as caught:
        infer(tmp_path / "ring.png", features="codes")
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, ConfigError):
        cause = cause.__cause__
    assert "the weights have heads for ['anatomy', 'both', 'characteristics']" in str(cause)
