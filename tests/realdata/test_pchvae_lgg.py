"""LGG as volumes: the counts of the real file, and what controls tell with and without matching."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustmed_monai.data.brain_slices import brain_dataset
from robustmed_monai.data.datalist import load_datalist
from robustmed_monai.data_prep import lgg_volumes
from robustmed_monai.inferers.controls import slice_position
from robustmed_monai.metrics.bootstrap import Estimate
from robustmed_monai.metrics.pchvae import detection_figures, score_all

pytestmark = pytest.mark.slow


def test_position_tells_nothing_once_it_is_matched(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brain_transforms: Callable[..., Any]
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    path = lgg_volumes.prepare(data_root / "lgg_mri/lgg_slices_128.npz", tmp_path)
    report = json.loads((tmp_path / "prepare_report.json").read_text())
    assert [c["subjects"] for c in report["counts"].values()] == [45, 5, 20]
    transform = brain_transforms()
    auroc = {}
    for name, datalist in (("all", path), ("matched", tmp_path / lgg_volumes.MATCHED)):
        data = brain_dataset(load_datalist(datalist, "test"), transform, None)
        found = detection_figures(score_all(slice_position, data), data, name)[f"{name}_auroc"]
        assert isinstance(found, Estimate)
        auroc[name] = found.value
    assert report["notes"]["test_slices"] == {"tumour": 276, "tumour_free": 347}
    assert auroc["all"] > 0.7
    assert auroc["matched"] == pytest.approx(0.5, abs=0.01)
