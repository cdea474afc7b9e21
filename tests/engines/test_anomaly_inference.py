from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from robustmed_monai.engines.anomaly_inference import FileIteration
from robustmed_monai.engines.ra import anomaly_iteration
from robustmed_monai.inferers.familiarity import image_reference
from robustmed_monai.inferers.ra import image_score
from robustmed_monai.transforms.load import LoadCheckedImage
from robustmed_monai.transforms.slices import volume_to_slices
from robustmed_monai.utils.errors import ConfigError


class Engine(SimpleNamespace):
    """As much of an evaluator as an iteration touches."""

    def __init__(self, inferer: Any) -> None:
        super().__init__(network=torch.nn.Identity(), inferer=inferer, non_blocking=False, fired=[])
        self.state = SimpleNamespace(device=torch.device("cpu"), output=None)
        self.batches: list[int] = []

    def fire_event(self, event: Any) -> None:
        self.fired.append(event.name)


@pytest.fixture
def engine() -> Engine:
    """Finds a pseudo-healthy image half as bright, and calls the difference abnormal."""

    def infer(image: Tensor, network: Any) -> dict[str, Tensor]:
        made.batches.append(len(image))
        return {"pred": image / 2, "anomaly_map": image / 2}

    made = Engine(infer)
    return made


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    voxels = np.zeros((10, 12, 7), np.int16)
    voxels[2:9, 3:11, 1:6] = np.random.default_rng(0).integers(100, 400, (7, 8, 5))
    nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, 2.0, 3.0, 1.0])), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


class TestFileIteration:
    def test_maps_come_back_on_the_grid_of_the_file(self, engine: Engine, volume: Path) -> None:
        # No resampling at the own side of the slices: the way there and back is exact.
        output = FileIteration(image_size=12, upper_percentile=100)(engine, {"image": str(volume)})
        source = LoadCheckedImage()(volume)
        assert output["pred"].shape == output["anomaly_map"].shape == source.shape
        torch.testing.assert_close(output["pred"].as_tensor(), source.as_tensor() / 2)
        scale = 2 * source.max()
        torch.testing.assert_close(output["anomaly_map"].as_tensor(), source.as_tensor() / scale)
        assert output["path"] == str(volume)
        assert engine.state.output is output
        assert engine.fired == ["FORWARD_COMPLETED", "MODEL_COMPLETED"]

    def test_empty_slices_are_not_asked(self, engine: Engine, volume: Path) -> None:
        output = FileIteration(image_size=12, batch_size=2)(engine, {"image": str(volume)})
        assert engine.batches == [2, 2, 1]
        assert output["slices"]["index"].tolist() == [1, 2, 3, 4, 5]
        assert sorted(output["unfamiliar"]) == [1, 2, 3, 4, 5]
        assert not output["anomaly_map"][..., [0, 6]].any()
        torch.testing.assert_close(output["scores"], image_score(output["slices"]["anomaly_map"]))

    def test_an_empty_image_asks_nothing(self, engine: Engine, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
        output = FileIteration(image_size=8)(engine, {"image": str(tmp_path / "black.png")})
        assert engine.batches == []
        assert output["warnings"] == ["the image is empty: no voxel is above 0"]
        assert not output["anomaly_map"].any()

    def test_weights_without_a_reference_say_so(self, engine: Engine, volume: Path) -> None:
        output = FileIteration(image_size=12)(engine, {"image": str(volume)})
        assert output["warnings"][0].startswith("the weights do not say what they were trained on")
        assert set(map(tuple, output["unfamiliar"].values())) == {()}

    def test_familiar_volumes_have_no_warning_and_others_do(self, engine: Engine, volume: Path) -> None:
        slices, _ = volume_to_slices(LoadCheckedImage()(volume), 12)
        known = image_reference(slices[1:6])
        output = FileIteration(image_size=12, reference=known)(engine, {"image": str(volume)})
        assert output["warnings"] == []
        foreign = image_reference(torch.ones(2, 1, 12, 12))
        output = FileIteration(image_size=12, reference=foreign)(engine, {"image": str(volume)})
        assert output["warnings"][0].startswith("5 of 5 slices lie far outside the training data")
        assert all(output["unfamiliar"].values())

    @pytest.mark.parametrize(("top", "white"), [(200, 255.0), (40000, 65535.0)])
    def test_white_of_a_picture_is_that_of_its_type(
        self, engine: Engine, tmp_path: Path, top: int, white: float
    ) -> None:
        values = np.full((8, 8), top, np.uint16 if top > 255 else np.uint8)
        Image.fromarray(values).save(tmp_path / "picture.png")
        output = FileIteration(image_size=8)(engine, {"image": str(tmp_path / "picture.png")})
        assert output["full_scale"] == white

    def test_a_bad_file_is_an_output_too(self, engine: Engine, volume: Path) -> None:
        volume.write_bytes(volume.read_bytes()[:-8])
        output = FileIteration()(engine, {"image": str(volume)})
        assert set(output) == {"path", "error"}
        assert str(volume) in output["error"]

    def test_a_bad_setting_is_no_bad_file(self, volume: Path) -> None:
        def infer(image: Tensor, network: Any) -> Any:
            raise ConfigError("perceptual='x' is unknown")

        with pytest.raises(ConfigError, match="is unknown"):
            FileIteration(image_size=12)(Engine(infer), {"image": str(volume)})


def test_iteration_of_batches_gives_maps_scores_and_masks(engine: Engine) -> None:
    image = torch.rand(3, 1, 8, 8)
    output = anomaly_iteration(engine, {"image": image, "mask": (image > 0.5).float()})
    assert set(output) == {"image", "pred", "anomaly_map", "score", "mask"}
    torch.testing.assert_close(output["score"], image.mean((1, 2, 3)) / 2)
    assert "mask" not in anomaly_iteration(engine, {"image": image})
    assert engine.fired[:2] == ["FORWARD_COMPLETED", "MODEL_COMPLETED"]
