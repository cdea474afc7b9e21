from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustmed_monai.losses.outline import OutlineLoss
from robustmed_monai.networks.anomaly_segmenter import AnomalySegmenter, with_mean_and_spread
from robustmed_monai.utils.errors import DataError, ImageShapeError


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_healthy_images_set_mean_and_spread(images: Tensor) -> None:
    network = with_mean_and_spread(
        AnomalySegmenter(32, sigma=0.0), [{"image": images[:2]}, {"image": images[2:]}]
    )
    assert network.mean[0].numpy() == pytest.approx(images.mean(0).numpy(), abs=1e-6)
    expected = images.std(0, correction=0).clamp_min(0.05)
    assert network.spread[0].numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    with pytest.raises(DataError, match="no healthy images"):
        with_mean_and_spread(network, [])


def test_the_map_is_a_probability_of_each_pixel_and_each_image_is_on_its_own(images: Tensor) -> None:
    torch.manual_seed(0)
    network = with_mean_and_spread(AnomalySegmenter(32), [{"image": images}]).eval()
    with torch.no_grad():
        maps = network(images)
        alone = torch.cat([network(one[None]) for one in images])
        autocast = torch.autocast("cpu", torch.bfloat16)
        with autocast:
            half = network(images)
    assert maps.shape == images.shape
    assert 0 < float(maps.min()) < float(maps.max()) < 1
    assert maps.numpy() == pytest.approx(alone.numpy(), abs=1e-5)
    assert half.dtype == torch.float32, "the loss takes no half numbers"


def test_images_of_another_size_are_refused(images: Tensor) -> None:
    with pytest.raises(ImageShapeError, match=r"\(B, 1, 64, 64\), got \(6, 1, 32, 32\)"):
        AnomalySegmenter(64)(images)


def test_a_bright_square_is_learnt_in_a_few_steps(images: Tensor) -> None:
    torch.manual_seed(0)
    faint = 0.3 * images
    network = with_mean_and_spread(AnomalySegmenter(32, features=(8, 8, 8, 8, 8, 8)), [{"image": faint}])
    mask = torch.zeros_like(faint)
    mask[:, :, 8:16, 12:20] = 1
    optimizer, loss = torch.optim.Adam(network.parameters(), 0.01), OutlineLoss()
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(network((faint + 0.6 * mask).clamp(0, 1)), mask)
        value.backward()
        optimizer.step()
    with torch.no_grad():
        moved = mask.roll((8, 4), (2, 3))
        found = network.eval()((faint + 0.6 * moved).clamp(0, 1))
    assert float(found[moved > 0].mean()) > 2 * float(found[moved == 0].mean())


class TestOutlineLoss:
    def test_is_cross_entropy_and_a_share_of_dice(self) -> None:
        probability = torch.tensor([0.2, 0.9, 0.5, 0.1]).view(1, 1, 2, 2)
        mask = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2)
        entropy = -torch.log(torch.tensor([0.8, 0.9, 0.5, 0.9]))
        expected = float((entropy * torch.tensor([1.0, 3.0, 3.0, 1.0])).mean())
        assert float(OutlineLoss(dice=0.0, abnormal=3.0)(probability, mask)) == pytest.approx(expected)
        dice = 1 - (2 * 1.4 + 1) / (1.7 + 2 + 1)
        both = float(OutlineLoss(dice=0.5, abnormal=3.0, smooth=1.0)(probability, mask))
        assert both == pytest.approx(expected + 0.5 * dice)

    def test_an_image_without_anomaly_is_no_cliff(self) -> None:
        mask = torch.zeros(1, 1, 8, 8)
        assert float(OutlineLoss()(mask + 0.01, mask)) < 0.05
