"""A folder given as test_dir is all test, in every evaluation that takes one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

CONFIGS = Path(__file__).resolve().parents[2] / "bundles"


def _loads(node: Any, place: str = "") -> Iterator[str]:
    """Ids of the data lists that are made of test_dir."""
    if isinstance(node, dict):
        if node.get("dataset_dir") == "@test_dir":
            yield place
        for key, value in node.items():
            yield from _loads(value, f"{place}#{key}" if place else key)
    if isinstance(node, list):
        for number, value in enumerate(node):
            yield from _loads(value, f"{place}#{number}")


@pytest.mark.parametrize("name", ["ra", "pchvae"])
def test_all_of_a_test_dir_is_tested(name: str, tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.png").touch()
    for given, counts in (({"test_dir": str(tmp_path)}, {10}), ({"dataset_dir": str(tmp_path)}, {1})):
        parser = ConfigParser()
        parser.read_config(CONFIGS / name / "configs" / "evaluate.json")
        parser.update(given)
        places = list(_loads(parser.get()))
        assert places
        assert {len(parser.get_parsed_content(place)) for place in places} == counts
