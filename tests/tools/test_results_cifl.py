"""The script of CIFL's tables: what is trained in which order, and which runs a table is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import results_cifl

BUNDLES = Path(__file__).parents[2] / "bundles"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the script would have run."""
    found: list[Any] = []

    def train(place: Path, name: str, configs: list[str], **settings: Any) -> str:
        found.append((place, name, configs, settings))
        place.mkdir(parents=True, exist_ok=True)
        (place / "done").touch()
        return str(place / "model.pt")

    monkeypatch.setattr(results_cifl, "train", train)
    monkeypatch.setattr(results_cifl, "bundle", lambda *args, **more: found.append((*args, more)))
    monkeypatch.setattr(results_cifl, "keep", lambda *args: found.append(args))
    return found


def test_features_of_the_seed_come_first(calls: list[Any], tmp_path: Path) -> None:
    results_cifl.train_run("registration", "compared", 2, tmp_path)
    (first, name, _, own), (place, task, configs, settings) = calls
    assert (first, name, own["seed"]) == (tmp_path / "features" / "2", "cifl", 2)
    assert (place, task, configs) == (
        tmp_path / "registration" / "compared-2",
        "cifl_registration",
        ["train", "compared"],
    )
    assert settings["features_weights"] == first / "model.pt"
    results_cifl.train_run("registration", "raw", 2, tmp_path)
    assert len(calls) == 3
    assert "features_weights" not in calls[2][3]


@pytest.mark.parametrize("part", sorted(results_cifl.ROWS))
def test_a_table_is_of_the_seeds_that_all_its_rows_have(part: str, calls: list[Any], tmp_path: Path) -> None:
    rows = results_cifl.ROWS[part][:2]
    for seed in (2, 0):
        for row in rows:
            results_cifl.train_run(part, row, seed, tmp_path)
    results_cifl.train_run(part, rows[0], 5, tmp_path)
    calls.clear()
    results_cifl.make_table(part, tmp_path)
    (name, configs, settings), kept = calls
    expected = [0, 2, 5] if len(rows) == 1 else [0, 2]
    places = {row: [results_cifl.folder(part, row, seed, tmp_path) for seed in expected] for row in rows}
    given = {k: [str(p / "model.pt") for p in v] for k, v in places.items()}
    assert json.loads(settings["checkpoints"]) == given
    assert (configs, settings["seeds"], kept[0]) == (["evaluate"], expected, name)


@pytest.mark.parametrize("part", results_cifl.SCHEDULES)
def test_a_part_overrides_what_its_config_has(part: str) -> None:
    config = json.loads((BUNDLES / results_cifl.TABLES[part][0] / "configs/train.json").read_text())
    rows = {"sweep": results_cifl.SWEEP, "long_features": results_cifl.LENGTHS}.get(part, {}).values()
    given = set(results_cifl.SCHEDULES[part]).union(*rows)
    assert given <= set(config), f"no such keys: {given - set(config)}"


@pytest.mark.parametrize("part", results_cifl.EVALUATION)
def test_a_table_overrides_what_its_config_has(part: str) -> None:
    config = json.loads((BUNDLES / results_cifl.TABLES[part][0] / "configs/evaluate.json").read_text())
    given = set(results_cifl.EVALUATION[part])
    assert given <= set(config), f"no such keys: {given - set(config)}"


def test_long_features_carry_what_stands_on_them(calls: list[Any], tmp_path: Path) -> None:
    for row in results_cifl.LENGTHS:
        results_cifl.train_run("long_features_segmentation", row, 0, tmp_path)
    short, on_short, long, on_long = calls
    for below, above, steps in ((short, on_short, 5000), (long, on_long, 50000)):
        assert below[3]["max_epochs"] * below[3]["epoch_length"] == steps
        assert below[0] == tmp_path / "long_features" / f"{steps} steps-0"
        assert above[3]["features_weights"] == below[0] / "model.pt"
        assert above[2] == ["train"]
    assert on_long[3]["max_epochs"] == on_short[3]["max_epochs"]
