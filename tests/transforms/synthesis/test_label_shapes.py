"""Label shapes: against NumPy, which labels occur, and the warps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from robustmed_monai.transforms.params import index_params
from robustmed_monai.transforms.synthesis.label_shapes import LabelShapes, largest, natural_scale
from robustmed_monai.transforms.synthesis.noise import noise_field, sample_noise
from robustmed_monai.utils.errors import ConfigError

SIZES = [(40, 33), (20, 24, 18)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("labels", [1, 2, 16, 26])
def test_largest_is_argmax(size: tuple[int, ...], labels: int) -> None:
    grids = sample_noise(2, labels, size, (4, 8), 1.0, torch.Generator().manual_seed(0))
    found = largest(grids, size)
    assert found.shape == (2, 1, *size)
    assert found.dtype == torch.uint8
    expected = np.argmax(noise_field(grids, size).numpy(), 1)
    assert (found[:, 0].numpy() == expected).mean() > 0.9999


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("warp", ["shared", "per_label"])
def test_warp_is_scipys(size: tuple[int, ...], warp: str) -> None:
    shapes = LabelShapes(5, scales=(8, 16), warp=warp, warp_scales=(8, 16), warp_std=3.0)
    params = shapes.sample(1, size, torch.Generator().manual_seed(3))
    noise = noise_field(params["noise"], size)[0].double().numpy()
    fields = noise_field(params["warp"], size)[0].double().numpy().reshape(-1, len(size), *size)
    places = np.indices(size) + fields
    if warp == "shared":
        expected = map_coordinates(np.argmax(noise, 0), places[0], order=0, mode="nearest")
    else:
        moved = [map_coordinates(n, p, order=1, mode="nearest") for n, p in zip(noise, places, strict=True)]
        expected = np.argmax(moved, 0)
    found = shapes.apply(params, size)[0, 0].numpy()
    assert (found == expected).mean() > 0.999
    unwarped = LabelShapes(5, scales=(8, 16), warp=warp, warp_std=0).apply(params, size)[0, 0].numpy()
    assert (unwarped == np.argmax(noise, 0)).mean() > 0.9999
    assert (unwarped != found).mean() > 0.01


@pytest.mark.parametrize("warp", ["shared", "per_label"])
def test_batch_is_its_samples_and_the_seed_decides(warp: str) -> None:
    shapes = LabelShapes(6, warp=warp)
    params = shapes.sample(3, (48, 40), torch.Generator().manual_seed(5))
    maps = shapes.apply(params, (48, 40))
    for row in range(3):
        one = shapes.apply(index_params(params, torch.tensor([row])), (48, 40))
        torch.testing.assert_close(one[0], maps[row], atol=0, rtol=0)
    again = shapes.apply(shapes.sample(3, (48, 40), torch.Generator().manual_seed(5)), (48, 40))
    torch.testing.assert_close(again, maps, atol=0, rtol=0)
    other = shapes.apply(shapes.sample(3, (48, 40), torch.Generator().manual_seed(6)), (48, 40))
    assert (other != maps).float().mean() > 0.5


@pytest.mark.parametrize(("size", "rows"), [((192, 160), 60), ((48, 48, 48), 12)])
def test_all_labels_occur_alike(size: tuple[int, ...], rows: int) -> None:
    shapes = LabelShapes(16)
    maps = shapes.apply(shapes.sample(rows, size, torch.Generator().manual_seed(0)), size)
    share = torch.bincount(maps.flatten().long(), minlength=16) / maps.numel()
    assert len(share) == 16
    assert share.min() > 0.5 / 16
    assert share.max() < 2 / 16
    per_map = torch.tensor([len(m.unique()) for m in maps], dtype=torch.float32)
    assert per_map.mean() > 10


def test_scale_follows_the_size() -> None:
    sizes = [(192, 160), (256, 256), (128, 128), (96, 96, 96), (64, 64), (16, 16)]
    assert [natural_scale(size) for size in sizes] == [32, 32, 24, 16, 12, 2]


@pytest.mark.parametrize(
    "settings", [{"num_labels": 0}, {"num_labels": 256}, {"warp": "all"}, {"warp_std": -1}]
)
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        LabelShapes(**settings)  # type: ignore[arg-type]
