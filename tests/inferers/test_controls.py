from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustmed_monai.inferers.controls import MeanImageControl, head_area, intensity, no_anomaly
from robustmed_monai.utils.errors import DataError


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 1, 12, 10, generator=torch.Generator().manual_seed(0))


def test_every_control_is_a_detector(images: Tensor) -> None:
    for channels in (1, 3):
        batch = images.expand(-1, channels, -1, -1)
        mean = MeanImageControl([{"image": batch}])
        for control in (intensity, no_anomaly, head_area, mean):
            found = control(batch)
            # Only what reconstructs has a reconstruction to be measured.
            assert set(found) == {"anomaly_map", *(["pred"] if control is mean else [])}
            assert found["anomaly_map"].shape == images.shape
            assert (found["anomaly_map"] >= 0).all()
            single = control(batch[2:3])
            assert all(torch.equal(single[key], found[key][2:3]) for key in found)


def test_intensity_is_the_image_and_no_anomaly_finds_nothing(images: Tensor) -> None:
    assert torch.equal(intensity(images)["anomaly_map"], images)
    assert not no_anomaly(images)["anomaly_map"].any()


def test_area_counts_the_head() -> None:
    image = torch.zeros(1, 1, 10, 10)
    image[..., 2:5, 3:9] = 0.4
    image[..., 0, 0] = 0.1
    assert float(head_area(image)["anomaly_map"].sum()) == 18
    assert float(head_area(image, 0.5)["anomaly_map"].sum()) == 0


def test_mean_image_does_not_depend_on_the_batches(images: Tensor) -> None:
    whole = MeanImageControl([{"image": images}])
    parts = MeanImageControl({"image": part} for part in images.split(3))
    torch.testing.assert_close(whole.mean, images.mean(0, keepdim=True))
    torch.testing.assert_close(parts.mean, whole.mean)
    found = parts(images)
    torch.testing.assert_close(found["anomaly_map"], (images - images.mean(0)).abs())
    assert "mean" in parts.state_dict()


def test_mean_image_needs_images() -> None:
    with pytest.raises(DataError, match="no training images; give a data set with a training section"):
        MeanImageControl([])
