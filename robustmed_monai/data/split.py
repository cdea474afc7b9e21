"""The one rule by which subjects become training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from robustmed_monai.utils.errors import ConfigError

SECTIONS = ("training", "validation", "test")
SPLITS = (0.8, 0.1, 0.1)


def split_subjects(
    subjects: Iterable[str], splits: Sequence[float] = SPLITS, seed: int = 0
) -> dict[str, str]:
    """Deal out subjects to the sections: ranked by the hash of seed and name, cut at rounded fractions.

    The same names give the same split on every machine, in whatever order they come; a subject more or less
    moves only those next to a cut.

    Args:
        subjects: names; the same name twice is one subject.
        splits: fractions of training, validation and test; they add up to 1.
        seed: another seed, another split.

    Returns:
        Subject to section. As long as there are enough subjects, no section with a fraction above 0 is empty.

    Raises:
        ConfigError: when the fractions do not add up to 1.

    Example:
        >>> split_subjects(["ann", "bob", "cem"])
        {'cem': 'training', 'ann': 'validation', 'bob': 'test'}
    """
    check_splits(splits)
    ranked = rank_subjects(subjects, seed)
    cuts = [0, *(round(part * len(ranked)) for part in accumulate(splits))]
    counts = [after - before for before, after in pairwise(cuts)]
    wanted = [place for place, fraction in enumerate(splits) if fraction > 0]
    for place in wanted:
        if not counts[place] and len(ranked) >= len(wanted):
            counts[counts.index(max(counts))] -= 1
            counts[place] = 1
    names = (name for name, count in zip(SECTIONS, counts, strict=True) for _ in range(count))
    return dict(zip(ranked, names, strict=True))


def rank_subjects(subjects: Iterable[str], seed: int | None = 0) -> list[str]:
    """Each name once, in an order that depends on the names and the seed alone (None: on the names)."""
    salt = "" if seed is None else f"{seed}:"
    return sorted(set(subjects), key=lambda name: (hashlib.sha256(f"{salt}{name}".encode()).digest(), name))


def check_splits(splits: Sequence[float]) -> None:
    """Refuse fractions that do not add up to 1."""
    if len(splits) != len(SECTIONS) or min(splits) < 0 or abs(sum(splits) - 1) > 1e-6:
        raise ConfigError(f"splits: got {splits}; give three fractions that add up to 1, e.g. 0.8 0.1 0.1.")
