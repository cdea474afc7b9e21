"""The lesion painter on real T1 slices of IXI, which have no labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from robustmed_monai.data.datalist import load_datalist
from robustmed_monai.transforms.brain_region import find_brain_region
from robustmed_monai.transforms.lesion_painting import MATERIAL
from robustmed_monai.transforms.lesions import KINDS, SIZES, draw_lesion, sample_lesion, size_name

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slices(data_root: Path) -> list[NDArray[np.float32]]:
    items = load_datalist(data_root / "ixi_t1_slices", "validation")
    return [read(item["image"]) for item in items]


def read(path: str) -> NDArray[np.float32]:
    with Image.open(path) as image:
        square = Image.new("L", (max(image.size),) * 2)
        width, height = image.size
        square.paste(image, ((max(image.size) - width) // 2, (max(image.size) - height) // 2))
        pixels = np.asarray(square.resize((128, 128), Image.Resampling.BILINEAR), dtype=np.float32)
        return pixels.T / np.float32(255)


def test_brain_lies_inside_the_skull_and_has_a_plausible_area(slices: list[NDArray[np.float32]]) -> None:
    ventricles = []
    for image in slices:
        region = find_brain_region(image)
        # Median .67 and range .56 - .76 over all 522 slices; a brain that holds the scalp has more than .8.
        assert 0.55 < region.brain.sum() / region.head.sum() < 0.78
        assert 0.47 < region.head.mean() < 0.56
        edge = region.head & ~region.brain
        assert np.percentile(image[edge], 10) < 0.35
        assert np.median(image[region.brain]) > 0.5
        assert region.csf_level < 0.5
        ventricles.append(int(region.ventricles.sum()))
    assert np.mean(np.array(ventricles) > 0) > 0.9
    assert 100 < np.median(ventricles) < 500


@pytest.mark.parametrize("kind", KINDS)
def test_lesions_are_visible_and_where_the_mask_says(slices: list[NDArray[np.float32]], kind: str) -> None:
    drawn = 0
    for index, image in enumerate(slices[:24]):
        region = find_brain_region(image)
        if kind == "enlarged_ventricles" and not region.ventricles.any():
            continue
        size = tuple(SIZES)[index % 3] if kind != "enlarged_ventricles" else "medium"
        spec = sample_lesion(image, np.random.default_rng(index), [kind], [size], region=region)
        after, mask = draw_lesion(image, spec, region)
        assert size_name(int(mask.sum())) == size
        assert not (mask & ~region.brain).any()
        assert np.abs(after - image)[mask].mean() > MATERIAL
        if kind not in ("mass_effect", "enlarged_ventricles"):
            assert np.abs(after - image)[~mask].max() < MATERIAL
        drawn += 1
    assert drawn >= 20
