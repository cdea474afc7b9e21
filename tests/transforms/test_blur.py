from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d, gaussian_filter

from robustmed_monai.transforms.blur import gaussian_blur, kernel_of_size, reflected
from robustmed_monai.utils.errors import ConfigError


@pytest.mark.parametrize("sigma", [0, 0.1, 0.5, 2, 3.7])
@pytest.mark.parametrize("shape", [(128, 128), (28, 33), (5, 3), (1, 1)])
def test_blur_is_scipy(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> None:
    maps = rng.random((2, 3, *shape))
    expected = np.stack([[gaussian_filter(m, sigma) for m in image] for image in maps])
    np.testing.assert_allclose(gaussian_blur(torch.from_numpy(maps), sigma), expected, rtol=0, atol=1e-12)
    single = gaussian_blur(torch.from_numpy(maps).float(), sigma)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-6)


def test_blur_with_a_width_per_axis_and_another_end_is_scipys(rng: np.random.Generator) -> None:
    image = rng.random((30, 41))
    expected = gaussian_filter(image, (0.3, 2.8), truncate=3.0)
    found = gaussian_blur(torch.from_numpy(image), (0.3, 2.8), truncate=3.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 3, 7, 25])
def test_a_matrix_is_scipys_correlation(size: int, rng: np.random.Generator) -> None:
    kernel, image = kernel_of_size(size), rng.random((4, 26))
    assert kernel.sum() == pytest.approx(1)
    expected = correlate1d(image, kernel, mode="mirror")
    np.testing.assert_allclose(image @ reflected(26, kernel).numpy().T, expected, rtol=0, atol=1e-6)


def test_blur_laws(rng: np.random.Generator) -> None:
    maps = torch.from_numpy(rng.random((3, 1, 40, 30))).float()
    before = maps.clone()
    out = gaussian_blur(maps, 2)
    assert torch.equal(maps, before)
    assert torch.equal(out, torch.cat([gaussian_blur(m[None], 2) for m in maps]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gaussian_blur(maps, 2), out)
    torch.testing.assert_close(gaussian_blur(torch.ones(1, 1, 9, 9), 2), torch.ones(1, 1, 9, 9))
    torch.testing.assert_close(out.sum((2, 3)), maps.sum((2, 3)))  # mirroring keeps the sum


@pytest.mark.parametrize("sigma", [-1, float("nan"), float("inf")])
def test_blur_refuses(sigma: float) -> None:
    with pytest.raises(ConfigError, match="sigma"):
        gaussian_blur(torch.zeros(1, 1, 8, 8), sigma)
