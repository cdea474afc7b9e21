"""Drawn marks against plain NumPy that goes from pixel to pixel, and how they follow the image's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustmed_monai.transforms.corruption.core import Corruption, corrupt
from robustmed_monai.transforms.corruption.drawn import black_corner, bubble, characters, stain_deposit
from robustmed_monai.transforms.corruption.glyphs import GLYPHS
from robustmed_monai.transforms.params import Params

GRADES: dict[str, tuple[Callable[..., Corruption], Sequence[tuple[float, ...]]]] = {
    "bubble": (bubble, ((7, 15), (10, 15), (12, 15), (15, 20), (17, 25))),
    "stain_deposit": (stain_deposit, ((1,), (2,), (3,), (4,), (5,))),
    "black_corner": (black_corner, ((1.1,), (1.05,), (1.0,), (0.95,), (0.9,))),
    "characters": (characters, ((1, 6, 0.14), (2, 7, 0.15), (3, 8, 0.16), (4, 9, 0.17), (6, 10, 0.18))),
}


def _make(name: str, grade: int) -> Corruption:
    build, levels = GRADES[name]
    return build(*levels[grade - 1])


def _images(*shape: int) -> Tensor:
    return 0.4 + 0.5 * torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def _sampled(corruption: Corruption, shape: Sequence[int], seed: int = 0) -> Params:
    return corruption.sample(shape, torch.Generator().manual_seed(seed))


def _cover(distance: float, radius: float) -> float:
    """Share of the interval of length 1 about ``distance`` that lies within -radius to radius."""
    return max(0.0, min(radius, distance + 0.5) - max(-radius, distance - 0.5))


def _centres(shape: Sequence[int]) -> list[tuple[int, int]]:
    return [(i, j) for i in range(shape[-2]) for j in range(shape[-1])]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 40, 56)], ids=str)
def test_bubbles_are_white_discs_of_alpha_04(shape: tuple[int, ...]) -> None:
    images, corruption = _images(2, *shape), bubble(17, 25)
    params = _sampled(corruption, images.shape)
    found, scale = corrupt(images, corruption, params), min(shape[1:]) / 224
    for b, (i, j) in ((b, c) for b in range(2) for c in _centres(shape)):
        cover = 0.0
        for (x, y), radius in zip(params["place"][b].tolist(), params["radius"][b].tolist(), strict=True):
            away = np.hypot(i + 0.5 - x * shape[1], j + 0.5 - y * shape[2])
            cover = max(cover, _cover(away, radius * scale))
        expected = 0.4 * cover + (1 - 0.4 * cover) * images[b, :, i, j]
        torch.testing.assert_close(found[b, :, i, j], expected, atol=1e-5, rtol=0)


def test_numbers_and_radii_of_bubbles_have_the_stated_range() -> None:
    radius = _sampled(bubble(12, 15), (2000, 1, 28, 28))["radius"]
    counts = (radius > 0).sum(1)
    assert set(counts.tolist()) == set(range(7, 16))
    assert 3 <= radius[radius > 0].min() < 3.1
    assert 11.9 < radius.max() < 12


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 48, 56)], ids=str)
def test_stains_are_ragged_blots_with_droplets(shape: tuple[int, ...]) -> None:
    images, corruption = _images(2, *shape), stain_deposit(5)
    params = _sampled(corruption, images.shape, seed=3)
    found, scale = corrupt(images, corruption, params), min(shape[1:]) / 224
    p = {key: value.numpy().astype(float) for key, value in params.items()}
    grey = np.array([[0.299, 0.587, 0.114]])
    for b, (i, j) in ((b, c) for b in range(2) for c in _centres(shape)):
        cover = 0.0
        for m in range(5):
            r = p["radius"][b, m] * scale
            x, y = i + 0.5 - p["place"][b, m, 0] * shape[1], j + 0.5 - p["place"][b, m, 1] * shape[2]
            angle, away = np.arctan2(y, x), np.hypot(x, y)
            waves = p["height"][b, m] * np.cos(np.arange(2, 8) * angle + p["phase"][b, m])
            edge = r * (1 + waves.sum())
            rim = min(away / edge, 1) ** 8 if edge else 0
            cover = max(cover, _cover(away, edge) * (0.7 + 0.25 * rim))
            for turn, reach, size in zip(p["angle"][b, m], p["distance"][b, m], p["size"][b, m], strict=True):
                drop = np.hypot(x - r * reach * np.cos(turn), y - r * reach * np.sin(turn))
                cover = max(cover, 0.9 * _cover(drop, r * size))
        ink = p["ink"][b] if shape[0] == 3 else grey @ p["ink"][b]
        expected = (1 - cover) * images[b, :, i, j].numpy() + cover * ink
        np.testing.assert_allclose(found[b, :, i, j], expected, atol=2e-4)


@pytest.mark.parametrize("side", [28, 224])
@pytest.mark.parametrize("radius", [1.1, 1.0, 0.9])
def test_black_corner_keeps_a_circle(side: int, radius: float) -> None:
    images, corruption = _images(2, 3, side, side), black_corner(radius)
    found = corrupt(images, corruption, _sampled(corruption, images.shape))
    centre = np.arange(side) - (side - 1) / 2
    kept = np.sqrt(centre[:, None] ** 2 + centre**2) <= radius * side / 2
    np.testing.assert_array_equal(found, images.numpy() * kept)
    assert kept.mean() == pytest.approx({1.1: 0.889, 1.0: np.pi / 4, 0.9: 0.81 * np.pi / 4}[radius], abs=0.02)


def test_a_word_is_made_of_the_strokes_of_its_glyphs() -> None:
    side, text = 112, "Q7"
    corruption = characters(1, 2, 0.5)
    params = _sampled(corruption, (1, 1, side, side))
    params["letters"][0, 0, :2] = torch.tensor([list(GLYPHS).index(letter) for letter in text])
    params["length"][0, 0], params["size"][0, 0], params["place"][0, 0] = 2, 0.5, torch.tensor([0.3, 0.6])
    found = corrupt(torch.ones(1, 1, side, side), corruption, params)[0, 0]
    unit = 0.7 * 0.5 * side / 6
    x0, y0 = 0.3 * (side - 2 * 6 * unit), 0.6 * (side - 6 * unit)
    cover = np.zeros((side, side))
    for i, j in _centres((side, side)):
        u, v = (i + 0.5 - x0) / unit, (j + 0.5 - y0) / unit
        if not (0 <= u < 12 and -1 <= v < 7):
            continue
        # A letter is 4 wide in the middle of 6.
        point = np.array([u % 6 - 1, v])
        distance = min(_to_segment(point, *ends) for ends in _segments(GLYPHS[text[int(u // 6)]]))
        cover[i, j] = _cover(distance * unit, 0.5 * unit)
    ink = params["ink"][0].numpy() @ np.array([0.299, 0.587, 0.114])
    # The strokes' distances are tabulated at a sixteenth of a unit, 0.4 pixels here.
    error = np.abs(found.numpy() - (1 - cover * (1 - ink)))
    assert error.max() < 0.3
    assert error.mean() < 0.005


def _segments(strokes: str) -> list[tuple[np.ndarray, np.ndarray]]:
    lines = [
        [np.array([int(a), int(b)]) for a, b in zip(s[::2], s[1::2], strict=True)] for s in strokes.split()
    ]
    return [ends for line in lines for ends in pairwise(line)]


def _to_segment(point: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    share = np.clip((point - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    return float(np.linalg.norm(point - a - share * (b - a)))


def test_glyphs_are_all_different_and_inside_their_box() -> None:
    assert len(GLYPHS) == 36
    assert len(set(GLYPHS.values())) == 36
    points = [p for strokes in GLYPHS.values() for ends in _segments(strokes) for p in ends]
    assert np.min(points, 0).tolist() == [0, 0]
    assert np.max(points, 0).tolist() == [4, 6]


def test_numbers_of_words_and_letters_have_the_stated_range() -> None:
    params = _sampled(characters(3, 8, 0.16), (2000, 1, 28, 28))
    assert set((params["length"] > 0).sum(1).tolist()) == {1, 2, 3}
    assert set(params["length"][:, 0].tolist()) == set(range(1, 9))
    assert 0.08 <= params["size"].min() < 0.082
    assert 0.158 < params["size"].max() < 0.16


@pytest.mark.parametrize("name", ["bubble", "stain_deposit", "characters"])
def test_a_small_image_gets_the_same_picture(name: str) -> None:
    corruption = _make(name, 5)
    params = _sampled(corruption, (8, 3, 224, 224))
    large = corrupt(torch.full((8, 3, 224, 224), 0.6), corruption, params)
    small = corrupt(torch.full((8, 3, 28, 28), 0.6), corruption, params)
    shrunk = F.avg_pool2d(large, 8)
    marked, marked_small = (0.6 - shrunk).flatten(), (0.6 - small).flatten()
    assert float((marked - marked_small).abs().mean()) < 0.25 * float(marked.abs().mean())
    assert float(torch.corrcoef(torch.stack([marked, marked_small]))[0, 1]) > 0.95


@pytest.mark.parametrize("name", GRADES)
def test_one_seed_distorts_more_with_severity(name: str) -> None:
    for shape in ((1, 28, 28), (3, 28, 28), (1, 112, 112), (3, 112, 112)):
        images, errors = _images(16 if shape[1] == 28 else 6, *shape), [0.0]
        for grade in range(1, 6):
            corruption = _make(name, grade)
            found = corrupt(images, corruption, _sampled(corruption, images.shape, seed=2))
            errors.append(float((found - images).square().mean()))
        assert all(a < b for a, b in pairwise(errors)), errors


@pytest.mark.parametrize("name", ["stain_deposit", "characters"])
def test_grey_images_get_the_grey_value_of_the_ink(name: str) -> None:
    corruption = _make(name, 5)
    params = _sampled(corruption, (2, 3, 56, 56))
    colour = corrupt(torch.ones(2, 3, 56, 56), corruption, params)
    grey = corrupt(torch.ones(2, 1, 56, 56), corruption, params)
    expected = torch.einsum("c,bcxy->bxy", torch.tensor([0.299, 0.587, 0.114]), colour)[:, None]
    torch.testing.assert_close(grey, expected)
