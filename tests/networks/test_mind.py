"""MIND-SSC: against a slow reading of the paper, and what it does not depend on."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from robustmed_monai.networks.mind import MINDSSC
from robustmed_monai.utils.errors import ConfigError, ImageShapeError


def slow(image: np.ndarray, radius: int, dilation: int) -> np.ndarray:
    """Voxel by voxel, neighbour by neighbour."""
    axes = image.ndim
    steps = [sign * np.eye(axes, dtype=int)[k] * dilation for k in range(axes) for sign in (-1, 1)]
    pairs = [(a, b) for a, b in combinations(steps, 2) if np.any(a + b)]
    patch = np.stack(np.meshgrid(*[range(-radius, radius + 1)] * axes, indexing="ij"), -1).reshape(-1, axes)
    last = np.array(image.shape) - 1
    found = np.zeros((len(pairs), *image.shape))
    for place in np.ndindex(*image.shape):
        for c, (a, b) in enumerate(pairs):
            values = [
                [image[tuple(np.clip(np.array(place) + p + step, 0, last))] for p in patch] for step in (a, b)
            ]
            found[(c, *place)] = np.mean((np.array(values[0]) - np.array(values[1])) ** 2)
    found -= found.min(0)
    variance = found.mean(0)
    return np.asarray(np.exp(-found / np.clip(variance, 0.001 * variance.mean(), 1000 * variance.mean())))


@pytest.mark.parametrize("shape", [(9, 8), (5, 6, 5)])
def test_is_what_the_paper_says(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    image = rng.random(shape)
    found = MINDSSC(len(shape))(torch.from_numpy(image)[None, None])[0].numpy()
    assert len(found) == {2: 4, 3: 12}[len(shape)]
    # At the border the paper does not say what lies outside; one replicates patches, the other voxels.
    inner = (slice(None), *(slice(2, -2) for _ in shape))
    np.testing.assert_allclose(found[inner], slow(image, 1, 2)[inner], rtol=0.02, atol=0.02)


def test_does_not_depend_on_contrast_nor_on_the_batch(rng: np.random.Generator) -> None:
    images = torch.from_numpy(rng.random((3, 1, 16, 12))).float()
    mind = MINDSSC(2)
    whole = mind(images)
    torch.testing.assert_close(whole, torch.cat([mind(image[None]) for image in images]))
    torch.testing.assert_close(whole, mind(0.3 * (1 - images)), rtol=1e-3, atol=1e-3)
    assert (whole <= 1).all()
    torch.testing.assert_close(whole.amax(1), torch.ones(3, 16, 12))
    assert torch.isfinite(mind(torch.zeros(1, 1, 8, 8))).all()


def test_bad_input() -> None:
    with pytest.raises(ConfigError):
        MINDSSC(radius=0)
    with pytest.raises(ImageShapeError):
        MINDSSC(2)(torch.zeros(1, 2, 8, 8))
