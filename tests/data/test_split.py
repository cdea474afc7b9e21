"""The one split: by subject, the same everywhere, near the fractions, and never with an empty section."""

from __future__ import annotations

import numpy as np
import pytest

from robustmed_monai.data.split import SECTIONS, rank_subjects, split_subjects
from robustmed_monai.utils.errors import ConfigError


@pytest.mark.parametrize("count", [3, 5, 10, 20])
@pytest.mark.parametrize("splits", [(0.8, 0.1, 0.1), (0.6, 0.15, 0.25), (0.98, 0.01, 0.01), (0.1, 0.1, 0.8)])
def test_no_section_is_empty_whatever_the_seed(count: int, splits: tuple[float, float, float]) -> None:
    names = [f"s{number}" for number in range(count)]
    for seed in range(200):
        drawn = list(split_subjects(names, splits, seed).values())
        assert len(drawn) == count
        assert set(drawn) == set(SECTIONS)
        for section, fraction in zip(SECTIONS, splits, strict=True):
            # Rounded at both ends, and at most two given up to the empty ones.
            assert abs(drawn.count(section) - fraction * count) < 3


def test_a_fraction_of_0_stays_empty() -> None:
    for count in (1, 2, 3, 7):
        names = [f"s{number}" for number in range(count)]
        assert set(split_subjects(names, (0, 0, 1)).values()) == {"test"}
        assert "test" not in split_subjects(names, (0.7, 0.3, 0)).values()
    assert set(split_subjects("ab", (0.9, 0.1, 0)).values()) == {"training", "validation"}


def test_the_split_depends_on_names_and_seed_alone(rng: np.random.Generator) -> None:
    names = [f"s{number}" for number in range(3000)]
    drawn = split_subjects(names, (0.7, 0.1, 0.2))
    assert split_subjects(rng.permutation(names).tolist() * 2, (0.7, 0.1, 0.2)) == drawn
    other = split_subjects(names, (0.7, 0.1, 0.2), seed=1)
    assert [list(drawn.values()).count(section) for section in SECTIONS] == [2100, 300, 600]
    # Two independent splits agree on .7 * .7 + .1 * .1 + .2 * .2 of the subjects.
    assert np.mean([other[name] == drawn[name] for name in names]) == pytest.approx(0.54, abs=0.03)


def test_a_subject_more_moves_few_others() -> None:
    names = [f"s{number}" for number in range(100)]
    before, after = split_subjects(names), split_subjects([*names, "new"])
    assert sum(before[name] != after[name] for name in names) <= 2


def test_rank_without_a_seed_is_by_the_name_alone() -> None:
    assert rank_subjects("abc", None) == rank_subjects("cba", None) != rank_subjects("abc", 0)


@pytest.mark.parametrize("splits", [(0.5, 0.5), (0.5, 0.4, 0.2), (1.2, -0.2, 0.0)])
def test_fractions_that_are_none(splits: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="three fractions that add up to 1"):
        split_subjects(["a"], splits)
