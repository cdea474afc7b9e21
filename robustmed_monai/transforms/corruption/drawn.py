"""Marks drawn over an image: bubbles, stain deposits, a black corner, and letters.

Lengths are in pixels of an image whose shorter side has 224; images of another size get the same picture,
larger or smaller, with edges smoothed over one pixel. Whatever the severity, the same numbers are drawn, so
one seed puts the same marks in the same places and a higher severity adds to them.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from itertools import pairwise

import torch
from torch import Tensor

from robustmed_monai.transforms.corruption.core import Corruption, sample_constants
from robustmed_monai.transforms.corruption.glyphs import GLYPHS
from robustmed_monai.transforms.corruption.tone import grey
from robustmed_monai.transforms.params import Params, Shape, per_image

SIDE = 224  # pixels of the side that all lengths refer to
_BUBBLES, _FEWEST_BUBBLES, _SMALLEST_BUBBLE, _BUBBLE_ALPHA = 25, 7, 3.0, 0.4
_STAINS, _HARMONICS, _SPLASHES = 5, 6, 4
_WORDS, _LETTERS = 6, 10
_ADVANCE, _MARGIN, _TEXELS = 6, 1, 16  # width of a letter and its gap, border of a texture, texels of a unit
_CAPITAL, _PEN = 6, 0.5  # height of a capital and half the width of a stroke, in units of the glyphs


def bubble(max_radius: float, max_count: int) -> Corruption:
    """Lay white translucent discs (alpha 0.4) over the image: air bubbles under the cover slip.

    Args:
        max_radius: radii are uniform between 3 pixels and this.
        max_count: the number of discs is uniform between 7 and this, 25 at most.

    Source: MedMNIST-C's bubble (Di Salvo et al., 2024).
    """
    return Corruption("bubble", partial(_sample_bubbles, max_radius, max_count), _bubbles)


def _sample_bubbles(max_radius: float, max_count: int, shape: Shape, generator: torch.Generator) -> Params:
    u = torch.rand(shape[0], _BUBBLES, 3, generator=generator)
    wanted = _count(_FEWEST_BUBBLES, max_count, shape[0], generator)
    radius = _SMALLEST_BUBBLE + (max_radius - _SMALLEST_BUBBLE) * u[:, :, 2]
    return {"place": u[:, :, :2], "radius": radius.where(torch.arange(_BUBBLES) < wanted[:, None], 0.0)}


def _bubbles(images: Tensor, params: Params) -> Tensor:
    scale = min(images.shape[2:]) / SIDE
    cover = images.new_zeros(len(images), 1, *images.shape[2:])
    for place, radius in zip(params["place"].unbind(1), params["radius"].unbind(1), strict=True):
        x, y = _offsets(images, place)
        cover = torch.maximum(cover, _cover(torch.hypot(x, y), per_image(radius * scale, images)))
    return images + _BUBBLE_ALPHA * cover * (1 - images)


def stain_deposit(max_count: int) -> Corruption:
    """Splash dried dye over the image: dark blots with a ragged edge, a darker rim, and droplets around.

    The blots are made up here from circles with random harmonics; MedMNIST-C pastes photographed ink instead.

    Args:
        max_count: the number of blots is uniform between 1 and this, 5 at most.
    """
    return Corruption("stain_deposit", partial(_sample_stains, max_count), _stains)


def _sample_stains(max_count: int, shape: Shape, generator: torch.Generator) -> Params:
    rows = shape[0]
    u = torch.rand(rows, _STAINS, 3, generator=generator)
    waves = torch.rand(rows, _STAINS, _HARMONICS, 2, generator=generator)
    splashes = torch.rand(rows, _STAINS, _SPLASHES, 3, generator=generator)
    ink = torch.rand(rows, 3, generator=generator)
    wanted = _count(1, max_count, rows, generator)
    radius = 10 + 14 * u[:, :, 2]
    return {
        "place": u[:, :, :2],
        "radius": radius.where(torch.arange(_STAINS) < wanted[:, None], 0.0),
        "height": 0.3 * waves[..., 0] / torch.arange(2, _HARMONICS + 2),
        "phase": 2 * math.pi * waves[..., 1],
        "angle": 2 * math.pi * splashes[..., 0],
        "distance": 1.3 + 0.8 * splashes[..., 1],
        "size": 0.06 + 0.14 * splashes[..., 2].square(),
        # Dyes of histology, from blue-black to violet.
        "ink": torch.tensor([0.08, 0.04, 0.2]) + torch.tensor([0.3, 0.1, 0.25]) * ink,
    }


def _stains(images: Tensor, params: Params) -> Tensor:
    cover = images.new_zeros(len(images), 1, *images.shape[2:])
    for k in range(_STAINS):
        mark = {key: value[:, k] for key, value in params.items() if key != "ink"}
        cover = torch.maximum(cover, _blot(images, mark))
    return images + cover * (_colour(params["ink"], images) - images)


def _blot(images: Tensor, mark: dict[str, Tensor]) -> Tensor:
    """Opacity (B, 1, X, Y) of one blot and its droplets."""
    x, y = _offsets(images, mark["place"])
    radius = per_image(mark["radius"] * (min(images.shape[2:]) / SIDE), images)
    distance = torch.hypot(x, y)
    cos, sin = x / distance.clamp_min(1e-6), y / distance.clamp_min(1e-6)
    edge, wave_cos, wave_sin = radius, cos, sin
    for k in range(_HARMONICS):
        # Cosine and sine of ever higher multiples of the angle, from 2 on.
        wave_cos, wave_sin = wave_cos * cos - wave_sin * sin, wave_sin * cos + wave_cos * sin
        height, phase = per_image(mark["height"][:, k], images), per_image(mark["phase"][:, k], images)
        edge = edge + radius * height * (wave_cos * phase.cos() - wave_sin * phase.sin())
    rim = (distance / edge.clamp_min(1e-6)).clamp(0, 1).square().square().square()
    opacity = _cover(distance, edge) * (0.7 + 0.25 * rim)
    for k in range(_SPLASHES):
        turn, reach = (
            per_image(mark["angle"][:, k], images),
            radius * per_image(mark["distance"][:, k], images),
        )
        away = torch.hypot(x - reach * turn.cos(), y - reach * turn.sin())
        opacity = torch.maximum(opacity, 0.9 * _cover(away, radius * per_image(mark["size"][:, k], images)))
    return opacity


def black_corner(radius: float) -> Corruption:
    """Black out what lies outside a circle about the centre: the tube of a dermatoscope. Nothing is random.

    Args:
        radius: radius of the circle, in halves of the shorter side.
    """
    return Corruption("black_corner", partial(sample_constants, {"radius": radius}), _corner)


def _corner(images: Tensor, params: Params) -> Tensor:
    x, y = _offsets(images, images.new_full((len(images), 2), 0.5))
    radius = per_image(params["radius"] * (min(images.shape[2:]) / 2), images)
    return images.masked_fill(torch.hypot(x, y) > radius, 0.0)


def characters(max_words: int, max_letters: int, max_size: float) -> Corruption:
    """Write dark words of capital letters and digits over the image.

    Args:
        max_words: the number of words is uniform between 1 and this, 6 at most.
        max_letters: the number of letters of a word likewise, 10 at most.
        max_size: font sizes are uniform between half of this and this, as a share of the shorter side; a
            capital is 0.7 of the font size high.
    """
    return Corruption("characters", partial(_sample_words, max_words, max_letters, max_size), _words)


def _sample_words(
    max_words: int, max_letters: int, max_size: float, shape: Shape, generator: torch.Generator
) -> Params:
    rows = shape[0]
    u = torch.rand(rows, _WORDS, 4, generator=generator)
    letters = torch.randint(len(GLYPHS), (rows, _WORDS, _LETTERS), generator=generator)
    ink = torch.rand(rows, 3, generator=generator)
    wanted = _count(1, max_words, rows, generator)
    length = (1 + (u[:, :, 3] * max_letters).long()).clamp_max(max_letters)
    return {
        "place": u[:, :, :2],
        "size": max_size * (0.5 + 0.5 * u[:, :, 2]),
        "length": length.where(torch.arange(_WORDS) < wanted[:, None], 0),
        "letters": letters,
        "ink": 0.25 * ink,
    }


def _words(images: Tensor, params: Params) -> Tensor:
    cover = images.new_zeros(len(images), 1, *images.shape[2:])
    for k in range(_WORDS):
        word = {key: value[:, k] for key, value in params.items() if key != "ink"}
        cover = torch.maximum(cover, _word(images, word))
    return images + cover * (_colour(params["ink"], images) - images)


def _word(images: Tensor, word: dict[str, Tensor]) -> Tensor:
    """Opacity (B, 1, X, Y) of one word."""
    atlas = _glyph_distances().to(images.device)
    sides = images.new_tensor(images.shape[2:])
    unit = (0.7 * min(images.shape[2:]) / _CAPITAL) * word["size"].to(images.dtype)  # pixels
    extent = torch.stack([_ADVANCE * word["length"] * unit, _CAPITAL * unit], 1)
    start = word["place"].to(images.dtype) * (sides - extent).clamp_min(0)  # inside as far as it fits
    x, y = _positions(images)
    u = (x - per_image(start[:, 0], images)) / per_image(unit, images)
    v = (y - per_image(start[:, 1], images)) / per_image(unit, images)
    index = (u / _ADVANCE).floor().long()
    inside = (
        (index >= 0) & (index < word["length"].view(-1, 1, 1, 1)) & (v >= -_MARGIN) & (v < _CAPITAL + _MARGIN)
    )
    column = ((u - _ADVANCE * index) * _TEXELS).long().clamp(0, _ADVANCE * _TEXELS - 1)
    row = ((v + _MARGIN) * _TEXELS).long().clamp(0, atlas.shape[2] - 1)
    line = torch.arange(len(images), device=images.device).view(-1, 1, 1, 1)
    glyph = word["letters"][line, index.clamp(0, _LETTERS - 1)]
    distance = atlas[glyph, column, row].to(images.dtype) * per_image(unit, images)
    return _cover(distance, per_image(_PEN * unit, images)) * inside


@lru_cache(maxsize=1)
def _glyph_distances() -> Tensor:
    """Distances to the strokes in units of the glyphs: (glyph, x, y), a letter being centred in its width."""
    x = (torch.arange(_ADVANCE * _TEXELS) + 0.5) / _TEXELS - _MARGIN
    y = (torch.arange((_CAPITAL + 2 * _MARGIN) * _TEXELS) + 0.5) / _TEXELS - _MARGIN
    points = torch.stack(torch.meshgrid(x, y, indexing="ij"), -1)
    return torch.stack([_distance_to(strokes, points) for strokes in GLYPHS.values()])


def _distance_to(strokes: str, points: Tensor) -> Tensor:
    nearest = torch.full(points.shape[:2], math.inf)
    for stroke in strokes.split():
        corners = torch.tensor([[float(stroke[k]), float(stroke[k + 1])] for k in range(0, len(stroke), 2)])
        for a, b in pairwise(corners):
            share = ((points - a) @ (b - a) / (b - a).square().sum()).clamp(0, 1)
            nearest = torch.minimum(nearest, (points - a - share[..., None] * (b - a)).norm(dim=-1))
    return nearest


def _count(low: int, high: int, rows: int, generator: torch.Generator) -> Tensor:
    """Whole numbers from ``low`` to ``high``; with one seed, they grow with ``high``."""
    return low + (torch.rand(rows, generator=generator) * (high - low + 1)).long()


def _positions(images: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of the pixels, (1, 1, X, 1) and (1, 1, 1, Y)."""
    x = torch.arange(images.shape[2], dtype=images.dtype, device=images.device) + 0.5
    y = torch.arange(images.shape[3], dtype=images.dtype, device=images.device) + 0.5
    return x.view(1, 1, -1, 1), y.view(1, 1, 1, -1)


def _offsets(images: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Distances in pixels along the axes from points (B, 2), given as shares of the sides."""
    x, y = _positions(images)
    return (
        x - per_image(place[:, 0] * images.shape[2], images),
        y - per_image(place[:, 1] * images.shape[3], images),
    )


def _cover(distance: Tensor, radius: Tensor) -> Tensor:
    """Share of a pixel within ``radius`` of a line or point at ``distance``, as for straight edges."""
    return (radius - distance + 0.5).clamp(0, 1) - (-radius - distance + 0.5).clamp(0, 1)


def _colour(rgb: Tensor, images: Tensor) -> Tensor:
    """Colours (B, 3) for images of three channels, else their grey values."""
    colour = rgb.to(images.dtype)[:, :, None, None]
    return colour if images.shape[1] == 3 else grey(colour)
