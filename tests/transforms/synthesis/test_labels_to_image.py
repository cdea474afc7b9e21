"""Images from labels: against a transcription in NumPy, each artefact, and what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from robustmed_monai.transforms.params import Params, index_params
from robustmed_monai.transforms.synthesis.label_shapes import LabelShapes
from robustmed_monai.transforms.synthesis.labels_to_image import LabelsToImage
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

SIZES = [(40, 33), (20, 24, 18)]
OFF: dict[str, Any] = {
    "std": (0, 0),
    "zero_background": 0,
    "blur": 0,
    "bias_std": 0,
    "stretch": False,
    "gamma_std": 0,
}


def shapes(rows: int, size: tuple[int, ...], labels: int = 5) -> torch.Tensor:
    maker = LabelShapes(labels, scales=(8, 16))
    return maker.apply(maker.sample(rows, size, torch.Generator().manual_seed(9)), size)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transcribe(labels: NDArray[np.uint8], params: Params, row: int) -> NDArray[np.float64]:
    """Steps 3 to 9 of ``labels_to_image`` for one image, from the numbers drawn."""
    drawn = {key: value[row].double().numpy() for key, value in params.items() if key != "bias"}
    image = drawn["mean"][labels] + drawn["std"][labels] * drawn["noise"][0]
    for axis, std in enumerate(drawn["blur"]):
        kernel = np.exp(-0.5 * (np.arange(-3, 4) / std) ** 2)
        blurred = np.empty_like(image)
        for place in range(image.shape[axis]):
            near = [(place + o, w) for o, w in zip(range(-3, 4), kernel, strict=True)]
            near = [(p, w) for p, w in near if 0 <= p < image.shape[axis]]
            total = sum(w * np.take(image, p, axis) for p, w in near) / sum(w for _, w in near)
            np.moveaxis(blurred, axis, 0)[place] = total
        image = blurred
    bias = params["bias"]["grid_0"][row, 0].double().numpy()
    for axis, side in enumerate(image.shape):
        nodes = np.arange(bias.shape[axis])
        weights = np.stack(
            [np.interp(np.linspace(0, nodes[-1], side), nodes, unit) for unit in np.eye(len(nodes))]
        )
        bias = np.moveaxis(np.tensordot(weights, bias, (0, axis)), 0, axis)
    image = np.clip(image * np.exp(bias), 0, 1)
    image = (image - image.min()) / (image.max() - image.min())
    result: NDArray[np.float64] = image ** drawn["gamma"]
    return result


@pytest.mark.parametrize("size", SIZES)
def test_image_is_labels_to_images(size: tuple[int, ...]) -> None:
    labels = shapes(2, size)
    to_image = LabelsToImage(bias_scale=10)
    params = to_image.sample(4, 5, size, seeded())
    images = to_image.apply(labels, params)
    assert images.shape == (4, 1, *size)
    assert images.dtype == torch.float32
    for row in range(4):  # two contrasts of two maps
        expected = transcribe(labels[row % 2, 0].numpy(), params, row)
        np.testing.assert_allclose(images[row, 0].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("size", SIZES)
def test_batch_is_its_samples_and_apply_is_pure(size: tuple[int, ...]) -> None:
    labels = shapes(3, size)
    to_image = LabelsToImage(low_resolution=0.5)
    params = to_image.sample(3, 5, size, seeded())
    images = to_image.apply(labels, params)
    torch.testing.assert_close(to_image.apply(labels, params), images, atol=0, rtol=0)
    for row in range(3):
        one = to_image.apply(labels[row : row + 1], index_params(params, torch.tensor([row])))
        torch.testing.assert_close(one[0], images[row], atol=1e-6, rtol=0)


def test_what_is_drawn() -> None:
    params = LabelsToImage().sample(4000, 3, (4, 4), seeded())
    mean, std = params["mean"] * 255, params["std"] * 255
    assert 25 <= mean[:, 1:].min() < 26
    assert 224 < mean[:, 1:].max() <= 225
    assert 5 <= std[:, 1:].min() < 5.1
    assert 24.9 < std[:, 1:].max() <= 25
    empty = (mean[:, 0] == 0) & (std[:, 0] == 0)
    assert abs(empty.float().mean() - 0.2) < 0.02
    assert mean[~empty, 0].min() < 1
    assert mean[~empty, 0].max() > 224
    assert params["blur"].min() >= 0
    assert 0.99 < params["blur"].max() <= 1
    assert abs(params["gamma"].log().std() - 0.25) < 0.01
    assert params["bias"]["grid_0"].shape == (4000, 1, 1, 1)


def test_everything_off_leaves_flat_labels() -> None:
    labels = shapes(1, (40, 33))
    image = LabelsToImage(means=[0.1, 0.9, 0.3, 0.5, 0.7], **OFF)
    found = image.apply(labels, image.sample(1, 5, (40, 33), seeded()))
    torch.testing.assert_close(found, torch.tensor([0.1, 0.9, 0.3, 0.5, 0.7])[labels.long()])


@pytest.mark.parametrize(
    "on",
    [
        {"std": (0.05, 0.1)},
        {"zero_background": 1.0},
        {"blur": 1.0},
        {"bias_std": 0.3},
        {"stretch": True},
        {"gamma_std": 0.25},
        {"low_resolution": 1.0, "thickness": (4, 4)},
    ],
)
def test_each_artefact_has_its_switch(on: dict[str, Any]) -> None:
    labels = shapes(1, (40, 33))
    off = LabelsToImage(**OFF)
    one = LabelsToImage(**{**OFF, **on})
    flat, changed = (s.apply(labels, s.sample(1, 5, (40, 33), seeded(1))) for s in (off, one))
    assert (flat - changed).abs().max() > 0.01


def test_means_may_be_ranges_and_the_contrast_is_the_one_asked_for() -> None:
    labels = shapes(1, (40, 33), 3)
    to_image = LabelsToImage(means=[0, (0.8, 0.9), 0.3], std=(0.0, 0.01), bias_std=0, gamma_std=0)
    params = to_image.sample(50, 3, (40, 33), seeded())
    assert params["mean"][:, 1].min() >= 0.8
    assert params["mean"][:, 1].max() <= 0.9
    images = to_image.apply(labels, params)
    medians = [images[:, labels[0] == label].median() for label in range(3)]
    assert medians[0] < medians[2] < medians[1]
    with pytest.raises(ConfigError, match="3 entries"):
        to_image.sample(1, 4, (8, 8), seeded())


def test_thick_slices_are_averages_along_one_axis() -> None:
    labels = torch.arange(16, dtype=torch.uint8).view(1, 1, 16, 1).expand(1, 1, 16, 12)
    to_image = LabelsToImage(**{**OFF, "means": [k / 15 for k in range(16)], "low_resolution": 1.0})
    params = to_image.sample(1, 16, (16, 12), seeded())
    plain = to_image.apply(labels, {**params, "thickness": torch.tensor([[1.0, 5.0]])})
    torch.testing.assert_close(plain, labels / 15, atol=1e-6, rtol=0)  # constant along that axis
    thick = to_image.apply(labels, {**params, "thickness": torch.tensor([[4.0, 1.0]])})
    # A ramp stays one between the centres of the first slab and the last, and is flat beyond.
    expected = torch.arange(16.0).clamp(1.5, 13.5) / 15
    torch.testing.assert_close(thick[0, 0], expected[:, None].expand(16, 12), atol=1e-6, rtol=0)


def test_share_of_thick_slices() -> None:
    params = LabelsToImage(low_resolution=0.3, thickness=(2, 6)).sample(3000, 2, (4, 4, 4), seeded())
    thick = params["thickness"] > 1
    assert abs(thick.any(1).float().mean() - 0.3) < 0.03
    assert thick.sum(1).max() == 1
    assert (thick.float().mean(0) - 0.1).abs().max() < 0.02
    assert params["thickness"].max() <= 6


def test_a_flat_image_is_black() -> None:
    to_image = LabelsToImage(std=(0, 0), bias_std=0)
    labels = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    assert to_image.apply(labels, to_image.sample(1, 2, (8, 8), seeded())).max() < 0.01


@pytest.mark.parametrize(
    "settings",
    [
        {"mean": (0.5, 0.1)},
        {"std": (-0.1, 0.1)},
        {"thickness": (0.5, 2)},
        {"zero_background": 1.5},
        {"blur": -1.0},
        {"gamma_std": float("nan")},
        {"bias_scale": 0.0},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        LabelsToImage(**settings)


def test_labels_must_fit_the_draw() -> None:
    to_image = LabelsToImage()
    params = to_image.sample(3, 2, (8, 8), seeded())
    with pytest.raises(ImageShapeError, match="divisor"):
        to_image.apply(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), params)
    for label in (-1, 2):
        with pytest.raises(ImageShapeError, match=f"labels .*{label}.* for contrasts of labels 0 to 1"):
            to_image.apply(torch.full((1, 1, 8, 8), label), params)
