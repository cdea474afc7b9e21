"""Intervals of the table of registered heads."""

from tools.results_head_registration import rows

PAIRS = [("a", "b"), ("a", "c"), ("a", "d"), ("b", "a"), ("c", "a"), ("d", "a"), ("b", "c"), ("c", "d")]
CASES = [{"dice": 0.9 if "a" in pair else 0.5} for pair in PAIRS]


def ends(of: list[tuple[str, str]] | None) -> list[float]:
    found: list[float] = rows("ours", CASES * 6, of)[1]["ci95"]
    return found


def test_people_are_drawn_not_their_pairs() -> None:
    low, high = ends([(f"{a}{i}", f"{b}{i}") for i in range(6) for a, b in PAIRS])
    alone = ends(None)
    assert low < alone[0] < alone[1] < high


def test_without_an_interval_where_a_resample_may_hold_no_pair() -> None:
    made = rows("ours", CASES[:2], PAIRS[:2])
    assert [entry["mean"] for entry in made] == [2.0, 0.9]
    assert "ci95" not in made[1]
