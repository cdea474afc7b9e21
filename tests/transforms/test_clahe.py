"""Batched CLAHE against scikit-image, and the laws of a batch."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from skimage.exposure import equalize_adapthist as skimage_clahe

from robustmed_monai.transforms import clahe
from robustmed_monai.transforms.clahe import EqualizeAdaptHist, EqualizeAdaptHistd, equalize_adapthist
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

# (28, 28), (96, 96) and the odd ones have tiles whose weights are no binary fractions, the others have
SHAPES = [
    (1, 1),
    (2, 3),
    (15, 17),
    (28, 28),
    (64, 64),
    (96, 96),
    (100, 84),
    (128, 128),
    (197, 233),
    (256, 256),
]
KINDS = ["noise", "head", "two levels", "constant", "zero", "one pixel", "low contrast", "8 bit"]


def make(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    noise = rng.random(shape)
    smooth = gaussian_filter(noise, 4)
    one_pixel = np.zeros(shape)
    one_pixel[shape[0] // 2, shape[1] // 3] = 0.7
    images = {
        "noise": noise,
        "head": np.where(smooth > smooth.mean(), (smooth - smooth.min()) / max(np.ptp(smooth), 1e-9), 0),
        "two levels": (noise > 0.5) * 0.5,
        "constant": np.full(shape, noise[0, 0]),
        "zero": np.zeros(shape),
        "one pixel": one_pixel,
        "low contrast": 0.3 + 0.01 * noise,
        "8 bit": np.floor(noise**3 * 255) / 255,
    }
    return np.asarray(images[kind])


def ours(image: np.ndarray, **settings: Any) -> np.ndarray:
    return equalize_adapthist(torch.from_numpy(image)[None, None], **settings)[0, 0].numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_is_scikit_image_bit_for_bit(shape: tuple[int, int], rng: np.random.Generator) -> None:
    for kind, dtype in product(KINDS, (np.float32, np.float64)):
        image = make(kind, shape, rng).astype(dtype)
        expected = skimage_clahe(image)
        found = ours(image)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected, err_msg=kind)


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_limit": 0.0},
        {"clip_limit": 0.03},
        {"clip_limit": 0.5},
        {"clip_limit": 1.0},
        {"nbins": 64},  # the bins cannot hold all pixels of a tile, a rest stays
        {"nbins": 1000},
        {"kernel_size": 100},  # one tile
        {"kernel_size": 300},  # one tile, several reflections of the image
        {"kernel_size": (33, 16), "clip_limit": 0.03},
        {"kernel_size": (64, 32)},  # more pixels in a tile than whole numbers in float32 allow
    ],
)
def test_settings_mean_the_same(settings: dict[str, Any], rng: np.random.Generator) -> None:
    for kind, shape in product(("noise", "head"), ((100, 84), (128, 128))):
        image = make(kind, shape, rng).astype(np.float32)
        np.testing.assert_array_equal(ours(image, **settings), skimage_clahe(image, **settings))


def test_ties_of_the_second_rounding(rng: np.random.Generator) -> None:
    # a span of 32766 16-bit levels puts every odd level on a tie between two of the 2^14 grey levels
    image: np.ndarray = (rng.integers(0, 32767, (64, 64)) / 65535).astype(np.float32)
    image[0, :2] = 0, 32766 / 65535
    np.testing.assert_array_equal(ours(image), skimage_clahe(image))


def test_gain_and_offset_hardly_matter(rng: np.random.Generator) -> None:
    image = make("head", (128, 128), rng)
    assert np.abs(ours(0.1 + 0.5 * image) - ours(image)).max() < 0.05


@pytest.mark.parametrize("shape", [(64, 64), (28, 28)])
def test_batch_is_its_singles(shape: tuple[int, int], rng: np.random.Generator, monkeypatch: Any) -> None:
    images = torch.from_numpy(np.stack([make(kind, shape, rng) for kind in KINDS])).float().view(4, 2, *shape)
    images[2] *= 0.3
    singles = torch.stack([torch.stack([equalize_adapthist(c[None, None])[0, 0] for c in i]) for i in images])
    assert torch.equal(equalize_adapthist(images), singles)
    assert torch.equal(equalize_adapthist(images.flip(0)), singles.flip(0))
    monkeypatch.setattr(clahe, "_CPU_WORK", 1)  # one image at a time
    assert torch.equal(equalize_adapthist(images), singles)


def test_input_is_left_alone_and_layout_does_not_matter(rng: np.random.Generator) -> None:
    images = torch.from_numpy(rng.random((2, 1, 40, 56))).float()
    before = images.clone()
    expected = equalize_adapthist(images)
    assert torch.equal(images, before)
    strided = images.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(equalize_adapthist(strided), expected)
    assert not equalize_adapthist(images.requires_grad_()).requires_grad


def test_plan_made_in_inference_mode_serves_later(rng: np.random.Generator) -> None:
    images = torch.from_numpy(rng.random((1, 1, 41, 57))).float()
    with torch.inference_mode():
        inside = equalize_adapthist(images)
    assert torch.equal(equalize_adapthist(images.requires_grad_()), inside)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype, rng: np.random.Generator) -> None:
    images = torch.from_numpy(rng.random((1, 1, 32, 32))).to(dtype)
    out = equalize_adapthist(images)
    assert out.dtype == torch.float32
    assert torch.equal(out, equalize_adapthist(images.float()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_on_cuda(shape: tuple[int, int], rng: np.random.Generator) -> None:
    images = torch.from_numpy(np.stack([make(kind, shape, rng) for kind in KINDS])).float()[:, None]
    torch.use_deterministic_algorithms(True)
    try:
        out = equalize_adapthist(images.cuda()).cpu()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(out, equalize_adapthist(images))


@pytest.mark.parametrize(
    ("images", "settings", "error", "words"),
    [
        (torch.zeros(1, 8, 8), {}, ImageShapeError, r"\(1, 8, 8\)"),
        (torch.zeros(0, 1, 8, 8), {}, ImageShapeError, r"\(0, 1, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8), {"kernel_size": 0}, ConfigError, "kernel_size"),
        (torch.zeros(1, 1, 8, 8), {"kernel_size": (2, 2, 2)}, ConfigError, "kernel_size"),
        (torch.zeros(1, 1, 8, 8), {"clip_limit": -0.1}, ConfigError, "clip_limit"),
        (torch.zeros(1, 1, 8, 8), {"clip_limit": float("nan")}, ConfigError, "clip_limit"),
        (torch.zeros(1, 1, 8, 8), {"nbins": 1}, ConfigError, "nbins"),
        (
            torch.zeros(1, 1, 1, 1).expand(1, 1, 2048, 2048),
            {"kernel_size": 1, "nbins": 1024},
            ConfigError,
            "tiles",
        ),
    ],
)
def test_bad_arguments_are_named(
    images: torch.Tensor, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        equalize_adapthist(images, **settings)


def test_transforms_keep_type_and_metadata(rng: np.random.Generator) -> None:
    array = rng.random((1, 40, 56), dtype=np.float32)
    expected = skimage_clahe(array[0])
    transform = EqualizeAdaptHist()
    assert isinstance(transform(array), np.ndarray)
    np.testing.assert_array_equal(transform(array)[0], expected)
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    data: dict[Hashable, Any] = {"image": MetaTensor(array, affine=affine), "score": 3}
    out = EqualizeAdaptHistd(keys=["image", "pred"], allow_missing_keys=True)(data)
    assert isinstance(out["image"], MetaTensor)
    assert torch.equal(out["image"].affine, affine)
    np.testing.assert_array_equal(out["image"].numpy()[0], expected)
    assert out["score"] == 3
    np.testing.assert_array_equal(data["image"].numpy(), array)
