"""The script of pchVAE's tables: what the long part trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import results_pchvae

BUNDLES = Path(__file__).parents[2] / "bundles"


def test_the_long_part_makes_the_papers_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def train(place: Path, name: str, configs: list[str], **settings: Any) -> str:
        calls.append((configs, settings))
        return str(place / "model.pt")

    monkeypatch.setattr(results_pchvae, "train", train)
    runs = results_pchvae.train_all("long", tmp_path, [3], tmp_path)
    assert runs["Low VAE"] == [str(tmp_path / "long" / "Low VAE-3" / "model.pt")]
    assert [configs for configs, _ in calls] == [
        ["train", "paper"],
        *(["train", name, "paper"] for name in ("chvae", "high_vae", "low_vae", "vqvae2")),
    ]
    settings = calls[0][1]
    config = json.loads((BUNDLES / "pchvae/configs/train.json").read_text())
    assert set(settings) <= set(config)
    # 420 slices of IXI and 1,208 of OASIS.
    batch = json.loads((BUNDLES / "pchvae/configs/paper.json").read_text())["batch_size"]
    assert settings["max_epochs"] * (1628 // batch) == 12_500
