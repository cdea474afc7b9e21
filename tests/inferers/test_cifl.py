from __future__ import annotations

import pytest
import torch

from robustmed_monai.inferers.cifl import FeatureInferer
from robustmed_monai.networks.cifl import CIFL


@pytest.mark.parametrize("shape", [(70, 41), (25, 40, 33), (18, 60, 19)], ids=str)
def test_tiles_give_the_features_of_the_whole_image(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = CIFL(len(shape), channels=4, out_channels=3, depth=4).eval()
    image = torch.rand(2, 1, *shape)
    with torch.no_grad():
        tiles = FeatureInferer(roi_size=15)(image, network)
        whole = network(image)
    assert torch.allclose(tiles, whole, atol=1e-5)


def test_small_images_are_taken_whole() -> None:
    network, image = CIFL(channels=4), torch.rand(1, 1, 20, 12)
    with torch.no_grad():
        assert torch.equal(FeatureInferer(roi_size=20)(image, network), network(image))


def test_volumes_are_tiled_unasked() -> None:
    network = CIFL(3, channels=2, out_channels=2, depth=2).eval()
    image = torch.rand(1, 1, 100, 8, 8)
    with torch.no_grad():
        assert torch.equal(FeatureInferer()(image, network), FeatureInferer(roi_size=96)(image, network))
