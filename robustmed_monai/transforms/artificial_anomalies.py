"""Artificial anomalies in healthy images, and where they lie: the task of an anomaly segmenter."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from robustmed_monai.transforms.adapters import Batch, BatchTransform
from robustmed_monai.transforms.blur import gaussian_blur
from robustmed_monai.transforms.params import Params, Shape, per_image
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError

# Cells along a side of the noise that makes outlines and textures, and its standard deviations.
CELLS = (8, 12, 16, 32)
# A pixel is abnormal where it changed by this much.
MATERIAL = 0.05
# Darker than this is air.
AIR = 0.1
# Anomalies below are another tone, up to the next coarse noise, a foreign patch; the rest is warped.
TONE, NOISE, PATCH = 0.5, 0.65, 0.85


class BatchArtificialAnomalies(BatchTransform):
    """Changes regions of healthy images in `image`; where they changed is 1 in `label` (B, 1, X, Y).

    A region is an uneven ellipse or crescent. It becomes brighter or darker and smoother, or noisy, or is
    filled from another place of another image of the batch, or its surroundings are pushed away or pulled in.
    None of it resembles a disease on purpose, and none is drawn by ``transforms.lesions``.

    Args:
        healthy: share of the images that stay as they are.
        second: share of the others with two anomalies.
        radii: smallest and largest radius, as a share of the image's side.

    Raises:
        ConfigError: for a share outside of [0, 1], or radii that are not positive and rising.

    Source: after Tan et al., "Detecting Outliers with Foreign Patch Interpolation", MELBA 2022, and Kascenas
    et al., MIDL 2022.

    Example:
        >>> image = torch.ones(2, 1, 64, 64)
        >>> changed = BatchArtificialAnomalies()({"image": image}, torch.Generator().manual_seed(0))
        >>> bool(((changed["image"] != image) >= changed["label"].bool()).all())
        True
    """

    def __init__(
        self, healthy: float = 0.25, second: float = 0.3, radii: tuple[float, float] = (0.018, 0.17)
    ) -> None:
        if not (0 <= healthy <= 1 and 0 <= second <= 1 and 0 < radii[0] <= radii[1]):
            raise ConfigError(
                f"healthy={healthy}, second={second}: shares in [0, 1]; radii={tuple(radii)}: rising, above 0"
            )
        self.healthy, self.second, self.radii = healthy, second, tuple(radii)

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw `uniform` (B, 2, 16) and the `noise` (B, 2, cells, cells) of each coarseness."""
        noise = {f"noise{n}": torch.randn(shape[0], 2, n, n, generator=generator) for n in CELLS}
        return {"uniform": torch.rand(shape[0], 2, 16, generator=generator), **noise}

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with a changed `image` (B, C, X, Y) in [0, 1] and `label`."""
        image = unit_range(batch["image"], "BatchArtificialAnomalies").float()
        u = params["uniform"]
        after, label = image, torch.zeros_like(image[:, :1], dtype=torch.bool)
        for number in (0, 1):
            wanted = u[:, number, 15] < ((1 - self.healthy) if number == 0 else self.second)
            use = per_image(wanted & (u[:, 0, 15] < 1 - self.healthy), image) > 0
            noise = {n: _enlarged(params[f"noise{n}"][:, number], image) for n in CELLS}
            changed, mask = _anomaly(after, u[:, number], noise, self.radii)
            after, label = torch.where(use, changed, after), torch.where(use, label | mask, label)
        return {**batch, "image": after, "label": label.to(image)}


def _anomaly(
    image: torch.Tensor, u: torch.Tensor, noise: dict[int, torch.Tensor], radii: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """One anomaly in each image: the changed images and where they changed; ``u`` (B, 16) is uniform."""
    center = _center(image, u[:, 0])
    side = max(image.shape[-2:])
    low, high = (math.log(radius * side) for radius in radii)
    radius = per_image((low + (high - low) * u[:, 1]).exp(), image)
    region = _region(center, radius, u, noise[12], noise[32])
    kind = per_image(u[:, 6], image)
    sign = per_image(torch.where(u[:, 7] < 0.5, -1.0, 1.0), image)
    patch = _patch(image, u[:, 8:10])
    tone = _tone(image, sign * per_image(0.1 + 0.4 * u[:, 10], image), per_image(u[:, 11], image), noise)
    coarse = torch.where(per_image(u[:, 12], image) < 0.5, noise[8], noise[16])
    noisy = image + 0.3 * torch.where(per_image(u[:, 12], image) < 2 / 3, coarse, noise[32])
    mixed = image + per_image(0.5 + 0.5 * u[:, 13], image) * (patch - image)
    inside = torch.where(kind < TONE, tone, torch.where(kind < NOISE, noisy, mixed)).clamp(0, 1)
    after = image + gaussian_blur(region.float(), 0.7) * (inside - image)
    warped, near = _warped(image, center, 1.3 * radius.clamp_min(side / 32), sign, per_image(u[:, 14], image))
    after = torch.where(kind < PATCH, after, warped)
    wide = gaussian_blur(region.float(), 1.0) > 0.05
    different = (after - image).abs().amax(1, keepdim=True) > MATERIAL
    dense = gaussian_blur(different.float(), 1.0) > 0.5
    return after, (dense | (different & region)) & torch.where(kind < PATCH, wide, near) & (after != image)


def _center(image: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Places (B, 2, 1, 1) of pixels inside of the head, ``share`` (B,) of the way through them."""
    sigma = max(image.shape[-2:]) / 25
    deep = gaussian_blur((image.amax(1, keepdim=True) > AIR).float(), sigma) > 0.93
    chosen = torch.where(deep.flatten(1).any(1)[:, None, None, None], deep, torch.ones_like(deep))
    counts = chosen.flatten(1).cumsum(1)
    index = torch.searchsorted(counts, (share[:, None] * counts[:, -1:]).floor().long() + 1)[:, 0]
    width = image.shape[-1]
    return torch.stack([index // width, index % width], 1)[..., None, None].to(image)


def _offsets(image: torch.Tensor, center: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances (B, 1, X, 1) and (B, 1, 1, Y) from places along the two axes, in pixels."""
    rows, columns = (torch.arange(side, device=image.device).float() for side in image.shape[-2:])
    return rows.view(1, 1, -1, 1) - center[:, :1], columns.view(1, 1, 1, -1) - center[:, 1:]


def _region(
    center: torch.Tensor, radius: torch.Tensor, u: torch.Tensor, rough: torch.Tensor, fine: torch.Tensor
) -> torch.Tensor:
    """Uneven ellipses (B, 1, X, Y), a quarter of them crescents."""
    first, second = _offsets(rough, center)
    ratio, angle = per_image((u[:, 2] - 0.5).exp(), rough), per_image(math.pi * u[:, 3], rough)
    along = (first * angle.cos() + second * angle.sin()) * ratio / radius
    across = (second * angle.cos() - first * angle.sin()) / ratio / radius
    uneven = 0.25 * torch.where(radius > rough.shape[-1] / 16, rough, fine)
    bite = ((along - 0.5).square() + across.square()).sqrt() < 0.9
    inside = (along.square() + across.square()).sqrt() + uneven < 1
    return inside & ~(bite & (per_image(u[:, 4], rough) < 0.25))


def _tone(
    image: torch.Tensor, amount: torch.Tensor, erased: torch.Tensor, noise: dict[int, torch.Tensor]
) -> torch.Tensor:
    """Brighter or darker by ``amount`` with some texture, the anatomy below partly smoothed away."""
    texture = (1 + 0.15 * noise[32] + 0.15 * noise[8]).clamp(0.3, 1.7)
    return image + erased * (gaussian_blur(image, 2.5) - image) + amount * texture


def _patch(image: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """The next image of the batch, each moved around its border by up to a quarter of its sides."""
    other = image.roll(1, 0)
    sides = torch.tensor(image.shape[-2:], device=share.device)
    steps = ((share - 0.5) * sides / 2).round().long()
    rows, columns = (
        (torch.arange(side, device=share.device) - step[:, None]) % side
        for side, step in zip(image.shape[-2:], steps.T, strict=True)
    )
    which = torch.arange(len(image), device=share.device).view(-1, 1, 1)
    return other[which, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _warped(
    image: torch.Tensor,
    center: torch.Tensor,
    radius: torch.Tensor,
    sign: torch.Tensor,
    strength: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tissue pushed away from places or pulled towards them, and what lies near them."""
    first, second = _offsets(image, center)
    distance = (first.square() + second.square()).sqrt()
    pull = sign * (0.3 + 0.4 * strength) * (-(distance / radius).square()).exp()
    # Half a pixel lies between the places of pixels and affine_grid's border.
    places = [
        ((c + d * (1 - pull)) * 2 + 1) / side - 1
        for c, d, side in zip((center[:, :1], center[:, 1:]), (first, second), image.shape[-2:], strict=True)
    ]
    grid = torch.stack([places[1].squeeze(1), places[0].squeeze(1)], -1)
    moved = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved, distance < 1.3 * radius


def _enlarged(noise: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return F.interpolate(noise[:, None], image.shape[-2:], mode="bicubic", align_corners=False)
