"""Each sentence of a stress result is true of its figures, and says nothing that they leave open."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from robustmed_monai.apps.stress.findings import findings, grouped_findings, verdict
from robustmed_monai.apps.stress.reading import kinds, outcome

BREAKS, HURTS = "What breaks it", "What hurts it"
HOLDS, OPEN = "What it withstands", "What is not decided"


def _around(mean: float, half: float) -> dict[str, Any]:
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def _set(stress: dict[str, Any], name: str, means: list[float], half: float = 0.01) -> None:
    steps = [condition for condition in stress["conditions"] if condition["name"] == name]
    for step, mean in zip(steps, means, strict=True):
        step["figures"]["accuracy"] = _around(mean, half)
        step["changes"]["accuracy"] = _around(mean - 0.9, half)


def _floats(content: Any) -> Iterator[float]:
    if isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _floats(part)
    elif isinstance(content, float):
        yield content


def _about(stress: dict[str, Any], group: str, name: str) -> list[str]:
    return [sentence for sentence in grouped_findings(stress).get(group, []) if name in sentence.lower()]


@pytest.mark.parametrize("seed", range(20))
def test_every_number_of_a_sentence_is_a_figure(stress: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for condition in stress["conditions"][1:]:
        for key in ("figures", "baseline_figures", "changes", "advantages"):
            condition[key]["accuracy"] = _around(
                rng.random() - (0.5 if key[0] in "ca" else 0), 0.2 * rng.random()
            )
        condition["gates"]["familiarity"] = {"warned": rng.random(), "warned_when_wrong": rng.random()}
    known = {f"{abs(value):.2f}" for value in _floats(stress)}
    shares = {f"{100 * value:.0f}" for value in _floats(stress)}
    points = {f"{abs(100 * value):.1f}" for value in _floats(stress)}
    counted = {str(count) for count in range(len(stress["conditions"]) + 1)} | {"624"}
    for sentence in findings(stress):
        if sentence.startswith(("Met:", "Not met:")):  # quotes what was asked for
            continue
        assert set(re.findall(r"\d+\.\d\d\b", sentence)) <= known, sentence
        assert set(re.findall(r"\d+\.\d\b", sentence)) <= points, sentence
        assert set(re.findall(r"(\d+) %", sentence)) <= shares, sentence
        whole = set(re.findall(r"(?<![\d.])\d+(?![\d.]| %)", re.sub(r"\d+\.\d+", "", sentence)))
        assert whole - {"180"} <= counted, sentence


def test_every_kind_is_in_one_group(stress: dict[str, Any]) -> None:
    for kind in kinds(stress):
        title = kind.title.lower()
        groups = [group for group in (BREAKS, HURTS, HOLDS, OPEN) if _about(stress, group, title)]
        expected = {"broken": BREAKS, "hurt": HURTS, "withstood": HOLDS, "open": OPEN}[outcome(stress, kind)]
        assert groups == [expected], title
    assert findings(stress)[0] == verdict(stress)
    assert verdict(stress).startswith("3 of 7 kinds of stress break small net, 3 are withstood, 1 is not")


def test_a_falling_curve_is_told_by_its_first_break_and_its_worst(stress: dict[str, Any]) -> None:
    _set(stress, "fog", [0.89, 0.86, 0.80, 0.70, 0.55])
    (sentence,) = _about(stress, BREAKS, "fog")
    points = "10.0 points [9.0, 11.0] at severity 3, 35.0 points [34.0, 36.0] at severity 5"
    assert sentence == f"Fog (ImageNet-C): accuracy loses {points}; it is 0.55 there, 0.90 as given."
    assert "again" not in sentence


def test_a_curve_that_comes_back_is_told_so(stress: dict[str, Any]) -> None:
    _set(stress, "fog", [0.80, 0.60, 0.80, 0.85, 0.90])
    (sentence,) = _about(stress, BREAKS, "fog")
    assert "at severity 1, 30.0 points [29.0, 31.0] at severity 2; it is 0.60 there" in sentence
    assert sentence.endswith("At severity 5 it is 0.90 again.")


def test_nothing_is_found_where_the_loss_may_be_none(stress: dict[str, Any]) -> None:
    _set(stress, "fog", [0.88, 0.84, 0.80, 0.75, 0.70], half=0.25)
    assert outcome(stress, next(kind for kind in kinds(stress) if kind.name == "fog")) == "open"
    (sentence,) = _about(stress, OPEN, "fog")
    assert (
        "reaches from nothing to more than 5 points, as fog, severity 5 (ImageNet-C): 20.0 points ["
        in sentence
    )


def test_a_sure_loss_of_perhaps_few_points_hurts(stress: dict[str, Any]) -> None:
    _set(stress, "fog", [0.88, 0.88, 0.86, 0.85, 0.84], half=0.015)
    (sentence,) = _about(stress, HURTS, "fog")
    told = "Fog, severity 5 (ImageNet-C) hurts it: 6.0 points [4.5, 7.5] lost, perhaps fewer than 5."
    assert sentence.endswith(told)
    assert "1 hurts it" in verdict(stress)


def test_the_change_decides_and_not_the_intervals_of_both(stress: dict[str, Any]) -> None:
    for condition in stress["conditions"]:
        condition["figures"]["accuracy"]["ci95"] = [0.0, 1.0]
    assert verdict(stress).startswith("3 of 7 kinds of stress break small net")


def test_a_sure_but_small_loss_is_no_break(stress: dict[str, Any]) -> None:
    _set(stress, "fog", [0.875] * 5, half=0.002)
    assert _about(stress, HOLDS, "fog")
    _set(stress, "fog", [0.855] * 5, half=0.002)
    assert _about(stress, HOLDS, "fog")
    _set(stress, "fog", [0.845] * 5, half=0.002)
    assert _about(stress, BREAKS, "fog")
    _set(stress, "fog", [0.85] * 5, half=0.0)
    assert _about(stress, HOLDS, "fog")


def test_what_is_better_than_clean_is_said(stress: dict[str, Any]) -> None:
    _set(stress, "fog", [0.90, 0.93, 0.95, 0.90, 0.90])
    told = [sentence for sentence in _about(stress, HOLDS, "fog") if sentence.startswith("Better")]
    figures = "accuracy 0.95, 5.0 points [4.0, 6.0] more"
    assert told == [f"Better than clean: fog, severity 3 (ImageNet-C), {figures}."]
    _set(stress, "fog", [0.908] * 5, half=0.001)
    assert not [sentence for sentence in _about(stress, HOLDS, "fog") if sentence.startswith("Better")]


def test_many_breaks_are_told_in_one_sentence_beyond_the_deepest(stress: dict[str, Any]) -> None:
    flipped = next(c for c in stress["conditions"] if c["name"] == "flip_left_right")
    for index in range(9):
        condition = {**flipped, "name": f"trick_{index}", "id": f"x/trick_{index}"}
        stress["conditions"].append(condition)
    told = grouped_findings(stress)[BREAKS]
    assert len(told) == 7
    assert told[-1].startswith("Broken as well: ")
    assert sum(f"trick {index}" in " ".join(told).lower() for index in range(9)) == 9


def test_a_gate_is_judged_where_the_model_breaks(stress: dict[str, Any]) -> None:
    for condition in stress["conditions"][1:]:
        condition["gates"]["familiarity"]["warned_when_wrong"] = 0.95
    assert "Wherever the model breaks, familiarity warns of at least 95 % of what it gets wrong." in findings(
        stress
    )
    stress["conditions"][5]["gates"]["familiarity"]["warned_when_wrong"] = 0.01
    (told,) = [sentence for sentence in findings(stress) if "sees least" in sentence]
    assert told.startswith(
        "Familiarity sees least of Gaussian noise, severity 5 (ImageNet-C): it warns of 1 %"
    )
    assert told.endswith("of fewer than half in 1 of the 10 conditions that break the model.")


def test_the_baseline_is_told_apart_by_pairs(stress: dict[str, Any]) -> None:
    for condition in stress["conditions"]:
        condition["advantages"]["accuracy"] = _around(0.0, 0.01)
    told = grouped_findings(stress)["Beside the baseline"]
    counts = "better in 0, worse in 0, not told apart in 28 of 28 conditions."
    assert told[0] == f"Beside plain classifier, on the same images: {counts}"
    assert not [sentence for sentence in told if sentence.startswith("Furthest")]
    stress["conditions"][3]["advantages"]["accuracy"] = _around(-0.03, 0.01)
    (told_,) = [s for s in grouped_findings(stress)["Beside the baseline"] if s.startswith("Furthest")]
    assert told_.startswith(
        "Furthest behind, by 3.0 points [2.0, 4.0]: Gaussian noise, severity 3 (ImageNet-C)"
    )
    stress["baseline"] = None
    assert "Beside the baseline" not in grouped_findings(stress)


def test_what_gives_something_back(stress: dict[str, Any]) -> None:
    told = grouped_findings(stress)["What gives something back"]
    assert told[0].startswith("Measured: 6 pairs of a wrapper and a lossy condition; 1 give")
    gain = "13.0 points [10.0, 16.0], accuracy 0.73 instead of 0.60; images as given change by -1.0 points"
    assert f"RISC gives back most at flip left right (orientation, header wrong): {gain}" in told[1]
    assert told[2] == "Nowhere any help: median filter."


def test_a_figure_of_which_less_is_better(stress: dict[str, Any]) -> None:
    stress["main"] = "ece"
    assert _about(stress, BREAKS, "gaussian noise")
    assert "calibration" not in verdict(stress)
    assert _about(stress, HOLDS, "fog")
