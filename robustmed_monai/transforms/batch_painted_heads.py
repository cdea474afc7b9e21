"""Stacks of slices of heads painted anew from their tissue labels, above all as FLAIR shows them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from robustmed_monai.transforms.adapters import Batch, BatchTransform
from robustmed_monai.transforms.fields import warp
from robustmed_monai.transforms.params import Params, Shape, per_image
from robustmed_monai.transforms.standardised import standardised
from robustmed_monai.transforms.synthesis.labels_to_image import blur_rows
from robustmed_monai.transforms.synthesis.noise import (
    noise_field,
    normal_rows,
    sample_noise,
    uniform_rows,
)
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError

# Uniform draws, (low, high). A FLAIR: brightness of white matter, then of cortex and fluid as shares of it.
_FLAIR = {"white": (0.4, 0.6), "grey": (0.96, 1.2), "fluid": (0.05, 0.5)}
_ANY = (0.05, 0.95)  # brightness of a tissue in any contrast
_DRAWN = {
    "own": (0.0, 1.0),  # how much the image's own partial volumes count, and how much the labels
    "outside": (0.2, 1.0),  # brightness of what is no brain, and its gamma
    "outside_gamma": (0.5, 1.3),
    "lesion": (-0.1, 0.7),  # of white matter, as a share of its brightness
    "lesion_from": (0.18, 0.5),  # nearness of ventricles from where on
    "blur": (0.2, 0.85),  # voxels in the slice
    "blur_across": (0.1, 1.1),
    "noise": (0.005, 0.06),
}
# Spreads of normal draws.
_TURN, _ZOOM, _ZOOMED, _SHIFT = (4.0, 2.5, 2.0), 0.045, 0.03, 0.8  # degrees; logarithms; voxels
_GAMMA, _GAIN, _OFFSET = 0.15, 0.15, 0.2
_TEXTURE, _BIAS, _WARP = 0.06, 0.2, 1.0  # largest spreads of smooth fields


class BatchPaintedHeads(BatchTransform):
    """Paints stacks anew from labels and gives them as a network on ``standardised`` stacks sees them.

    Each stack is turned, zoomed, bent and mirrored; its tissues get brightnesses of a FLAIR (cortex and white
    matter nearly alike, fluid dark, lesions of white matter near the ventricles bright) or of any contrast;
    then come blur, bias field, noise and gamma. Voxels between two tissues are told by the labels, smoothed,
    and by the T1-weighted image that the labels were made of; what is no brain stays as that shows it.

    Args:
        flair: share of the stacks that are painted as FLAIR.
        stripped: share of the stacks without anything outside of the brain.

    Raises:
        ConfigError: when a share is out of range.

    Source: the recipe of SynthSeg (Billot et al., Medical Image Analysis 2023), narrowed to one contrast.
    """

    def __init__(self, flair: float = 0.9, stripped: float = 0.1) -> None:
        if not (0 <= flair <= 1 and 0 <= stripped <= 1):
            raise ConfigError(f"flair={flair}, stripped={stripped}; give shares in [0, 1].")
        self.flair, self.stripped = flair, stripped

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw motion, contrast and artefacts of stacks (B, 1, X, Y, S)."""
        rows, size = shape[0], shape[2:]
        params: Params = {k: uniform_rows((rows,), *ends, generator) for k, ends in _DRAWN.items()}
        flair = uniform_rows((rows,), 0, 1, generator) < self.flair
        levels = {k: uniform_rows((rows,), *ends, generator) for k, ends in _FLAIR.items()}
        levels = {k: v if k == "white" else v * levels["white"] for k, v in levels.items()}
        for name, level in levels.items():
            params[name] = torch.where(flair, level, uniform_rows((rows,), *_ANY, generator))
        params["lesion"] *= flair
        params["outside"] *= uniform_rows((rows,), 0, 1, generator) >= self.stripped
        params["matrix"] = _matrices(rows, generator)
        for name, channels, scale, spread in (
            ("warp", 3, 6.0, _WARP),
            ("texture", 2, 8.0, _TEXTURE),
            ("patches", 1, 5.0, _BIAS),
            ("bias", 1, 30.0, _BIAS),
        ):
            params[name] = sample_noise(rows, channels, size, (scale,), spread, generator)
        params["grain"] = normal_rows((rows, 1, *size), generator)
        params["smooth_grain"] = (uniform_rows((rows,), 0, 1, generator) < 0.7).float()
        for name, spread in (("gamma", _GAMMA), ("gain", _GAIN)):
            params[name] = (spread * normal_rows((rows,), generator)).exp()
        params["offset"] = _OFFSET * normal_rows((rows,), generator)
        return params

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with `image` (B, 1, X, Y, S) painted and standardised, and `label` moved alike.

        Args:
            batch: `image` in [0, 1], T1-weighted, and `label`: 0 background, 1 CSF, 2 grey, 3 white matter.
            params: what ``sample`` gave.
        """
        image, label = unit_range(batch["image"], "BatchPaintedHeads").float(), batch["label"].long()
        means = _tissue_means(image, label)
        parts = F.one_hot(label[:, 0], 4).movedim(-1, 1).to(image)
        moved = _moved(torch.cat([parts[:, 1:], image], 1), params)
        tissues, image = moved[:, :3], moved[:, 3:]
        parts = torch.cat([(1 - tissues.sum(1, keepdim=True)).clamp_min(0), tissues], 1)
        painted = self._painted(parts, _shares(parts, image, means, params["own"]), image, means, params)
        wide = blur_rows((parts[:, 2:3] + parts[:, 3:4]), torch.full((len(image), 3), 2.0).to(image))
        seen = standardised(painted, wide.square())
        seen = seen * per_image(params["gain"], seen) + per_image(params["offset"], seen)
        return {**batch, "image": seen, "label": parts.argmax(1, keepdim=True).to(batch["label"].dtype)}

    def _painted(self, parts: Tensor, shares: Tensor, image: Tensor, means: Tensor, params: Params) -> Tensor:
        """Painted stacks (B, 1, X, Y, S)."""
        size = image.shape[2:]
        level = {k: per_image(params[k], image) for k in (*_FLAIR, *_DRAWN, "gamma", "smooth_grain")}
        outside, fluid, grey, white = (shares[:, k : k + 1] for k in range(4))
        rough = noise_field(params["texture"], size) * level["white"]
        rest = (image / means[:, 2:3]).clamp_min(0) ** level["outside_gamma"] * level["outside"]
        painted = fluid * level["fluid"] + outside * rest
        painted = painted + grey * (level["grey"] + rough[:, :1]) + white * (level["white"] + rough[:, 1:])
        near = blur_rows(parts[:, 1:2], torch.tensor([[2.5, 2.5, 0.0]]).expand(len(image), 3).to(image))
        near = near + 0.6 * noise_field(params["patches"], size) - level["lesion_from"]
        painted = painted + (near / 0.05).sigmoid() * parts[:, 3:4] * level["lesion"] * level["white"]
        width = torch.stack([params["blur"], params["blur"], params["blur_across"]], 1)
        painted = blur_rows(painted, width) * noise_field(params["bias"], size).exp()
        smooth = blur_rows(params["grain"], torch.full_like(width, 0.6)) * 2.2
        grain = params["grain"].lerp(smooth, level["smooth_grain"])
        painted = painted + grain * level["noise"] * level["white"].clamp_min(0.3)
        result: Tensor = painted.clamp_min(0).pow(level["gamma"])
        return result


def _matrices(rows: int, generator: torch.Generator) -> Tensor:
    """Small rotations with zoom, mirrored left to right or not, and shifts in voxels: (B, 3, 4)."""
    turn = normal_rows((rows, 3), generator) * torch.tensor(_TURN) * (math.pi / 180)
    one = torch.ones(rows)
    a, b, c = turn.unbind(1)
    matrix = torch.stack([one, -a, -b, a, one, -c, b, c, one], 1).view(rows, 3, 3)
    zoom = (_ZOOMED + _ZOOM * normal_rows((rows, 3), generator)).exp()
    zoom[:, 0] *= torch.where(uniform_rows((rows,), 0, 1, generator) < 0.5, -1.0, 1.0)
    shift = _SHIFT * normal_rows((rows, 3, 1), generator)
    return torch.cat([matrix / zoom[:, None], shift], 2)


def _moved(channels: Tensor, params: Params) -> Tensor:
    """Channels (B, C, X, Y, S) at moved places."""
    size = channels.shape[2:]
    axes = [torch.arange(side, device=channels.device) - (side - 1) / 2 for side in size]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    turned = params["matrix"] @ torch.cat([places, torch.ones_like(places[:1])]).flatten(1)
    ddf = turned.unflatten(2, size) - places + noise_field(params["warp"], size)
    return warp(channels, ddf, padding_mode="border")


def _tissue_means(image: Tensor, label: Tensor) -> Tensor:
    """Mean brightness (B, 3, 1, 1, 1) of CSF, grey and white matter, each above the one before."""
    means = []
    for number in (1, 2, 3):
        of_tissue = (label == number).to(image)
        means.append((image * of_tissue).sum((1, 2, 3, 4)) / of_tissue.sum((1, 2, 3, 4)).clamp_min(1))
    steps = torch.stack(means, 1).cummax(1).values + 0.01 * torch.arange(1, 4, device=image.device)
    return steps[..., None, None, None]


def _shares(parts: Tensor, image: Tensor, means: Tensor, own: Tensor) -> Tensor:
    """Shares (B, 4, X, Y, S) of outside, fluid, grey and white matter by labels and by T1 brightness."""
    fluid, grey, white = (means[:, k : k + 1] for k in range(3))
    inside = 1 - parts[:, :1]
    dark = ((grey - image) / (grey - fluid)).clamp(0, 1) * inside
    bright = ((image - grey) / (white - grey)).clamp(0, 1) * inside
    by_image = torch.cat([parts[:, :1], dark, inside - dark - bright, bright], 1)
    return parts.lerp(by_image, per_image(own, parts))
