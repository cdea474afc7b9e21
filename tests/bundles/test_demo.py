"""The first picture that a newcomer sees: the demo's map is brightest in the true lesion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustmed_monai import cli
from robustmed_monai.data.embedded import demo_head
from robustmed_monai.transforms import LoadCheckedImage
from robustmed_monai.utils.files import read_json


def test_the_head_of_the_demo_is_made_once(tmp_path: Path) -> None:
    paths = demo_head(tmp_path)
    times = {path: Path(path).stat().st_mtime_ns for path in paths.values()}
    assert demo_head(tmp_path) == paths
    assert {path: Path(path).stat().st_mtime_ns for path in paths.values()} == times
    image, mask = (LoadCheckedImage()(paths[key]) for key in ("image", "mask"))
    assert image.shape == mask.shape
    # 50 ml, darker than the brain around it.
    assert float(mask.sum()) * 1.8**3 / 1000 == pytest.approx(50, abs=5)
    assert float(image[mask > 0].mean()) < 0.7 * float(image[image > 100].mean())


@pytest.mark.slow
def test_the_demo_finds_its_lesion(tmp_path: Path) -> None:
    assert cli.main(["demo", "--output_dir", str(tmp_path), "--device", "cpu"]) == 0
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    report = read_json(folder / "scores.json")
    assert report["assessed"] == 7
    found = np.asarray(LoadCheckedImage()(folder / "anomaly_map.nii.gz")[0])
    lesion = np.asarray(LoadCheckedImage()(demo_head()["mask"])[0]) > 0
    assert found.max() > 0
    assert lesion[np.unravel_index(found.argmax(), found.shape)]
    # The sheet's colours reach that far: it is the one large thing on it.
    bright = found > 80 * report["threshold"]
    assert (bright & lesion).sum() > 0.8 * bright.sum()
    assert (folder / "worst_slices.png").is_file()
