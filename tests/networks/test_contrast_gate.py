"""The gate takes the image where both ways agree, and the features alone elsewhere, image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustmed_monai.networks.cifl import CIFL
from robustmed_monai.networks.contrast_gate import ContrastGate, ImageAndFeatures, agreement
from robustmed_monai.networks.on_features import load_features, segmentation_network, segmentation_unet
from robustmed_monai.utils.errors import ConfigError
from robustmed_monai.utils.weights import save_weights

SMALL: dict[str, Any] = {"out_channels": 5, "channels": 4, "depth": 2}


class Threshold(nn.Module):
    """Class 1 where image plus feature are above 0.5."""

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        total = seen.sum(1, keepdim=True) - 0.5
        return torch.cat([-total, total], 1)


def batch() -> torch.Tensor:
    """Two images: one whose features say the same, one whose features say the opposite."""
    image = torch.zeros(2, 2, 8, 8)
    image[:, 0, 2:6, 2:6] = 1
    image[0, 1, 2:6, 2:5] = 1
    image[1, 1, :2] = 1
    return image


def test_each_image_goes_its_own_way() -> None:
    seen = batch()
    gate = ContrastGate(Threshold()).eval()
    answer = gate(seen)
    network = Threshold()
    alone = seen.clone()
    alone[:, 0] = 0
    assert torch.equal(answer[0], network(seen)[0])
    assert torch.equal(answer[1], network(alone)[1])
    assert torch.equal(answer, torch.cat([gate(seen[:1]), gate(seen[1:])]))
    assert torch.equal(ContrastGate(network, 0.0).eval()(seen), network(seen))
    with pytest.raises(ConfigError, match="agreement is 2"):
        ContrastGate(network, 2)


def test_every_second_image_is_masked_in_training() -> None:
    seen = torch.rand(5, 3, 8, 8)
    kept = seen.clone()
    learnt = ContrastGate(nn.Identity()).train()(seen)
    assert torch.equal(seen, kept)
    assert torch.equal(learnt[::2], seen[::2])
    assert not learnt[1::2, 0].any()
    assert torch.equal(learnt[:, 1:], seen[:, 1:])


def test_batches_of_one_image_cannot_be_learned_from() -> None:
    gate = ContrastGate(nn.Conv2d(3, 2, 1))
    with pytest.raises(ConfigError, match="batch_size of 2 or more"):
        gate(torch.rand(1, 3, 8, 8))
    assert gate.eval()(torch.rand(1, 3, 8, 8)).shape == (1, 2, 8, 8)


def test_agreement_is_the_share_of_tissue_with_one_class() -> None:
    one = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0], [1, 1, 0, 0]])
    other = torch.tensor([[0, 1, 2, 1], [0, 0, 0, 0], [0, 0, 1, 1]])
    assert agreement(one, other).tolist() == pytest.approx([2 / 3, 1, 0])
    assert torch.equal(agreement(one, other), agreement(other, one))
    assert (agreement(one, one) == 1).all()


def test_weights_bring_the_gate_back(tmp_path: Path) -> None:
    features = CIFL(**SMALL)
    save_weights(features.state_dict(), tmp_path / "features.pt", {**SMALL, "spatial_dims": 2})
    network = segmentation_unet(3, (4, 8), SMALL, gated=True)
    assert isinstance(network.features, ImageAndFeatures)
    load_features(network, tmp_path / "features.pt")
    image = torch.rand(2, 1, 16, 16)
    assert torch.equal(network.features(image), torch.cat([image, features(image)], 1))
    info = {"num_classes": 3, "channels": [4, 8], "features": SMALL, "gated": True}
    again = segmentation_network(info)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(image), network.eval()(image))
    with pytest.raises(ConfigError, match="without features"):
        segmentation_unet(3, (4, 8), gated=True)
