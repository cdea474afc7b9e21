from __future__ import annotations

import pytest
import torch

from robustmed_monai.inferers import MemoryInferer
from robustmed_monai.inferers.feature_memory import head_mask
from robustmed_monai.utils.errors import ImageError


@pytest.fixture
def head() -> torch.Tensor:
    """Two images of a disc with a dark ventricle, noise in the air and a label of the scanner in a corner."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, 40), torch.linspace(-1, 1, 40), indexing="ij")
    radius = (x**2 + y**2).sqrt()
    image = torch.where(radius < 0.7, 0.6, 0.0) * (radius > 0.2)
    image += 0.05 * torch.rand(40, 40, generator=torch.Generator().manual_seed(0))
    image[:2, :3] = 1.0
    return image.clamp(max=1).repeat(2, 1, 1, 1)


def test_the_head_is_kept_with_its_ventricles_and_air_is_not(head: torch.Tensor) -> None:
    mask = head_mask(head)
    assert mask.shape == (2, 1, 40, 40)
    assert mask[0, 0, 20, 20] == 1, "dark inside"
    assert mask[0, 0, 0, 0] == 0, "bright outside"
    expected = (head > 0.3).float()
    expected[..., 14:26, 14:26] = 1
    expected[..., :2, :3] = 0
    assert torch.equal(mask, expected)
    assert not head_mask(torch.zeros(1, 1, 8, 8)).any()
    assert head_mask(torch.ones(1, 3, 8, 8)).all()


def test_air_is_never_abnormal(head: torch.Tensor) -> None:
    network = torch.ones_like
    found = MemoryInferer()(head, network)["anomaly_map"]
    assert torch.equal(found, head_mask(head))
    assert torch.equal(MemoryInferer(head_only=False)(head, network)["anomaly_map"], torch.ones_like(head))
    with pytest.raises(ImageError, match="MemoryInferer"):
        MemoryInferer()(head * 255, network)
