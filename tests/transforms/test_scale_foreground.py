"""Intensities of an image to [0, 1] and back."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from robustmed_monai.transforms.scale_foreground import (
    IntensityWarning,
    ScaleForeground,
    ScaleForegroundd,
    UnscaleIntensityd,
)
from robustmed_monai.utils.errors import ConfigError


def ramp() -> Any:
    values = torch.zeros(1, 10, 10, 20)
    values[..., 10:] = torch.arange(1.0, 1001.0).reshape(10, 10, 10)
    return MetaTensor(values)


def test_the_percentile_is_that_of_the_foreground() -> None:
    scaled: Any = ScaleForeground()(ramp())
    # The darkest tenth is air.
    top = np.percentile(np.arange(100, 1001), 99.5)
    assert scaled.meta["scaled_high"] == pytest.approx(top)
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert scaled.flatten().sort().values[1000 + 99] == pytest.approx(100 / top)


def test_there_and_back_is_exact_below_the_top() -> None:
    image = ramp()
    data = ScaleForegroundd("image")({"image": image})
    back = UnscaleIntensityd("pred", "image")({**data, "pred": data["image"]})["pred"]
    below = image < data["image"].meta["scaled_high"]
    torch.testing.assert_close(back[below], image[below])
    difference = UnscaleIntensityd("pred", "image", shift=False)({**data, "pred": data["image"] * 0})["pred"]
    assert not difference.any()


def test_a_window_and_the_white_of_a_picture() -> None:
    windowed = ScaleForeground(low=100, high=200)(ramp())
    assert windowed[windowed > 0].min() == pytest.approx(0.01)
    picture = MetaTensor(torch.full((1, 4, 4), 51.0), meta={"max_value": 255.0})
    assert ScaleForeground(max_value=True)(picture).max() == pytest.approx(0.2)
    volume = MetaTensor(torch.full((1, 4, 4), 51.0), meta={"max_value": None})
    assert ScaleForeground(max_value=True)(volume).max() == 1


def test_noisy_air_around_the_head_does_not_count(rng: np.random.Generator) -> None:
    head = np.zeros((40, 40, 40), np.float32)
    head[5:35, 5:35, 5:35] = rng.uniform(0.3, 1.0, (30, 30, 30))
    alone: Any = ScaleForeground()(MetaTensor(head))
    wide = np.pad(head, 20)
    noise = np.hypot(*rng.normal(0, 0.02, (2, *wide.shape)))
    noisy: Any = ScaleForeground()(MetaTensor(np.where(wide > 0, wide, noise).astype(np.float32)))
    assert noisy.meta["scaled_high"] == pytest.approx(alone.meta["scaled_high"], rel=1e-3)


@pytest.mark.parametrize("factor", [1e-3, 1.0, 4096.0])
def test_the_unit_of_the_scanner_does_not_count(factor: float) -> None:
    one, two = ScaleForeground()(ramp() * factor), ScaleForeground()(ramp())
    assert (one - two).abs().max() < 1e-6


@pytest.mark.parametrize("shift", [-3.0, -1000.0])
def test_images_with_negative_values_are_scaled_as_they_are(shift: float) -> None:
    """z-scores and CT give what the same image above 0 gives; its zeros, where they are air, stay 0."""
    head = ramp() + 0.01
    with pytest.warns(IntensityWarning, match="as in normalised images and CT"):
        signed = ScaleForeground(100)(head + shift * head.max())
    assert (signed - ScaleForeground(100)(head)).abs().max() < 0.02
    z_scores = torch.where(head > 0.2 * head.max(), (head - head.mean()) / head.std(), torch.zeros(()))
    with pytest.warns(IntensityWarning, match="scaled from"):
        scaled = ScaleForeground()(z_scores)
    inside = z_scores != 0
    assert not scaled[~inside].any()
    order = z_scores[inside].argsort()
    assert (scaled[inside][order].diff() >= 0).all()
    assert scaled[inside].unique().numel() > 0.9 * z_scores[inside].unique().numel()


def test_empty_images_and_negative_ones_warn() -> None:
    with pytest.warns(IntensityWarning, match="the image is empty"):
        assert not ScaleForeground()(torch.zeros(1, 4, 4)).any()
    with pytest.warns(IntensityWarning, match=r"50 % of the voxels lie below 0 \(down to -2\)"):
        ScaleForeground()(torch.tensor([[[-2.0, -1.0, 1.0, 2.0]]]))


@pytest.mark.parametrize("shift", [0.0, -700.0])
def test_scaled_twice_is_scaled_once(shift: float) -> None:
    """The meta data stay in the intensities of the file, and so does the white of a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IntensityWarning)
        whole = ScaleForegroundd("image", 100)({"image": ramp() + shift})
        again = ScaleForegroundd("image", 90)(whole)
        once = ScaleForegroundd("image", 90)({"image": ramp() + shift})
    torch.testing.assert_close(again["image"], once["image"], atol=2e-3, rtol=0)
    back = UnscaleIntensityd("pred", "image")({**again, "pred": again["image"]})["pred"]
    kept = (again["image"] > 0) & (again["image"] < 1)
    torch.testing.assert_close(back[kept], (ramp() + shift)[kept], atol=1e-3, rtol=1e-5)


def test_the_white_of_a_picture_outlives_another_scaling() -> None:
    picture = MetaTensor(torch.full((1, 4, 4), 51.0), meta={"max_value": 255.0})
    twice = ScaleForeground(max_value=True)(ScaleForeground(100)(picture))
    assert twice.max() == pytest.approx(0.2)


def test_what_another_transform_emptied_does_not_warn_again() -> None:
    scaled = ScaleForeground()(ramp())
    assert not ScaleForeground()(scaled * 0).any()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="percentile is 0"):
        ScaleForeground(percentile=0)
    with pytest.raises(ConfigError, match="high must be larger"):
        ScaleForeground(low=2, high=1)
    with pytest.raises(ConfigError, match="was not scaled"):
        UnscaleIntensityd("pred", "image")({"pred": torch.ones(1, 2), "image": ramp()})


def test_the_dark_of_a_picture_counts() -> None:
    values = torch.cat([torch.full((1000,), 5.0), torch.arange(200.0, 1200.0)])[None]
    named = {name: MetaTensor(values, meta={"filename_or_obj": f"a/x.{name}"}) for name in ("png", "nii")}
    tops = {name: ScaleForeground(99.0)(image).meta["scaled_high"] for name, image in named.items()}  # type: ignore[attr-defined]
    assert tops["png"] == pytest.approx(np.percentile(values, 99))
    assert tops["nii"] == pytest.approx(np.percentile(values[values > 5], 99))
