"""Noise against its definitions in NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import poisson

from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.noise import (
    gaussian_noise,
    impulse_noise,
    multiplicative_noise,
    pixel_dropout,
    poisson_quantile,
    shot_noise,
    speckle_noise,
)
from robustmed_monai.utils.errors import ConfigError

IMAGES = torch.rand(6, 3, 20, 24, generator=torch.Generator().manual_seed(1))


def _run(corruption: Corruption, seed: int = 3) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    params = corruption.sample(IMAGES.shape, torch.Generator().manual_seed(seed))
    return corrupt(IMAGES, corruption, params).numpy(), {k: v.numpy() for k, v in params.items()}


def test_gaussian_noise_adds_noise_of_its_deviation() -> None:
    result, params = _run(gaussian_noise(0.1))
    np.testing.assert_allclose(result, (IMAGES.numpy() + params["noise"]).clip(0, 1), atol=1e-7)
    assert params["noise"].std() == pytest.approx(0.1, rel=0.03)
    assert abs(params["noise"].mean()) < 0.003


def test_variance_is_uniform_between_its_bounds() -> None:
    corruption = gaussian_noise(0.1, 0.3)
    noise = corruption.sample((4000, 1, 12, 12), torch.Generator().manual_seed(0))["noise"]
    variance = noise.flatten(1).var(1)
    assert variance.mean().item() == pytest.approx((0.1**2 + 0.3**2) / 2, rel=0.03)
    assert variance.quantile(0.25).item() == pytest.approx(0.01 + 0.08 / 4, rel=0.05)


def test_speckle_is_in_proportion_to_the_image() -> None:
    result, params = _run(speckle_noise(0.2))
    x = IMAGES.numpy()
    np.testing.assert_allclose(result, (x + x * params["noise"]).clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 1e-3, 0.4, 3.0, 12.0, 60.0, 300.0])
def test_poisson_quantile_is_scipys(mean: float) -> None:
    u = torch.rand(4000, generator=torch.Generator().manual_seed(2))
    ours = poisson_quantile(u, torch.full_like(u, mean))
    reference = poisson.ppf(u.double().numpy(), float(np.float32(mean)))
    np.testing.assert_array_equal(ours.numpy(), reference.clip(0))


@pytest.mark.parametrize("rate", [3, 25, 60, 300])
def test_shot_noise_counts_photons(rate: int) -> None:
    result, params = _run(shot_noise(rate))
    x = (IMAGES * rate).double().numpy()
    np.testing.assert_allclose(result, (poisson.ppf(params["u"], x).clip(0) / rate).clip(0, 1), atol=1e-6)


def test_impulse_noise_sets_half_of_its_share_to_each_end() -> None:
    result, params = _run(impulse_noise(0.2))
    black, white = params["u"] < 0.1, params["u"] >= 0.9
    np.testing.assert_array_equal(result, np.where(black, 0, np.where(white, 1, IMAGES.numpy())))
    assert black.mean() == pytest.approx(0.1, abs=0.01)
    assert white.mean() == pytest.approx(0.1, abs=0.01)


def test_more_impulses_keep_the_ones_that_were_there() -> None:
    weak, _ = _run(impulse_noise(0.05))
    strong, _ = _run(impulse_noise(0.3))
    changed = weak != IMAGES.numpy()
    assert changed.any()
    np.testing.assert_array_equal(strong[changed], weak[changed])


def test_pixel_dropout_takes_all_channels_of_a_pixel() -> None:
    result, params = _run(pixel_dropout(0.1))
    np.testing.assert_array_equal(result, np.where(params["dropped"], 0, IMAGES.numpy()))
    assert params["dropped"].shape == (6, 1, 20, 24)
    assert params["dropped"].mean() == pytest.approx(0.1, abs=0.02)
    assert not _run(pixel_dropout(1.0))[0].any()
    assert not _run(pixel_dropout(0.0))[1]["dropped"].any()


def test_multiplicative_noise_is_one_factor_per_image() -> None:
    result, params = _run(multiplicative_noise(0.9, 1.1))
    factor = params["factor"][:, None, None, None]
    np.testing.assert_allclose(result, (IMAGES.numpy() * factor).clip(0, 1), atol=1e-7)
    assert np.all((params["factor"] >= 0.9) & (params["factor"] < 1.1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: gaussian_noise(-0.1),
        lambda: gaussian_noise(0.2, 0.1),
        lambda: shot_noise(0),
        # exp(-mean) is 0 there, and grey would become white.
        lambda: shot_noise(701),
        lambda: pixel_dropout(1.1),
    ],
)
def test_impossible_settings_are_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]
