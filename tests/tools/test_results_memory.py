"""The script of the feature memory's tables: with which settings a memory is filled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tools import results_memory


@pytest.mark.parametrize("passes", [1, 2])
def test_a_memory_is_filled_in_as_many_passes_as_asked(
    passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {}

    def train(folder: Path, name: str, configs: list[str], **settings: Any) -> str:
        found.update(settings)
        return str(folder / "model.pt")

    monkeypatch.setattr(results_memory, "train", train)
    results_memory.fill(tmp_path / "ixi", tmp_path, features="ra", passes=passes)
    assert found["max_epochs"] == passes
