"""Components of files: on the file's grid, in its units, and what is written of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from robustmed_monai.networks.pchvae import Components, Posterior
from robustmed_monai.transforms.ood_statistics import training_statistics
from robustmed_monai.utils.errors import ImageError
from robustmed_monai.utils.files import read_json

BUNDLE = Path(__file__).parents[3] / "bundles" / "pchvae"
CONFIG = BUNDLE / "configs" / "inference.json"
AFFINE = np.array([[0, 2.0, 0, 5], [-1.5, 0, 0, 7], [0, 0, 3.0, -9], [0, 0, 0, 1]])


def read_nifti(path: Path) -> Any:
    return nib.load(path)


class Known(torch.nn.Module):
    """Components that can be told: high is the image, low 0.25 in the upper half."""

    def components(self, image: torch.Tensor) -> Components:
        low = torch.zeros_like(image)
        low[..., : image.shape[-1] // 2] = 0.25
        code = torch.zeros(len(image), 1, 1, 1, device=image.device)
        return Components(
            image + low, image, low, {"high": Posterior(code, code), "low": Posterior(code + 1, code)}
        )


@pytest.fixture
def volume(tmp_path: Path, rng: np.random.Generator) -> Path:
    values = np.zeros((32, 32, 6), np.float32)
    values[6:26, 4:28, 1:5] = rng.uniform(300, 500, (20, 24, 4))
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "brain.nii.gz")
    return tmp_path / "brain.nii.gz"


def run(paths: list[Path], output: Path, statistics: Any = None) -> None:
    parser = ConfigParser()
    parser.read_config(CONFIG)
    settings: dict[str, Any] = {
        "image_size": 32,
        "variance": 1.0,
        "device": "cpu",
        "output_dir": str(output),
        "bundle_root": str(BUNDLE),
    }
    files = [{"image": str(path)} for path in paths]
    info = {"training_statistics": statistics}
    parser.update({**settings, "network": Known(), "info": info, "files": files})
    parser.get_parsed_content("evaluator").run()


def test_a_volume_comes_back_on_its_grid(volume: Path, tmp_path: Path) -> None:
    run([volume], tmp_path / "out")
    folder = tmp_path / "out" / "brain"
    source = read_nifti(volume)
    values = np.asarray(source.dataobj)
    found = {}
    for name in ("x_high", "x_low", "x_sum", "anomaly_map"):
        image = read_nifti(folder / f"{name}.nii.gz")
        np.testing.assert_allclose(image.affine, source.affine)
        assert image.shape == source.shape
        found[name] = np.asarray(image.dataobj)
    brain = values > 0
    mean, std = values[brain].mean(), values[brain].std()
    expected = values.clip(mean - 1.5 * std, mean + 1.5 * std)
    np.testing.assert_allclose(found["x_high"][brain], expected[brain], rtol=0.02)
    np.testing.assert_allclose(found["x_sum"], found["x_high"] + found["x_low"], atol=0.05)
    assert set(np.unique(found["x_low"].round(2))) == {0.0, np.float32(found["x_low"].max()).round(2)}
    assert found["x_low"].max() == pytest.approx(0.25 * std, rel=0.03)
    assert found["anomaly_map"].max() == pytest.approx(0.25, abs=1e-4)
    report = read_json(folder / "scores.json")
    assert [entry["slice"] for entry in report["slices"]] == [1, 2, 3, 4]
    assert report["slices"][0]["kl"] == pytest.approx(0.5)
    assert report["slices"][0]["elbo"] == pytest.approx(0.25**2 * 32 * 16 / 2 + 0.5)
    assert report["assessed"] == 4
    assert (folder / "slices.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_failures_and_strangers(volume: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    picture = np.zeros((32, 32), np.uint8)
    picture[4:28, 6:26] = rng.integers(90, 250, (24, 20))
    Image.fromarray(picture).save(tmp_path / "slice.png")
    Image.fromarray(np.zeros_like(picture)).save(tmp_path / "empty.png")
    statistics = training_statistics(torch.full((4, 1, 32, 32), 0.9) + 0.01 * torch.rand(4, 1, 32, 32))
    paths = [tmp_path / "slice.png", tmp_path / "empty.png", volume]
    with pytest.raises(ImageError, match=r"1 of 3 images could not be used:\n.*empty.png: no brain"):
        run(paths, tmp_path / "out", statistics)
    low = np.asarray(Image.open(tmp_path / "out/slice/x_low.png"))
    assert low.shape == picture.shape
    assert low[-1, 0] in (127, 128), "no low-level component is the middle grey"
    assert low[0, 0] > 128
    summary = read_json(tmp_path / "out/summary.json")
    assert [entry["folder"] for entry in summary["images"]] == ["slice", "brain"]
    assert list(summary["failed"]) == [str(tmp_path / "empty.png")]
    assert any("foreground is" in text for text in summary["images"][0]["warnings"])
