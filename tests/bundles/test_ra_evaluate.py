"""Evaluation by the config: the table with its controls, the ablation, the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from robustmed_monai.utils.errors import ConfigError, RobustMedError, WeightsError
from robustmed_monai.utils.provenance import data_digest, read_results

Overrides = dict[str, Any]

CONTROLS = {"mean image", "z-score", "PCA residual", "intensity", "head area", "no anomaly"}
COLUMNS = {
    "image_auroc", "image_ap", "image_fpr95", "image_auroc_top", "image_auroc_max", "pixel_auroc", "pixel_ap",
    "pixel_best_dice", "pixel_pro", "calibrated_dice",
}  # fmt: skip


def _evaluate(
    bundle: Any, files: list[str], network: Overrides, dataset_dir: Path, folder: Path, **more: Any
) -> None:
    overrides = {**network, "dataset_dir": str(dataset_dir), "output_dir": str(folder), **more}
    bundle(files, overrides, workflow_type="infer")


def _cells(content: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for row in content["rows"]:
        rows.setdefault(row["row"], {})[row["column"]] = row["mean"]
    return rows


def test_table_has_methods_and_controls(
    bundle: Any, tiny_network: Overrides, dataset_dir: Path, trained: Path, tmp_path: Path
) -> None:
    weights = str(trained / "model.pt")
    checkpoints = {"RA": [weights, weights], "VAE": [weights]}
    _evaluate(
        bundle, ["evaluate.json"], tiny_network, dataset_dir, tmp_path, checkpoints=checkpoints, seeds=[0, 1]
    )
    content = read_results(tmp_path / "results.json")
    cells = _cells(content)
    assert set(cells) == {"RA", "VAE", "VAE, RA map", *CONTROLS}
    for row in cells.values():
        assert set(row) >= COLUMNS, COLUMNS - set(row)
        assert any(column.startswith("recall_") for column in row)
    assert cells["VAE, RA map"] == pytest.approx(cells["RA"])
    # What is known of the controls beforehand.
    assert cells["no anomaly"]["image_auroc"] == cells["no anomaly"]["pixel_auroc"] == 0.5
    reconstructing = {row for row, figures in cells.items() if "healthy_l1" in figures}
    assert reconstructing == {"RA", "VAE", "VAE, RA map", "mean image", "PCA residual"}
    assert cells["intensity"]["pixel_auroc"] > 0.95, "the drawn lesions are the brightest pixels"
    one = next(r for r in content["rows"] if (r["row"], r["column"]) == ("RA", "pixel_ap"))
    assert (one["n"], one["std"]) == (2, 0.0)
    assert content["seeds"] == [0, 1]
    digests = {entry["split"]: entry["sha256"] for entry in content["data"]}
    assert digests == {
        k: data_digest(dataset_dir.glob(f"{k}-*.png")) for k in ("training", "validation", "test")
    }
    for name in ("results_sheet.png", "results_curves.png", "results_scores.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_ablation_switches_the_factors(
    bundle: Any, tiny_network: Overrides, dataset_dir: Path, trained: Path, tmp_path: Path
) -> None:
    weights = str(trained / "model.pt")
    _evaluate(
        bundle, ["evaluate.json", "ablation.json"], tiny_network, dataset_dir, tmp_path, weights=weights
    )
    cells = _cells(read_results(tmp_path / "ablation.json"))
    assert set(cells) >= CONTROLS
    maps = {name: row["pixel_ap"] for name, row in cells.items() if name not in CONTROLS}
    assert len(maps) >= 6
    assert len(set(maps.values())) == len(maps), "two maps give the same figures, so a switch does nothing"
    assert (tmp_path / "ablation_sheet.png").is_file()


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (
            {"checkpoints": {"RA": []}},
            ConfigError,
            r"checkpoints: found \{'RA': 0\} files; give at least one file",
        ),
        ({"weights": "nowhere/model.pt"}, WeightsError, r"nowhere/model.pt: no such file"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(
    bundle: Any,
    tiny_network: Overrides,
    dataset_dir: Path,
    tmp_path: Path,
    overrides: Overrides,
    kind: type[RobustMedError],
    message: str,
) -> None:
    with pytest.raises(RuntimeError) as caught:
        _evaluate(bundle, ["evaluate.json"], tiny_network, dataset_dir, tmp_path, **overrides)
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, RobustMedError):
        cause = cause.__cause__
    with pytest.raises(kind, match=message):
        raise cause or AssertionError("no error of ours")
    assert not list(tmp_path.iterdir())
