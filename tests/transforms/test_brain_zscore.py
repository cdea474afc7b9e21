"""z-scores inside the brain: statistics, clipping, independence of the scale, the way back."""

from __future__ import annotations

import pytest
import torch

from robustmed_monai.transforms.brain_zscore import HeadMaskd, brain_mask, brain_zscore
from robustmed_monai.utils.errors import ConfigError, DataError


def slices() -> torch.Tensor:
    stack = torch.zeros(3, 1, 12, 12)
    stack[:, :, 2:10, 3:9] = 0.4 + 0.5 * torch.rand(3, 1, 8, 6, generator=torch.Generator().manual_seed(0))
    stack[1, 0, 5, 5] = 0.05
    return stack


def test_brain_has_no_holes() -> None:
    brain = brain_mask(slices())
    assert brain.shape == (3, 1, 12, 12)
    assert brain.flatten(1).sum(1).tolist() == [48, 48, 48]
    assert brain_mask(torch.zeros(0, 1, 4, 4)).shape == (0, 1, 4, 4)


def test_statistics_and_background() -> None:
    scaled = brain_zscore(slices(), clip=100)
    inside = scaled.slices[scaled.brain > 0]
    assert inside.mean().item() == pytest.approx(0, abs=1e-5)
    assert inside.std().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(scaled.slices * scaled.std + scaled.mean, slices())
    clipped = brain_zscore(slices()).slices
    assert clipped.min() == -1.5
    assert clipped.max() == 1.5
    assert (clipped[:, :, 0] == -1.5).all(), "the background is the lower bound"


def test_one_scale_for_all_slices_whatever_it_was() -> None:
    torch.testing.assert_close(brain_zscore(0.7 * slices()).slices, brain_zscore(slices()).slices)
    stack = slices()
    stack[2] *= 0.6
    together = brain_zscore(stack).slices.mean((1, 2, 3))
    assert together[2] < together[0] - 0.1, "a darker slice stays darker"


def test_errors() -> None:
    with pytest.raises(DataError, match=r"no brain: 0 pixels are above 0\.1"):
        brain_zscore(torch.zeros(2, 1, 8, 8))
    with pytest.raises(DataError, match="a spread of 0"):
        brain_zscore(torch.ones(2, 1, 8, 8))
    with pytest.raises(ConfigError, match="clip=0"):
        brain_zscore(slices(), clip=0)


def test_the_head_is_masked_with_a_margin_and_the_air_is_not() -> None:
    stack = torch.zeros(1, 16, 16, 3)
    stack[:, 5:11, 6:10, 1] = 0.8
    stack[:, 7:9, 7:9, 1] = 0.0  # dark inside: a ventricle
    stack[..., 2] = 0.05  # noise
    head = HeadMaskd("image")({"image": stack})["head"].as_tensor()
    expected = torch.zeros(1, 16, 16, 3)
    expected[:, 3:13, 4:12, 1] = 1
    assert torch.equal(head, expected)
