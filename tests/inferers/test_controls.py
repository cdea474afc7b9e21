from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustmed_monai.inferers.controls import AreaControl, IntensityControl, MeanImageControl, ZeroControl
from robustmed_monai.utils.errors import DataError


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 1, 12, 10, generator=torch.Generator().manual_seed(0))


def _all(images: Tensor) -> list[nn.Module]:
    return [IntensityControl(), ZeroControl(), AreaControl(), MeanImageControl([images])]


def test_every_control_is_a_detector(images: Tensor) -> None:
    for channels in (1, 3):
        batch = images.expand(-1, channels, -1, -1)
        for control in _all(batch):
            found = control(batch)
            assert set(found) == {"pred", "anomaly_map"}
            assert found["pred"].shape == batch.shape
            assert found["anomaly_map"].shape == images.shape
            assert (found["anomaly_map"] >= 0).all()
            single = control(batch[2:3])
            assert all(torch.equal(single[key], found[key][2:3]) for key in found)


def test_intensity_is_the_image(images: Tensor) -> None:
    found = IntensityControl()(images)
    assert torch.equal(found["anomaly_map"], images)
    assert not found["pred"].any()


def test_zero_finds_nothing(images: Tensor) -> None:
    found = ZeroControl()(images)
    assert not found["anomaly_map"].any()
    assert torch.equal(found["pred"], images)


def test_area_counts_the_head() -> None:
    image = torch.zeros(1, 1, 10, 10)
    image[..., 2:5, 3:9] = 0.4
    image[..., 0, 0] = 0.1
    assert float(AreaControl()(image)["anomaly_map"].sum()) == 18
    assert float(AreaControl(0.5)(image)["anomaly_map"].sum()) == 0


def test_mean_image_does_not_depend_on_the_batches(images: Tensor) -> None:
    whole = MeanImageControl([images])
    parts = MeanImageControl(iter(images.split(3)))
    torch.testing.assert_close(whole.mean, images.mean(0, keepdim=True))
    torch.testing.assert_close(parts.mean, whole.mean)
    found = parts(images)
    torch.testing.assert_close(found["anomaly_map"], (images - images.mean(0)).abs())
    assert "mean" in parts.state_dict()


def test_mean_image_needs_images() -> None:
    with pytest.raises(DataError, match="no training images; give a data set with a training section"):
        MeanImageControl([])
