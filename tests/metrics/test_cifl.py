from __future__ import annotations

import math

import pytest
import torch

from robustmed_monai.metrics.cifl import channel_overlap, effective_rank, s_inverted, s_other, s_same


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.randn(3, 5, 30, 30, generator=torch.Generator().manual_seed(0))


def test_the_same_features_are_the_same_and_negated_ones_the_opposite(maps: torch.Tensor) -> None:
    assert torch.allclose(s_same(maps, maps), torch.ones(3))
    assert torch.allclose(s_inverted(maps, -maps), -torch.ones(3))


def test_similarity_is_the_mean_correlation_of_the_channels(maps: torch.Tensor) -> None:
    other = maps + torch.randn(3, 5, 30, 30, generator=torch.Generator().manual_seed(1))
    for found, x, y in zip(s_same(maps, other, crop=2), maps, other, strict=True):
        pairs = [torch.stack([a, b])[:, 2:-2, 2:-2].flatten(1) for a, b in zip(x, y, strict=True)]
        expected = sum(float(torch.corrcoef(pair)[0, 1]) for pair in pairs) / 5
        assert float(found) == pytest.approx(expected, abs=1e-5)


def test_only_the_mask_counts(maps: torch.Tensor) -> None:
    mask = torch.zeros(3, 1, 30, 30)
    mask[..., 10:20, 9:22] = 1
    spoiled = torch.where(mask > 0, maps, torch.randn(3, 5, 30, 30))
    assert torch.allclose(s_same(maps, spoiled, mask), torch.ones(3))
    assert (s_same(maps, spoiled) < 0.9).all()
    assert torch.allclose(channel_overlap(maps, mask), channel_overlap(spoiled, mask))


def test_other_compares_with_the_next_case(maps: torch.Tensor) -> None:
    assert torch.allclose(s_other(maps[:1].expand(3, -1, -1, -1)), torch.ones(3))
    assert s_other(maps).abs().max() < 0.2
    assert torch.allclose(s_other(maps)[0], s_same(maps[:1], maps[1:2])[0])


def test_other_compares_inside_both_masks(maps: torch.Tensor) -> None:
    mask = torch.zeros(2, 1, 30, 30)
    mask[0, :, :20], mask[1, :, 10:] = 1, 1
    both = torch.zeros(1, 1, 30, 30)
    both[:, :, 10:20] = 1
    assert torch.allclose(s_other(maps[:2], mask)[0], s_same(maps[:1], maps[1:2], both)[0])


@pytest.mark.parametrize("count", [1, 3])
def test_rank_counts_independent_channels(count: int) -> None:
    basis = torch.linalg.qr(torch.randn(900, 901, generator=torch.Generator().manual_seed(0))[:, :900])[0]
    plain = torch.linalg.qr(torch.cat([torch.ones(900, 1), basis[:, :899]], 1))[0].T[1 : count + 1]
    features = plain.repeat(4, 1).reshape(1, 4 * count, 30, 30)
    assert float(effective_rank(features, crop=0)) == pytest.approx(count, abs=1e-3)


def test_rank_of_a_known_spectrum_and_overlap_of_a_known_gram() -> None:
    # Two unit channels with correlation 0.6: eigenvalues 1.6 and 0.4 of a trace of 2.
    a, b = torch.linalg.qr(torch.cat([torch.ones(64, 1), torch.randn(64, 2)], 1))[0].T[1:]
    features = torch.stack([a, 0.6 * a + 0.8 * b]).reshape(1, 2, 8, 8)
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    assert float(effective_rank(features, crop=0)) == pytest.approx(math.exp(entropy), abs=1e-4)
    assert float(channel_overlap(features, crop=0)) == pytest.approx(0.6, abs=1e-5)


def test_features_without_content_are_finite() -> None:
    empty = torch.zeros(2, 4, 30, 30)
    for values in (s_same(empty, empty), s_other(empty), channel_overlap(empty), effective_rank(empty)):
        assert torch.isfinite(values).all()
