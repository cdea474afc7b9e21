"""Dice of moved labels and folds, against values found by hand."""

from __future__ import annotations

import pytest
import torch

from robustmed_monai.metrics.registration import moved_label_dice, registration_metrics, share_of_folds


def squares() -> tuple[torch.Tensor, torch.Tensor]:
    moving, fixed = torch.zeros(2, 1, 10, 10, dtype=torch.uint8), torch.zeros(2, 1, 10, 10, dtype=torch.uint8)
    moving[:, :, 2:6, 2:6] = 1
    fixed[0, :, 2:6, 2:6] = 1
    fixed[1, :, 4:8, 2:6] = 1
    return moving, fixed


def test_overlap_by_hand_and_after_the_right_shift() -> None:
    moving, fixed = squares()
    still = registration_metrics(torch.zeros(2, 2, 10, 10), moving, fixed, 2)
    # 8 of 16 pixels of the square and 76 of 84 of the background are shared.
    assert still["dice_foreground"].tolist() == pytest.approx([1, 0.5])
    assert still["dice"].tolist() == pytest.approx([1, (0.5 + 76 / 84) / 2])
    ddf = torch.zeros(2, 2, 10, 10)
    ddf[1, 0] = -2
    moved = registration_metrics(ddf, moving, fixed, 2)
    assert moved["dice"].tolist() == [1, 1]
    assert moved["folds"].tolist() == [0, 0]


def test_a_class_that_is_absent_does_not_count_and_folds_do() -> None:
    moving, fixed = squares()
    assert registration_metrics(torch.zeros(2, 2, 10, 10), moving, fixed, 4)["dice"][0] == 1
    mirrored = torch.zeros(1, 2, 10, 10)
    mirrored[:, 0] = -2 * torch.arange(10.0)[:, None]
    assert share_of_folds({"ddf": mirrored}, fixed) == 1
    pair = torch.cat([moving, fixed], 1)
    assert moved_label_dice({"ddf": torch.zeros(2, 2, 10, 10)}, pair, 2).item() == pytest.approx(
        (1 + (0.5 + 76 / 84) / 2) / 2
    )
