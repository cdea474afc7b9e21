from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from robustmed_monai.apps.anomaly_table import AnomalyTable, _spread_over
from robustmed_monai.data.slice_dataset import AxialSlices, SliceDataset, identity_collate
from robustmed_monai.inferers.ra import AnomalyMapInferer
from robustmed_monai.networks.ra import ReversedAutoEncoder
from robustmed_monai.utils.errors import ConfigError, WeightsError
from robustmed_monai.utils.provenance import data_digest, read_results
from robustmed_monai.utils.weights import save_weights

RESIDUAL = AnomalyMapInferer(equalize=False, perceptual="none")
ROWS = {"RA": ("RA", RESIDUAL), "VAE": ("VAE", RESIDUAL), "VAE again": ("VAE", RESIDUAL)}


def _network(seed: int) -> ReversedAutoEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ReversedAutoEncoder(1, 16, (4, 8), 4, "affine")


@pytest.fixture
def weights(tmp_path: Path) -> list[str]:
    for seed in (0, 1):
        save_weights(_network(seed).state_dict(), tmp_path / f"seed-{seed}.pt")
    return [str(tmp_path / f"seed-{seed}.pt") for seed in (0, 1)]


@pytest.fixture
def loaders(tmp_path: Path, rng: np.random.Generator) -> dict[str, Any]:
    made = {}
    for section in ("training", "validation", "test"):
        items = []
        for i in range(4):
            path = tmp_path / f"{section}-{i}.png"
            picture = rng.integers(50, 150, (16, 16)).astype(np.uint8)
            sick = section == "test" and i > 1
            if sick:
                picture[4:9, 4:9] = 255
            Image.fromarray(picture).save(path)
            items.append({"image": str(path), "healthy": not sick})
        data = SliceDataset(items, AxialSlices(16), progress=None)
        made[section] = DataLoader(data, batch_size=3, collate_fn=identity_collate)  # type: ignore[arg-type]
    return made


def _rows(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["row"], row["column"]): row for row in read_results(path)["rows"]}


def test_every_row_with_a_run_and_every_control_is_there(
    loaders: dict[str, Any], weights: list[str], tmp_path: Path
) -> None:
    table = AnomalyTable(_network(2), ROWS, {"VAE": weights}, **loaders)
    path = table.run(tmp_path / "out", "table", seeds=(3, 4))
    assert path == tmp_path / "out" / "table.json"
    rows = _rows(path)
    controls = {"mean image", "intensity", "head area", "zero"}
    assert {row for row, _ in rows} == {"VAE", "VAE again", *controls}
    for column in {c for r, c in rows if r == "VAE"}:
        assert rows["VAE", column]["mean"] == rows["VAE again", column]["mean"]
    assert {rows[name, "healthy_l1"]["n"] for name in controls} == {1}
    assert rows["VAE", "healthy_l1"]["n"] == 2
    assert rows["VAE", "healthy_l1"]["std"] > 0, "the two seeds are not the same network"
    content = read_results(path)
    assert content["seeds"] == [3, 4]
    digests = {entry["split"]: entry["sha256"] for entry in content["data"]}
    assert digests == {k: data_digest(tmp_path.glob(f"{k}-*.png")) for k in loaders}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "table.json",
        "table.png",
        "curves.png",
        "scores.png",
    }


def test_weights_are_those_of_the_file_not_of_the_network_at_hand(
    loaders: dict[str, Any], weights: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AnomalyTable, "_pictures", lambda *_: None)
    one, two = (
        _rows(
            AnomalyTable(_network(seed), ROWS, {"RA": weights[:1]}, **loaders).run(
                tmp_path / str(seed), "t", [0]
            )
        )
        for seed in (5, 6)
    )
    assert one == two
    other = _rows(
        AnomalyTable(_network(5), ROWS, {"RA": weights[1:]}, **loaders).run(tmp_path / "other", "t", [1])
    )
    assert other["RA", "healthy_l1"]["mean"] != one["RA", "healthy_l1"]["mean"]
    assert other["mean image", "healthy_l1"] == one["mean image", "healthy_l1"]


def test_only_healthy_images_make_a_table_without_curves(
    loaders: dict[str, Any], weights: list[str], tmp_path: Path
) -> None:
    given = {**loaders, "test": loaders["validation"]}
    path = AnomalyTable(_network(0), ROWS, {"RA": weights[:1]}, **given).run(tmp_path / "out", "t", [0])
    assert {p.name for p in path.parent.iterdir()} == {"t.json", "t.png"}
    assert not [column for _, column in _rows(path) if column.startswith("image_")]


def test_runs_that_no_row_knows_are_refused(loaders: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"runs: found \['AE'\]; give weights for one of \['RA', 'VAE'\]"):
        AnomalyTable(_network(0), ROWS, {"AE": []}, **loaders)


def test_missing_weights_leave_nothing(loaders: dict[str, Any], tmp_path: Path) -> None:
    table = AnomalyTable(_network(0), ROWS, {"RA": [str(tmp_path / "no.pt")]}, **loaders)
    with pytest.raises(WeightsError, match=r"no.pt: no such file"):
        table.run(tmp_path / "out", "table", [0])
    assert not (tmp_path / "out").exists()


def test_cases_shown_are_spread_over_the_data() -> None:
    labels = [0] * 10 + [1] * 60
    assert _spread_over(labels) == [0, 5, 10, 20, 30, 40, 50, 60]
    assert _spread_over([1, 0]) == [1, 0]
    assert _spread_over([0, 0, 0]) == [0, 1]
