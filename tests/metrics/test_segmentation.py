"""Evaluation of segmentation: Dice by hand, subjects before slices, paired tests, and the contrasts shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustmed_monai.metrics.bootstrap import Estimate
from robustmed_monai.metrics.segmentation import (
    class_maps,
    measure_segmenter,
    segment,
    segmentation_pictures,
    slice_dice,
)
from robustmed_monai.transforms.contrasts import shown_contrasts
from robustmed_monai.utils.errors import ConfigError, DataError


class Thresholds(nn.Module):
    """A segmentation that is right on images which are their labels divided by 3."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return -(image - torch.arange(4).view(1, 4, 1, 1) / 3).abs()


@pytest.fixture
def labels() -> torch.Tensor:
    small = torch.randint(0, 4, (6, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    small[0][small[0] == 2] = 1  # nothing of class 2 in the first
    return small.to(torch.uint8)


def test_dice_of_each_class(labels: torch.Tensor) -> None:
    predicted = labels.clone()
    predicted[1][predicted[1] == 3] = 2
    dice = slice_dice(predicted, labels)
    assert dice.shape == (6, 4)
    assert torch.isnan(dice[0]).tolist() == [False, False, True, False]
    assert torch.equal(dice[2:], torch.ones(4, 4))
    two, three = (labels[1] == 2).sum(), (labels[1] == 3).sum()
    mixed = 2 * int(two) / (2 * int(two) + int(three))
    torch.testing.assert_close(dice[1], torch.tensor([1.0, 1.0, mixed, 0.0]))


def test_subjects_count_alike_whatever_their_slices(labels: torch.Tensor) -> None:
    images = labels / 3
    images[0] = 1 - images[0]
    shown = {"t1": labels / 3, "one wrong": images}
    subjects = torch.tensor([4, 4, 4, 4, 4, 9])
    found = measure_segmenter(Thresholds(), shown, labels, subjects)
    figures = {k: v for k, v in found.figures.items() if isinstance(v, Estimate)}
    assert figures["t1"].value == figures["t1_tissue"].value == 1
    wrong = slice_dice(segment(Thresholds(), images[:1]), labels[:1])[0]
    expected = ((float(np.nanmean(wrong)) + 4) / 5 + 1) / 2
    assert figures["one wrong"].value == pytest.approx(expected)
    assert found.cases["one wrong"].tolist() == pytest.approx([2 * expected - 1, 1])
    tissue = ((float(np.nanmean(wrong[1:])) + 4) / 5 + 1) / 2
    assert figures["one wrong_tissue"].value == pytest.approx(tissue)
    low, high = figures["one wrong"].ci95
    assert low <= expected <= high
    assert set(segmentation_pictures({"mine": [found]})) == {"contrasts"}
    with pytest.raises(DataError, match="no test image"):
        measure_segmenter(Thresholds(), shown, labels[:0], subjects[:0])


def test_a_slice_without_tissue_leaves_its_subject_the_others(labels: torch.Tensor) -> None:
    labels[0] = 0
    found = measure_segmenter(Thresholds(), {"t1": labels / 3}, labels, torch.tensor([4, 4, 4, 4, 4, 9]))
    assert found.cases["t1_tissue"].tolist() == [1, 1]
    labels[5] = 0
    found = measure_segmenter(Thresholds(), {"t1": labels / 3}, labels, torch.tensor([4, 4, 4, 4, 4, 9]))
    assert found.cases["t1_tissue"][0] == 1
    assert np.isnan(found.cases["t1_tissue"][1])
    assert found.cases["t1"].tolist() == [1, 1]


def test_the_network_is_left_as_it_was(labels: torch.Tensor) -> None:
    network = nn.Sequential(Thresholds(), nn.Dropout(0.9)).train()
    assert torch.equal(segment(network, labels / 3, batch_size=4), labels)
    assert network.training


def test_contrasts_show_the_same_anatomy(labels: torch.Tensor) -> None:
    images = labels / 3
    shown = shown_contrasts(images, labels)
    assert set(shown) == {"t1", "inverted", "inverted_frame", "remapped", "t2_like"}
    assert all(x.shape == images.shape and 0 <= x.min() <= x.max() <= 1 for x in shown.values())
    assert torch.equal(shown["inverted_frame"], 1 - images)
    background = shown["inverted"] == images
    assert (background | (shown["inverted"] == 1 - images)).all()
    again = shown_contrasts(images, labels)
    assert all(torch.equal(x, again[name]) for name, x in shown.items())
    assert "t2_like" not in shown_contrasts(images, labels, num_classes=5)
    some = shown_contrasts(images, labels, names=["t2_like", "t1"])
    assert list(some) == ["t2_like", "t1"]
    assert torch.equal(some["t2_like"], shown["t2_like"])
    with pytest.raises(ConfigError, match=r"contrasts: \['t2'\] unknown"):
        shown_contrasts(images, labels, names=["t2"])


def test_output_for_the_handler() -> None:
    logits, label = torch.rand(2, 4, 3, 3), torch.zeros(2, 1, 3, 3)
    predicted, true = class_maps({"pred": logits, "label": label})
    assert torch.equal(predicted[:, 0], logits.argmax(1))
    assert true is label
