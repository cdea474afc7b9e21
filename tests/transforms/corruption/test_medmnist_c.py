"""MedMNIST-C's functions against a transcription of its definition in NumPy, SciPy or PIL."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy import ndimage, stats
from skimage.color import hsv2rgb, rgb2hsv
from torch import Tensor
from torch.nn import functional as F

from robustmed_monai.transforms.corruption import drawn
from robustmed_monai.transforms.corruption.core import Corruption, corrupt, identity
from robustmed_monai.transforms.corruption.medmnist_c import MEDMNIST_C, medmnist_c
from robustmed_monai.transforms.corruption.medmnist_c_tables import COLOUR, TABLES
from robustmed_monai.transforms.params import Params
from robustmed_monai.utils.errors import ConfigError

# The package exports the function of the same name.
module: Any = importlib.import_module("robustmed_monai.transforms.corruption.medmnist_c")
Array = np.ndarray[Any, np.dtype[Any]]  # one image, (X, Y, C)
# One data set for each row of each table.
ROWS = [(f"{row.split()[0]}mnist", name) for name, rows in TABLES.items() for row in rows]
SIDE = 44  # more than the 41 pixels of the longest motion


def _images(dataset: str, rows: int, side: int, edges: float = 0.3) -> Tensor:
    """Smooth patches and edges of 8-bit values."""
    channels = 3 if dataset.removesuffix("mnist") in COLOUR else 1
    generator = torch.Generator().manual_seed(4)
    coarse = torch.rand(rows, channels, 6, 6, generator=generator)
    smooth = F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    patches = F.interpolate(coarse.flip(0), (side, side), mode="nearest")
    return (torch.lerp(smooth, patches, edges) * 255).round() / 255


def _sampled(corruption: Corruption, images: Tensor, seed: int = 0) -> Params:
    return corruption.sample(images.shape, torch.Generator().manual_seed(seed))


def _pil(image: Array) -> Image.Image:
    """As RGB, which is what MedMNIST-C corrupts, grey images too."""
    return Image.fromarray(np.rint(np.repeat(image, 4 - image.shape[2], 2)[..., :3] * 255).astype(np.uint8))


def _back(image: Image.Image, like: Array) -> Array:
    return np.asarray(image.convert("RGB"), float)[..., : like.shape[2]] / 255


def _pixelate(x: Array, level: Any, p: Any, seed: int) -> Array:
    small = _pil(x).resize([int(side * level) for side in _pil(x).size], Image.Resampling.BOX)
    return _back(small.resize(_pil(x).size, Image.Resampling.BOX), x)


def _jpeg(x: Array, level: Any, p: Any, seed: int) -> Array:
    file = io.BytesIO()
    # PIL's rows are the Y axis, which decides where colour is halved.
    _pil(x.transpose(1, 0, 2)).save(file, "JPEG", quality=level)
    return _back(Image.open(file), x).transpose(1, 0, 2)


def _brightness(x: Array, level: Any, p: Any, seed: int) -> Array:
    return _back(ImageEnhance.Brightness(_pil(x)).enhance(level), x)


def _contrast(x: Array, level: Any, p: Any, seed: int) -> Array:
    return _back(ImageEnhance.Contrast(_pil(x)).enhance(level), x)


def _gamma(x: Array, level: Any, p: Any, seed: int) -> Array:
    return np.asarray(x**level)


def _saturate(x: Array, level: Any, p: Any, seed: int) -> Array:
    hsv = rgb2hsv(x)
    hsv[..., 1] = np.clip(hsv[..., 1] + level, 0, 1)
    return np.asarray(hsv2rgb(hsv))


def _through_rgb(x: Array, corrupted: Callable[[Array], Array]) -> Array:
    if x.shape[2] == 3:
        return corrupted(x)
    rgb = np.clip(corrupted(np.repeat(x, 3, 2)), 0, 1)
    return np.asarray(rgb @ np.array([0.299, 0.587, 0.114]))[..., None]


def _gaussian_noise(x: Array, level: Any, p: Any, seed: int) -> Array:
    assert p["noise"].std() == pytest.approx(level, rel=0.03)
    return _through_rgb(x, lambda rgb: rgb + p["noise"])


def _speckle(x: Array, level: Any, p: Any, seed: int) -> Array:
    assert p["noise"].std() == pytest.approx(level, rel=0.03)
    return _through_rgb(x, lambda rgb: rgb + rgb * p["noise"])


def _impulse(x: Array, level: Any, p: Any, seed: int) -> Array:
    def corrupted(rgb: Array) -> Array:
        return np.where(p["u"] < level / 2, 0, np.where(p["u"] >= 1 - level / 2, 1, rgb))

    return _through_rgb(x, corrupted)


def _shot(x: Array, level: Any, p: Any, seed: int) -> Array:
    return _through_rgb(x, lambda rgb: np.maximum(stats.poisson.ppf(p["u"], rgb * level), 0) / level)


def _defocus(x: Array, level: Any, p: Any, seed: int) -> Array:
    radius, alias = level
    at = np.arange(-8, 9)
    disc = (at[:, None] ** 2 + at**2 <= radius**2).astype(float)
    soft = np.exp(-0.5 * (np.arange(-1, 2) / alias) ** 2)
    disc /= disc.sum()
    for axis in (0, 1):
        disc = ndimage.correlate1d(disc, soft / soft.sum(), axis, mode="mirror")
    return np.asarray(np.stack([ndimage.correlate(c, disc, mode="mirror") for c in np.moveaxis(x, 2, 0)], 2))


def _motion(x: Array, level: Any, p: Any, seed: int) -> Array:
    radius, sigma = level
    angle = math.radians(-45 + 90 * float(torch.rand(1, generator=torch.Generator().manual_seed(seed))))
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    result = np.zeros_like(x)
    for tap, weight in enumerate(weights / weights.sum()):
        dx, dy = math.ceil(tap * math.cos(angle) - 0.5), math.ceil(tap * math.sin(angle) - 0.5)
        rows, columns = np.arange(x.shape[0]) + dx, np.arange(x.shape[1]) + dy
        result += weight * x[rows.clip(0, len(x) - 1)][:, columns.clip(0, x.shape[1] - 1)]
    return result


def _zoom(x: Array, level: Any, p: Any, seed: int) -> Array:
    layers = [x]
    for factor in np.arange(1, *level):
        part = math.ceil(len(x) / factor)
        first = (len(x) - part) // 2
        cut = x[first : first + part, first : first + part]
        layers.append(ndimage.zoom(cut, (factor, factor, 1), order=1)[: len(x), : len(x)])
    return np.asarray(np.mean(layers, 0))


def _gaussian_blur(x: Array, level: Any, p: Any, seed: int) -> Array:
    kernel = np.exp(-0.5 * ((np.arange(level) - level // 2) / (0.3 * ((level - 1) / 2 - 1) + 0.8)) ** 2)
    for axis in (0, 1):
        x = ndimage.correlate1d(x, kernel / kernel.sum(), axis, mode="mirror")
    return x


# Definition, and the largest error of a pixel, which is PIL's rounding where PIL is asked.
ORACLES: dict[str, tuple[Callable[[Array, Any, Any, int], Array], float]] = {
    "pixelate": (_pixelate, 1.1 / 255),
    "jpeg_compression": (_jpeg, 1e-6),
    "gaussian_noise": (_gaussian_noise, 1e-6),
    "speckle_noise": (_speckle, 1e-6),
    "impulse_noise": (_impulse, 1e-6),
    "shot_noise": (_shot, 1e-5),
    "defocus_blur": (_defocus, 1e-5),
    "motion_blur": (_motion, 1e-5),
    "zoom_blur": (_zoom, 1e-5),
    "gaussian_blur": (_gaussian_blur, 1e-5),
    "brightness_up": (_brightness, 1.1 / 255),
    "brightness_down": (_brightness, 1.1 / 255),
    "contrast_up": (_contrast, 1.1 / 255),
    "contrast_down": (_contrast, 1.1 / 255),
    "gamma_corr_up": (_gamma, 1e-6),
    "gamma_corr_down": (_gamma, 1e-6),
    "saturate": (_saturate, 1e-5),
}
# Their definitions are transcribed in test_drawn.
DRAWN = ("stain_deposit", "bubble", "black_corner", "characters")


def _level(dataset: str, name: str, severity: int) -> Any:
    short = dataset.removesuffix("mnist")
    (levels,) = [levels for row, levels in TABLES[name].items() if short in row.split()]
    return levels[severity - 1]


@pytest.mark.parametrize("name", TABLES)
def test_each_function_does_what_its_definition_says(name: str) -> None:
    # The colour data sets come first in the tables, the grey ones last: both are tried.
    datasets = [dataset for dataset, names in MEDMNIST_C.items() if name in names]
    for dataset in (datasets[0], datasets[-1]):
        for severity in (1, 5):
            _check(dataset, name, severity)


def _check(dataset: str, name: str, severity: int) -> None:
    images, level = _images(dataset, 1, SIDE), _level(dataset, name, severity)
    corruption = medmnist_c(dataset, name, severity, scale=False)
    params = _sampled(corruption, images, seed=severity)
    found = corrupt(images, corruption, params)
    if name in DRAWN:
        same = getattr(drawn, name)(*(level if isinstance(level, tuple) else (level,)))
        assert torch.equal(found, corrupt(images, same, _sampled(same, images, seed=severity)))
        return
    oracle, tolerance = ORACLES[name]
    plain = {key: value[0].double().numpy() for key, value in params.items()}
    plain = {key: np.moveaxis(value, 0, -1) if value.ndim == 3 else value for key, value in plain.items()}
    expected = oracle(np.moveaxis(images[0].double().numpy(), 0, 2), level, plain, severity)
    np.testing.assert_allclose(np.moveaxis(found[0].numpy(), 0, 2), expected.clip(0, 1), atol=tolerance)


def test_every_entry_is_made_with_its_own_level(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def record(*level: Any, **_: Any) -> Corruption:
        asked.append(level)
        return identity()

    for functions in (module._KERNELS, module._OTHERS):
        for name in functions:
            monkeypatch.setitem(functions, name, record)
    entries = [(d, name, k) for d, names in MEDMNIST_C.items() for name in names for k in range(1, 6)]
    for entry in entries:
        assert medmnist_c(*entry).name == entry[1]
    levels = [_level(*entry) for entry in entries]
    assert asked == [level if isinstance(level, tuple) else (level,) for level in levels]


def test_the_registry_has_its_published_size() -> None:
    counts = {dataset.removesuffix("mnist"): len(names) for dataset, names in MEDMNIST_C.items()}
    few = {"path": 11, "blood": 11, "derma": 15, "retina": 8, "tissue": 8, "oct": 6, "breast": 7}
    assert counts == {**few, **dict.fromkeys(("chest", "pneumonia", "organa", "organc", "organs"), 13)}
    assert sum(counts.values()) == 131
    assert set(TABLES) == {*ORACLES, *DRAWN}
    # The figures as they were transcribed from the published registry.
    digest = hashlib.sha256(json.dumps(TABLES, sort_keys=True).encode()).hexdigest()
    assert digest.startswith("61ec03fb378c5ae5")


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur", "gaussian_blur"])
def test_the_published_figures_are_for_224_pixels(name: str) -> None:
    dataset = next(dataset for dataset, names in MEDMNIST_C.items() if name in names)
    images = _images(dataset, 2, 224)
    scaled, plain = medmnist_c(dataset, name, 4), medmnist_c(dataset, name, 4, scale=False)
    assert torch.equal(
        corrupt(images, scaled, _sampled(scaled, images)), corrupt(images, plain, _sampled(plain, images))
    )


@pytest.mark.parametrize(
    ("dataset", "name"), [("dermamnist", "defocus_blur"), ("tissuemnist", "gaussian_blur")], ids=str
)
@pytest.mark.parametrize("severity", [1, 5])
def test_a_small_image_is_blurred_as_its_enlargement_is(dataset: str, name: str, severity: int) -> None:
    small, corruption = _images(dataset, 2, 28), medmnist_c(dataset, name, severity)
    large = small.repeat_interleave(8, 2).repeat_interleave(8, 3)
    expected = F.avg_pool2d(corrupt(large, corruption, _sampled(corruption, large)), 8)
    found = corrupt(small, corruption, _sampled(corruption, small))
    inside = slice(3, -3)  # the mirror at the border stands at another place
    torch.testing.assert_close(found[..., inside, inside], expected[..., inside, inside], atol=2e-5, rtol=0)


def test_motion_is_shorter_in_a_small_image() -> None:
    images = torch.zeros(1, 3, 28, 28)
    images[..., 14, 14] = 1
    reach = {}
    for scale in (True, False):
        corruption = medmnist_c("pathmnist", "motion_blur", 5, scale=scale)
        found = corrupt(images, corruption, _sampled(corruption, images))
        reach[scale] = int((found[0, 0] > 1e-6).any(1).sum())
    assert reach[True] <= 5
    assert reach[False] > 10


def test_noise_in_a_grey_image_is_that_of_three_channels() -> None:
    images = torch.full((20, 1, 28, 28), 0.5)
    corruption = medmnist_c("pneumoniamnist", "gaussian_noise", 5)
    found = corrupt(images, corruption, _sampled(corruption, images))
    expected = 0.08 * math.sqrt(0.299**2 + 0.587**2 + 0.114**2)
    assert float((found - images).std()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("side", [28, 112])
def test_one_seed_distorts_more_with_severity(side: int) -> None:
    for dataset, name in ROWS:
        # Without edges: pixelation likes or dislikes them according to where its own grid lies.
        images, errors = _images(dataset, 8 if side == 28 else 1, side, edges=0.0), []
        for severity in range(6):
            corruption = medmnist_c(dataset, name, severity)
            found = corrupt(images, corruption, _sampled(corruption, images, seed=6))
            errors.append(float((found - images).square().mean()))
        assert errors[0] == 0
        assert _rises(errors, dataset, name, side), (dataset, name, errors)


def _rises(errors: list[float], dataset: str, name: str, side: int) -> bool:
    steps = np.diff(errors)
    if name == "black_corner":  # as published: the circles of severities 4 and 5 are the wrong way round
        return bool((np.sign(steps) == [1, 1, 1, 1, -1]).all())
    if (dataset, name) == ("bloodmnist", "stain_deposit"):  # the third level is published three times
        return bool(steps[0] > 0 and (steps[3:] == 0).all() and (steps >= 0).all())
    if name == "pixelate" and side == 28:  # shares that divide 28 leave less of a trace than their neighbours
        return errors[0] < min(errors[1:]) and errors[1] < errors[5]
    if name in ("stain_deposit", "bubble", "characters"):  # numbers of marks, which may stay for a step
        return bool(steps[0] > 0 and (steps >= 0).all())
    return bool((steps > 0).all())


def test_unknown_names_and_severities_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'pneumonia' is not one of .* Did you mean 'pneumoniamnist'"):
        medmnist_c("pneumonia", "pixelate", 1)
    with pytest.raises(ConfigError, match="'bubbles' is not one of MedMNIST-C's corruptions of bloodmnist"):
        medmnist_c("bloodmnist", "bubbles", 1)
    with pytest.raises(ConfigError, match="severity 7"):
        medmnist_c("bloodmnist", "bubble", 7)
