from __future__ import annotations

import pytest
import torch
from torch import nn

from robustmed_monai.engines.rotation_study import evaluate_classifier, evaluate_rotnet
from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.metrics.risc import expected_accuracy
from robustmed_monai.utils.errors import DataError

COUNT = 160


class Marks(nn.Module):
    """RotNet: the brightest of the four corners, which some images lie about."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 30 * torch.stack(
            [image[:, 0, 0, 0], image[:, 0, 0, -1], image[:, 0, -1, -1], image[:, 0, -1, 0]], 1
        )


class Reads(nn.Module):
    """Classifier: the pixel right of the upright corner, 1 or 0."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.stack([0.5 - image[:, 0, 1, 0], image[:, 0, 1, 0] - 0.5], 1) * 20


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose upright corner is bright in ten of eleven; the label stands beside it, noise elsewhere."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(COUNT) % 2
    images = torch.rand(COUNT, 1, 8, 8, generator=generator) * 0.6
    images[:, 0, 1, 0] = labels.float()
    images[:, 0, 0, 0] = (torch.arange(COUNT) % 11 != 0).float()
    return images, labels


def test_hard_correction_does_what_the_identity_expects(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = case
    plain = evaluate_classifier(RotationCorrectionInferer(correction="none"), Reads(), images, labels)
    inferer = RotationCorrectionInferer(Marks())
    rotnet = evaluate_rotnet(inferer, images)
    risc = evaluate_classifier(inferer, Reads(), images, labels)
    assert plain.figures["upright"] == 1
    assert 0.4 < plain.figures["worst"] < 0.6
    assert 0.9 <= rotnet.figures["rotated"] < 0.95
    expected = expected_accuracy(
        plain.figures["upright"], plain.figures["rotated"], rotnet.figures["rotated"], 4
    )
    assert risc.figures["rotated"] == pytest.approx(expected, abs=0.02)


def test_the_oracle_is_upright_everywhere(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = case
    inferer = RotationCorrectionInferer(correction="none")
    found = evaluate_classifier(inferer, Reads(), images, labels, oracle=True, batch_size=50)
    assert found.figures["worst"] == found.figures["upright"] == 1
    assert found.figures["auc"] == 1
    assert found.found.shape == (4, COUNT, 2)


def test_abstention_is_counted(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = case
    inferer = RotationCorrectionInferer(Marks(), min_confidence=0.999)
    share = evaluate_classifier(inferer, Reads(), images, labels).figures["abstained"]
    assert 0.05 < share <= 0.1


def test_no_images_are_refused(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(DataError, match="no test image"):
        evaluate_rotnet(RotationCorrectionInferer(Marks()), case[0][:0])
