"""Artefacts of magnetic resonance against MONAI's transforms, or against their definition in NumPy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from monai.transforms import (
    GibbsNoise,
    KSpaceSpikeNoise,
    RandBiasField,
    RandRicianNoise,
    RandSimulateLowResolution,
)
from scipy import ndimage
from torch import Tensor

from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.mr import MR_ARTIFACTS, low_resolution, motion, mr_artifact, rician
from robustmed_monai.transforms.params import Params
from robustmed_monai.utils.errors import ConfigError

SHAPES = [(1, 28, 28), (3, 31, 20), (1, 16, 20, 12)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
severities = pytest.mark.parametrize("severity", [1, 5])


def _images(*shape: int) -> Tensor:
    """Noise on a bright ellipse: something with low and high frequencies and a dark border."""
    noise = torch.rand(*shape, generator=torch.Generator().manual_seed(1))
    axes = torch.meshgrid(*(torch.linspace(-1.2, 1.2, side) for side in shape[2:]), indexing="ij")
    inside = sum((axis.square() for axis in axes), torch.zeros(())) < 1
    return inside * (0.3 + 0.3 * noise)


def _sampled(corruption: Corruption, images: Tensor, seed: int = 0) -> Params:
    return corruption.sample(images.shape, torch.Generator().manual_seed(seed))


def _plain(result: object) -> Tensor:
    return torch.as_tensor(np.asarray(result))


@shapes
@severities
def test_bias_field_is_monais(shape: tuple[int, ...], severity: int) -> None:
    images, corruption = _images(3, *shape), mr_artifact("bias_field", severity)
    params = _sampled(corruption, images)
    bound = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    assert 0.8 * bound < params["coefficients"].abs().max() <= bound
    found = corruption.apply(images, params)
    for image, coefficients, result in zip(images, params["coefficients"], found, strict=True):
        bias = RandBiasField(degree=3, prob=1.0)
        bias.randomize(image.shape[1:])
        assert len(bias._coeff) == len(coefficients)
        bias._coeff = coefficients.tolist()
        torch.testing.assert_close(result, _plain(bias(image, randomize=False)), atol=1e-5, rtol=1e-5)


@shapes
@severities
def test_gibbs_is_monais(shape: tuple[int, ...], severity: int) -> None:
    images, corruption = _images(3, *shape), mr_artifact("gibbs", severity)
    found = corruption.apply(images, _sampled(corruption, images))
    monai = GibbsNoise(alpha=(0.4, 0.5, 0.6, 0.7, 0.8)[severity - 1])
    for image, result in zip(images, found, strict=True):
        torch.testing.assert_close(result, _plain(monai(image)), atol=1e-6, rtol=0)


@shapes
@severities
def test_spike_is_monais_with_the_stated_height(shape: tuple[int, ...], severity: int) -> None:
    images, corruption = _images(3, *shape), mr_artifact("spike", severity)
    params = _sampled(corruption, images)
    amplitude = (0.03, 0.06, 0.1, 0.15, 0.2)[severity - 1]
    found = corruption.apply(images, params)
    for image, place, result in zip(images, params["place"], found, strict=True):
        monai = KSpaceSpikeNoise(tuple(place.tolist()), float(np.log(amplitude * np.prod(image.shape[1:]))))
        torch.testing.assert_close(result, _plain(monai(image)), atol=1e-5, rtol=0)
        # Stripes of that height, less what the point held before.
        assert 0.5 * amplitude < (result - image).abs().max() < 1.1 * amplitude


def test_spikes_keep_off_the_centre_and_inside() -> None:
    corruption = mr_artifact("spike", 1)
    place = corruption.sample((500, 1, 28, 31), torch.Generator().manual_seed(0))["place"]
    away = (place - torch.tensor([14, 15])).float().norm(dim=1)
    assert away.min() > 2
    assert (place >= 0).all()
    assert (place < torch.tensor([28, 31])).all()


@shapes
def test_rician_is_monais(shape: tuple[int, ...]) -> None:
    images = _images(1, *shape)
    monai = RandRicianNoise(prob=1.0, std=0.08, sample_std=False)
    monai.set_random_state(seed=0)
    expected = _plain(monai(images[0].clone()))
    params = {"real": _plain(monai._noise1)[None], "imaginary": _plain(monai._noise2)[None]}
    torch.testing.assert_close(rician(0.08).apply(images, params)[0], expected, atol=1e-6, rtol=0)
    drawn = _sampled(rician(0.08), _images(20, *shape))
    for part in drawn.values():
        assert float(part.std()) == pytest.approx(0.08, rel=0.05)
    assert float((drawn["real"] * drawn["imaginary"]).mean()) == pytest.approx(0, abs=3e-4)


@shapes
@severities
def test_low_resolution_is_monais(shape: tuple[int, ...], severity: int) -> None:
    images, corruption = _images(2, *shape), mr_artifact("low_resolution", severity)
    zoom = (0.8, 0.6, 0.45, 0.35, 0.25)[severity - 1]
    monai = RandSimulateLowResolution(
        prob=1.0,
        downsample_mode="area",
        upsample_mode="bilinear" if len(shape) == 3 else "trilinear",
        zoom_range=(zoom, zoom),
    )
    found = corruption.apply(images, _sampled(corruption, images))
    for image, result in zip(images, found, strict=True):
        torch.testing.assert_close(result, _plain(monai(image)), atol=1e-6, rtol=0)
    assert torch.equal(low_resolution(1.0).apply(images, {}), images)


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 24, 31), (1, 20, 24, 5)], ids=str)
def test_motion_is_a_patchwork_of_lines_in_k_space(shape: tuple[int, ...]) -> None:
    images, corruption = _images(4, *shape), motion(4.0, 0.06)
    params = _sampled(corruption, images)
    found = corruption.apply(images, params)
    for image, moves, pose, result in zip(
        images.numpy(), params["moves"], params["pose"], found, strict=True
    ):
        assert moves[pose[shape[2] // 2]].eq(0).all(), "the head moved at the centre of k-space"
        assert pose.diff().min() >= 0
        spectrum = np.zeros(image.shape, complex)
        for k, (degrees, *shift) in enumerate(moves.tolist()):
            moved = _moved(image, np.deg2rad(degrees), np.array(shift) * shape[1:3])
            lines = np.fft.fftshift(np.fft.fftn(moved, axes=range(1, image.ndim)), axes=2)
            spectrum[:, :, pose == k] = lines[:, :, pose == k]
        expected = np.abs(np.fft.ifftn(np.fft.ifftshift(spectrum, axes=2), axes=range(1, image.ndim)))
        np.testing.assert_allclose(result, expected, atol=2e-4)


def _moved(image: np.ndarray, angle: float, shift: np.ndarray) -> np.ndarray:
    """Rotate from the first axis to the second, then shift, by SciPy, plane by plane."""
    planes = np.moveaxis(image, (1, 2), (-2, -1))
    centre = (np.array(planes.shape[-2:]) - 1) / 2
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    offset = centre - back @ (centre + shift)
    moved = [
        ndimage.affine_transform(plane, back, offset, order=1, mode="grid-constant")
        for plane in planes.reshape(-1, *planes.shape[-2:])
    ]
    return np.moveaxis(np.stack(moved).reshape(planes.shape), (-2, -1), (1, 2))


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 24, 31), (1, 20, 24, 5)], ids=str)
@severities
def test_ghosting_weakens_every_nth_line_but_the_central_one(shape: tuple[int, ...], severity: int) -> None:
    images, corruption = _images(8, *shape), mr_artifact("ghosting", severity)
    params = _sampled(corruption, images)
    assert params["ghosts"].min() >= 2
    assert params["ghosts"].max() <= 6
    found = corruption.apply(images, params)
    for image, ghosts, result in zip(images.numpy(), params["ghosts"].tolist(), found, strict=True):
        lines = np.fft.fftshift(np.fft.fft(image, axis=2), axes=2)
        for line in range(shape[2]):
            if (line - shape[2] // 2) % ghosts == 0 and line != shape[2] // 2:
                lines[:, :, line] *= 1 - (0.2, 0.4, 0.6, 0.8, 1.0)[severity - 1]
        expected = np.abs(np.fft.ifft(np.fft.ifftshift(lines, axes=2), axis=2))
        np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("name", MR_ARTIFACTS)
def test_one_seed_distorts_more_with_severity_and_not_at_all_at_0(name: str) -> None:
    for shape in ((1, 28, 28), (3, 28, 28), (1, 112, 112), (1, 24, 24, 8)):
        images = _images(6, *shape)
        errors = []
        for severity in range(6):
            corruption = mr_artifact(name, severity)
            found = corrupt(images, corruption, _sampled(corruption, images, seed=3))
            errors.append(float((found - images).square().mean()))
        assert errors[0] == 0
        assert all(a < b for a, b in pairwise(errors)), errors


def test_unknown_names_and_severities_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'gibs' is not one of .* Did you mean 'gibbs'"):
        mr_artifact("gibs", 1)
    with pytest.raises(ConfigError, match="severity -1"):
        mr_artifact("gibbs", -1)
