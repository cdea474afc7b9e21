"""Augmentation of labelled batches: image and label stay together, contrasts change but anatomy does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robustmed_monai.transforms.batch_labelled import BatchFromLabels, BatchRandAffineLabel, BatchRandRemap
from robustmed_monai.transforms.synthesis.labels_to_image import LabelsToImage
from robustmed_monai.utils.errors import ConfigError

Batch = dict[str, torch.Tensor]


@pytest.fixture
def batch() -> Batch:
    """Images that are their labels, as a fraction of 3: blocks of 8 x 8 pixels."""
    labels = torch.randint(0, 4, (6, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    label = labels.repeat_interleave(8, 2).repeat_interleave(8, 3).to(torch.uint8)
    return {"image": label / 3, "label": label}


def run(transform: Any, batch: Batch, seed: int = 0) -> Batch:
    result: Batch = transform(batch, torch.Generator().manual_seed(seed))
    return result


def test_image_and_label_move_together(batch: Batch) -> None:
    moved = run(BatchRandAffineLabel(prob=1.0), batch)
    assert moved["label"].dtype == torch.uint8
    assert (moved["label"] != batch["label"]).float().mean() > 0.2
    # Where the interpolated image holds one of the four values, the label says which.
    value = moved["image"] * 3
    sure = (value - value.round()).abs() < 1e-4
    assert sure.float().mean() > 0.4
    inside = sure & (value.round() == moved["label"])
    assert inside.sum() / sure.sum() > 0.97
    still = run(BatchRandAffineLabel(1.0, 0.0, 0.0, (1.0, 1.0), 0.0), batch)
    torch.testing.assert_close(still["image"], batch["image"])
    assert torch.equal(still["label"], batch["label"])


def test_prob_is_the_share_that_is_moved(batch: Batch) -> None:
    many = {k: v.repeat(30, 1, 1, 1) for k, v in batch.items()}
    moved = run(BatchRandAffineLabel(prob=0.3, flip_prob=0.0), many)
    same = (moved["image"] == many["image"]).flatten(1).all(1)
    assert 0.6 < same.float().mean() < 0.8
    assert torch.equal(moved["label"][same], many["label"][same])
    assert many["image"].equal(batch["image"].repeat(30, 1, 1, 1))
    none = run(BatchRandAffineLabel(prob=0.0), many)
    assert all(torch.equal(none[k], many[k]) for k in many)


def test_features_move_like_images(batch: Batch) -> None:
    many = {**batch, "image": batch["image"].expand(-1, 5, -1, -1)}
    moved, one = run(BatchRandAffineLabel(), many, 3), run(BatchRandAffineLabel(), batch, 3)
    torch.testing.assert_close(moved["image"], one["image"].expand(-1, 5, -1, -1))


def test_remapping_keeps_the_label_and_obeys_prob(batch: Batch) -> None:
    remapped = run(BatchRandRemap(), batch)
    assert torch.equal(remapped["label"], batch["label"])
    assert not any(torch.allclose(a, b) for a, b in zip(remapped["image"], batch["image"], strict=True))
    assert torch.equal(run(BatchRandRemap(prob=0.0), batch)["image"], batch["image"])
    with pytest.raises(ConfigError, match=r"prob=2\.0"):
        BatchRandRemap(prob=2.0)
    with pytest.raises(ConfigError, match="knots=1"):
        BatchRandRemap(knots=1)


def test_painted_images_show_the_labels(batch: Batch) -> None:
    plain = LabelsToImage(std=(0.0, 0.0), blur=0.0, bias_std=0.0, gamma_std=0.0, zero_background=0.0)
    # A dark frame: nothing of the head lies outside of the labels.
    dark = {**batch, "image": torch.zeros_like(batch["image"])}
    painted = run(BatchFromLabels(paint=plain), dark)
    for one, label in zip(painted["image"], batch["label"], strict=True):
        levels = [one[label == k].unique() for k in label.unique()]
        assert all(len(level) == 1 for level in levels)
        assert len(torch.cat(levels).unique()) == len(levels)
    assert torch.equal(painted["label"], batch["label"])
    assert torch.equal(painted["image"], run(BatchFromLabels(paint=plain), dark)["image"])


def test_painted_heads_keep_a_scalp(batch: Batch) -> None:
    image, label = torch.zeros(4, 1, 32, 32), torch.zeros(4, 1, 32, 32, dtype=torch.uint8)
    image[:, :, 2:5] = 0.9
    label[:, :, 10:20] = 2
    plain = LabelsToImage(std=(0.0, 0.0), blur=0.0, bias_std=0.0, gamma_std=0.0, zero_background=1.0)
    painted = run(BatchFromLabels(paint=plain), {"image": image, "label": label})["image"]
    assert torch.equal(painted[:, :, 25:], torch.zeros(4, 1, 7, 32))
    assert (painted[:, 0, 3].std(1) == 0).all()
    assert (painted[:, 0, 3, 0] > 0).all()
