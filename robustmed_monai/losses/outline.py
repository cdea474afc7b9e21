"""The objective of an anomaly segmenter: cross-entropy of each pixel, and a little of Dice."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional as F


class OutlineLoss(nn.Module):
    """Binary cross-entropy of probabilities, plus a share of the soft Dice loss of each image.

    Args:
        dice: share of the Dice loss.
        abnormal: weight of abnormal pixels in the cross-entropy: they are few.
        smooth: pixels that are added to both sides of Dice, so that an image without anomaly is no cliff.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> float(OutlineLoss()(mask, mask))
        0.0
    """

    def __init__(self, dice: float = 0.2, abnormal: float = 2.0, smooth: float = 10.0) -> None:
        super().__init__()
        self.dice, self.abnormal = dice, abnormal
        self.overlap = DiceLoss(smooth_nr=smooth, smooth_dr=smooth)

    def forward(self, probability: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Loss of probabilities and masks, both (B, 1, X, Y) in [0, 1]."""
        weight = 1 + (self.abnormal - 1) * mask
        entropy = F.binary_cross_entropy(probability, mask, weight)
        overlap: torch.Tensor = self.overlap(probability, mask)
        return entropy + self.dice * overlap
