"""Settings of the parts that CIFL's tables are made of."""

import json
from pathlib import Path

import pytest

from tools.results_cifl import SCHEDULES, SWEEP, TABLES

BUNDLES = Path(__file__).parents[2] / "bundles"


@pytest.mark.parametrize("part", SCHEDULES)
def test_a_part_overrides_what_its_config_has(part: str) -> None:
    config = json.loads((BUNDLES / TABLES[part][0] / "configs/train.json").read_text())
    rows = SWEEP.values() if part == "sweep" else [{}]
    given = set(SCHEDULES[part]).union(*rows)
    assert given <= set(config), f"no such keys: {given - set(config)}"
