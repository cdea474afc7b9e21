"""The script of RA's tables: what the medium networks are trained and evaluated by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import results_ra

CONFIGS = Path(__file__).parents[2] / "bundles/ra/configs"


def test_the_medium_networks_have_the_published_losses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained: list[tuple[list[str], dict[str, Any]]] = []
    evaluated: dict[str, dict[str, Any]] = {}

    def train(place: Path, name: str, configs: list[str], **settings: Any) -> str:
        trained.append((configs, settings))
        return str(place / "model.pt")

    def evaluate(table: str, configs: list[str], runs: Any, output: Path, **settings: Any) -> None:
        evaluated[table] = {"runs": runs, **settings}

    monkeypatch.setattr(results_ra, "train", train)
    monkeypatch.setattr(results_ra, "evaluate", evaluate)
    results_ra.medium({"ixi": tmp_path / "ixi", "lgg": tmp_path / "lgg"}, [0], tmp_path)
    # The controls' overlays come last: paper.json would take their settings back.
    assert [configs for configs, _ in trained] == [
        ["train", "ixi", "paper"],
        ["train", "ixi", "paper", "sivae"],
        ["train", "ixi", "paper", "vae"],
    ]
    config = {name: json.loads((CONFIGS / f"{name}.json").read_text()) for name in ("train", "evaluate")}
    for _, settings in trained:
        assert settings["max_epochs"] == 300
        assert set(settings) <= set(config["train"])
    assert list(evaluated) == ["medium", "medium_lgg"]
    for settings in evaluated.values():
        assert list(settings.pop("runs")) == ["RA", "SI-VAE", "VAE"]
        assert settings["channels"] == trained[0][1]["channels"]
        assert set(settings) <= set(config["evaluate"])
