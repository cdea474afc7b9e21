from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from robustmed_monai.metrics import reconstruction_metrics
from robustmed_monai.utils.errors import ImageShapeError, NonFiniteImageError


def test_each_image_equals_numpy_and_scikit_image(rng: np.random.Generator) -> None:
    image = rng.random((3, 1, 40, 32)).astype(np.float32)
    pred = np.clip(image + rng.normal(0, [[[[0.02]]], [[[0.1]]], [[[0.3]]]], image.shape), 0, 1).astype(
        np.float32
    )
    result = reconstruction_metrics(torch.from_numpy(pred), torch.from_numpy(image))
    np.testing.assert_allclose(result["l1"], np.abs(pred - image).mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(result["mse"], ((pred - image) ** 2).mean(axis=(1, 2, 3)), rtol=1e-5)
    for i in range(3):
        a, b = pred[i, 0].astype(float), image[i, 0].astype(float)
        assert float(result["psnr"][i]) == pytest.approx(
            peak_signal_noise_ratio(b, a, data_range=1.0), rel=1e-5
        )
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
        assert float(result["ssim"][i]) == pytest.approx(structural_similarity(a, b, **settings), abs=2e-3)


def test_equal_images_are_perfect_and_a_batch_is_its_singles(rng: np.random.Generator) -> None:
    x, y = torch.from_numpy(rng.random((2, 3, 3, 16, 16))).float()
    same = reconstruction_metrics(x, x)
    assert same["l1"].tolist() == same["mse"].tolist() == [0, 0, 0]
    assert torch.isinf(same["psnr"]).all()
    torch.testing.assert_close(same["ssim"], torch.ones(3))
    whole = reconstruction_metrics(x, y)
    for key, values in whole.items():
        singles = [reconstruction_metrics(x[i : i + 1], y[i : i + 1])[key] for i in range(3)]
        torch.testing.assert_close(values, torch.cat(singles))


def test_constant_images_give_finite_values() -> None:
    result = reconstruction_metrics(torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16))
    assert all(torch.isfinite(v).all() for v in result.values())


def test_bad_input_is_refused() -> None:
    x = torch.rand(1, 1, 16, 16)
    with pytest.raises(ImageShapeError, match=r"pred \(1, 1, 16, 16\)"):
        reconstruction_metrics(x, x[..., :12])
    with pytest.raises(ImageShapeError, match="at least 11"):
        reconstruction_metrics(x[..., :10], x[..., :10])
    with pytest.raises(NonFiniteImageError, match="image"):
        reconstruction_metrics(x, x / 0)
