"""LGG as volumes: patients disjoint, the rules of slices, the matched pairs, and running again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from robustmed_monai.data.brain_slices import brain_dataset
from robustmed_monai.data.datalist import load_datalist
from robustmed_monai.data_prep import lgg_volumes
from robustmed_monai.utils.errors import ConfigError, DataError, ImageError

CASES, DEPTH = 8, 21
Arrays = dict[str, NDArray[Any]]


def read_nifti(path: Path) -> NDArray[Any]:
    image: Any = nib.load(path)
    return np.asarray(image.dataobj)


@pytest.fixture
def arrays(rng: np.random.Generator) -> Arrays:
    """Eight patients of 21 slices of 12 x 16, a tumour of 4 slices at another height each, one tiny one."""
    count = CASES * DEPTH
    case, number = np.repeat(np.arange(CASES), DEPTH), np.tile(np.arange(1, DEPTH + 1), CASES)
    mask = np.zeros((count, 12, 16), dtype=np.uint8)
    start = 7 + case
    mask[(number >= start) & (number < start + 4), 4:8, 4:8] = 1
    mask[number == start + 4, 4, 2:12] = 1
    flair = np.zeros((count, 12, 16), dtype=np.uint8)
    flair[:, 2:10, 2:14] = rng.integers(60, 200, (count, 8, 12))
    return {
        "flair": flair,
        "t1pre": flair // 2,
        "mask": mask,
        "pre_is_flair": case == 5,
        "case_index": case.astype(np.uint8),
        "slice_number": number.astype(np.uint8),
        "cases": np.asarray([f"TCGA_CS_{i}" for i in range(CASES)]),
    }


@pytest.fixture
def source(arrays: Arrays, tmp_path: Path) -> Path:
    # The rows need not be in order.
    order = np.random.default_rng(1).permutation(CASES * DEPTH)
    rows: dict[str, Any] = {k: v if k == "cases" else v[order] for k, v in arrays.items()}
    np.savez_compressed(tmp_path / "lgg.npz", **rows)
    return tmp_path / "lgg.npz"


def test_sections_and_slices(source: Path, arrays: Arrays, tmp_path: Path, load: Any, snapshot: Any) -> None:
    settings: dict[str, Any] = {"training": 4, "validation": 1, "high": 0.95}
    path = lgg_volumes.prepare(source, tmp_path / "out", **settings)
    content = load(path)
    assert [len(content[k]) for k in ("training", "validation", "test")] == [4, 1, 3]
    for section in ("training", "validation", "test"):
        for item in content[section]:
            case = int(item["subject"][-1])
            area = (arrays["mask"][arrays["case_index"] == case] > 0).sum((1, 2))
            levels = np.arange(DEPTH)
            kept = (area == 0) | ((area > 10) & (section == "test"))
            assert item["slices"] == levels[kept & (levels >= 2) & (levels <= 19)].tolist()
            assert item["healthy"] == (section != "test")
            image = read_nifti(tmp_path / "out" / item["image"])
            expected = arrays["flair"][arrays["case_index"] == case]
            np.testing.assert_array_equal(image, expected.transpose(2, 1, 0))
    before = snapshot(tmp_path / "out")
    words = ["--source", str(source), "--output", str(tmp_path / "out"), "--training", "4"]
    assert lgg_volumes.main([*words, "--validation", "1", "--high", ".95"]) == 0
    assert snapshot(tmp_path / "out") == before
    other = json.loads(lgg_volumes.prepare(source, tmp_path / "seed", seed=1, **settings).read_text())
    assert {i["subject"] for i in other["test"]} != {i["subject"] for i in content["test"]}


def test_matched_test_set(source: Path, tmp_path: Path, brain_transforms: Any) -> None:
    path = lgg_volumes.prepare(source, tmp_path / "out", training=3, validation=1)
    notes = json.loads((tmp_path / "out/prepare_report.json").read_text())["notes"]
    assert notes["matched"]["auroc_position"] == 0.5 != notes["all"]["auroc_position"]
    items = load_datalist(tmp_path / "out" / lgg_volumes.MATCHED, "test", verify=True)
    data = brain_dataset(items, brain_transforms(image_size=16), None)
    healthy = data.tensors["healthy"]
    assert int(healthy.sum()) == int((~healthy).sum()) == notes["matched"]["pairs"]
    position = data.tensors["position"]
    assert sorted(position[healthy].tolist()) == sorted(position[~healthy].tolist())
    training = brain_dataset(load_datalist(path, "training"), brain_transforms(image_size=16), None)
    assert training.tensors["healthy"].all()


def test_t1_leaves_out_patients_without_one(source: Path, tmp_path: Path, load: Any) -> None:
    path = lgg_volumes.prepare(source, tmp_path / "out", sequence="t1pre", training=3, validation=1)
    content = load(path)
    subjects = {item["subject"] for k in ("training", "validation", "test") for item in content[k]}
    assert subjects == {f"TCGA_CS_{i}" for i in range(CASES) if i != 5}


def test_errors(source: Path, tmp_path: Path, damage: Any) -> None:
    with pytest.raises(ConfigError, match=r"low, high: got 0.9, 0.1"):
        lgg_volumes.prepare(source, tmp_path / "out", low=0.9, high=0.1)
    with pytest.raises(ConfigError, match=r"training=7, validation=1 of 8 patients; leave some to test on"):
        lgg_volumes.prepare(source, tmp_path / "out", training=7, validation=1)
    with pytest.raises(DataError, match="no tumour slice has a tumour-free partner"):
        lgg_volumes.prepare(source, tmp_path / "out", training=3, validation=1, low=0.0, high=0.2)
    damage(source)
    with pytest.raises(ImageError, match=r"lgg\.npz"):
        lgg_volumes.prepare(source, tmp_path / "out")
