"""Brain tissue in any contrast without training: a Gaussian mixture under a template that bends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from robustmed_monai.transforms.align_to_template import AlignToTemplate
from robustmed_monai.transforms.fields import warp
from robustmed_monai.transforms.tissue_priors import tissue_priors, ventricle_region
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

# Which tissue each Gaussian belongs to: air, bone, muscle and fat; CSF; grey matter; white matter.
_TISSUE = (0, 0, 0, 0, 1, 2, 3)
_OUTSIDE = 4  # the first Gaussians
# Where the outside's Gaussians begin, as shares of its voxels from dark to bright, and how wide.
_QUANTILES, _WIDTH = (0.1, 0.4, 0.7, 0.93), 0.12
# What the template and the tissues found look like when the one is bent to the other. Fluid looks like bone:
# where it ends at the skull is what is found worst, and the skull follows the brain.
_LOOK = (0.0, 0.0, 0.8, 1.0)
# The head is looked at where the template is not sure that it is outside of the skull.
_SURELY = 0.99
# Least spread of a Gaussian, of the image's range.
_LEAST_STD = 0.01
# A bias field is a polynomial of this order, exp(-0.7) to exp(0.7), refitted every third round.
_ORDER, _LIMIT, _EVERY, _VOXEL_STEP = 3, 0.7, 3, 7


@dataclass
class _Gaussians:
    mean: Tensor  # (7,)
    std: Tensor  # (7,)
    weight: Tensor  # (7,) within the tissue


class TissueMixture(nn.Module):
    """Segments brain tissues and ventricles of a head in the MNI152 frame by its own contrast.

    The intensities are a mixture of seven Gaussians, one for each tissue and four for all that lies outside
    of the skull, times a smooth bias field, under the template's probabilities of the tissues. Expectation
    maximisation finds them for each head, so no contrast is known beforehand. The three tissues share one
    width, so that where two of them look alike the template decides. Then the template is bent to the tissues
    that were found (demons, SimpleITK), stiffly and then less so, and after each pass the mixture is fitted
    again under the bent template, the last time with a Markov random field. Fluid is that of the ventricles
    where the bent template has theirs. It has no weights; the template is a buffer.

    Args:
        size: side of the slices, see ``AlignToTemplate``.
        spacing: mm, see ``AlignToTemplate``.
        heights: lowest and highest slice in mm, see ``AlignToTemplate``.
        rounds: rounds of expectation maximisation before the template is bent and after each pass.
        neighbours: weight of each of the six neighbours' tissue; 0 leaves the random field out.
        bending: iterations of demons in each pass; 0 keeps the template as it is.
        stiffness: of each pass, the standard deviation of the field's smoothing, in voxels of twice the
            spacing.
        white_share: how much of a voxel between grey and white matter must be white for it to count as white.

    Raises:
        ConfigError: when an argument is out of range.

    Source: Ashburner and Friston, "Unified segmentation", NeuroImage 2005; Van Leemput et al., "Automated
    model-based tissue classification of MR images of the brain", IEEE TMI 1999; Vercauteren et al.,
    "Diffeomorphic demons", NeuroImage 2009.
    """

    def __init__(
        self,
        size: int = 112,
        spacing: float = 2.0,
        heights: Sequence[float] = (-72.0, 90.0),
        rounds: Sequence[int] = (15, 12, 20),
        neighbours: float = 0.15,
        bending: int = 60,
        stiffness: Sequence[float] = (3.0, 1.5),
        white_share: float = 0.47,
    ) -> None:
        super().__init__()
        fits = len(stiffness) > 0 and len(rounds) == len(stiffness) + 1 and min(*rounds, *stiffness) > 0
        if not fits or min(neighbours, bending) < 0 or not 0 < white_share < 1:
            raise ConfigError(
                f"rounds={list(rounds)}, stiffness={list(stiffness)}, neighbours={neighbours}, "
                f"bending={bending}, white_share={white_share}; give a stiffness above 0 for each pass, one "
                "number of rounds more than that, a share between 0 and 1, and the others not negative."
            )
        self.rounds, self.neighbours = [int(number) for number in rounds], neighbours
        self.bending, self.stiffness = bending, [float(one) for one in stiffness]
        self.white_share = white_share
        frame = AlignToTemplate(size, spacing, heights)
        affine = frame.affine.numpy()
        self.wide: Tensor
        self.sharp: Tensor
        # A wide template first: the head is not bent yet.
        wide = tissue_priors(frame.shape, affine, 2.0, 3.0, 3.0, (0.15, 0.05, 0.02))
        self.register_buffer("wide", torch.from_numpy(wide), persistent=False)
        sharp = torch.from_numpy(tissue_priors(frame.shape, affine))
        self.register_buffer("sharp", sharp, persistent=False)
        self.inner: Tensor
        inner = torch.from_numpy(ventricle_region(frame.shape, affine))
        self.register_buffer("inner", inner[None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Segment heads.

        Args:
            image: (B, 1, X, Y, S) in [0, 1], in the frame of ``AlignToTemplate`` with the same settings. A
                head of a single value is background.

        Returns:
            (B, 5, X, Y, S) logarithms of the probabilities of background, CSF around the brain, grey matter,
            white matter and ventricles.

        Raises:
            ImageShapeError: when the image has not the shape of the frame.
        """
        plain = unit_range(image, "TissueMixture").float()
        if plain.ndim != 5 or plain.shape[1:] != (1, *self.sharp.shape[1:]):
            raise ImageShapeError(
                f"TissueMixture: images of shape {tuple(plain.shape)}; give (B, 1, "
                f"{', '.join(map(str, self.sharp.shape[1:]))}), as AlignToTemplate makes them of a volume."
            )
        return torch.stack([self._segment(head[0]) for head in plain])

    def _segment(self, image: Tensor) -> Tensor:
        if image.min() == image.max():
            # Under the template alone, nothing would look like an average brain.
            nothing = torch.zeros(5, *image.shape).to(image)
            nothing[0] = 1
            return nothing.clamp_min(1e-6).log()
        found = _fit(image, self.wide, self.rounds[0], 0.0, self.white_share)
        for number, stiffness in enumerate(self.stiffness, 1):
            template = torch.cat([self.sharp, self.inner])
            if self.bending:
                field = _bend(found, self.sharp, self.bending, stiffness)
                template = warp(template[None], field[None].to(template), padding_mode="border")[0]
            prior, inner = template[:4], template[4].clamp(0, 1)
            neighbours = self.neighbours if number == len(self.stiffness) else 0.0
            found = _fit(image, prior, self.rounds[number], neighbours, self.white_share)
        fluid = found[1]
        parts = [found[0], fluid * (1 - inner), found[2], found[3], fluid * inner]
        return torch.stack(parts).clamp_min(1e-6).log()


def _fit(image: Tensor, prior: Tensor, rounds: int, neighbours: float, white_share: float) -> Tensor:
    """Probabilities (4, *S) of the tissues of an image (*S) under a template (4, *S)."""
    where = prior[0] < _SURELY
    values = image[where]
    log_prior = prior[:, where].clamp_min(1e-6).log()
    basis = _polynomials(where)
    gaussians = _start(values, prior[:, where])
    corrected = values
    found = torch.zeros_like(prior)
    found[0] = 1
    for number in range(rounds):
        expected = log_prior
        if neighbours and number >= rounds // 2:
            expected = log_prior + neighbours * _around(found)[:, where]
        expected = _between(expected, gaussians, white_share)
        shares = _responsibilities(corrected, gaussians, expected)
        found[:, where] = _by_tissue(shares)
        if number < rounds - 1:
            gaussians = _updated(corrected, shares)
            if number % _EVERY == _EVERY - 1:
                corrected = values / _bias(values, shares, gaussians, basis)
    return found


def _start(values: Tensor, prior: Tensor) -> _Gaussians:
    """Gaussians of voxels (N,) under the template alone (4, N)."""
    outside = values[prior[0] > 0.5].sort().values
    places = [int(share * (len(outside) - 1)) for share in _QUANTILES]
    weight = prior[1:].square()
    mean = (weight * values).sum(1) / weight.sum(1)
    std = ((weight * (values - mean[:, None]).square()).sum(1) / weight.sum(1)).sqrt()
    return _Gaussians(
        torch.cat([outside[places], mean]),
        torch.cat([torch.full_like(outside[places], _WIDTH), std]).clamp_min(_LEAST_STD),
        torch.tensor([1 / _OUTSIDE] * _OUTSIDE + [1.0] * 3).to(values),
    )


def _responsibilities(values: Tensor, gaussians: _Gaussians, expected: Tensor) -> Tensor:
    """Share (7, N) of each Gaussian in each voxel."""
    distance = (values - gaussians.mean[:, None]) / gaussians.std[:, None]
    scale = (gaussians.weight.clamp_min(1e-6).log() - gaussians.std.log())[:, None]
    return (scale - 0.5 * distance.square() + expected[list(_TISSUE)]).softmax(0)


def _between(expected: Tensor, gaussians: _Gaussians, white_share: float) -> Tensor:
    """Logarithms (4, N) with which grey and white matter part at a share of the way between their means."""
    # Of two Gaussians of one width; where both look alike there is nothing between them to part.
    distance = (gaussians.mean[-1] - gaussians.mean[-2]) / gaussians.std[-1]
    moved = torch.zeros(4).to(expected)
    moved[3] = (0.5 - white_share) * distance.square()
    return expected + moved[:, None]


def _by_tissue(shares: Tensor) -> Tensor:
    return torch.cat([shares[:_OUTSIDE].sum(0, keepdim=True), shares[_OUTSIDE:]])


def _updated(values: Tensor, shares: Tensor) -> _Gaussians:
    count = shares.sum(1) + 1e-3
    mean = (shares * values).sum(1) / count
    variance = (shares * (values - mean[:, None]).square()).sum(1) / count
    # A tissue of its own width would take the voxels between two others, or swallow one that looks like it.
    variance[_OUTSIDE:] = variance[_OUTSIDE:].mean()
    weight = torch.ones_like(count)
    weight[:_OUTSIDE] = count[:_OUTSIDE] / count[:_OUTSIDE].sum()
    return _Gaussians(mean, (variance + _LEAST_STD**2).sqrt(), weight)


def _polynomials(where: Tensor) -> Tensor:
    """Polynomials of the coordinates (K, N) of the chosen voxels, each coordinate about -1 to 1."""
    places = [2 * c / n - 1 for c, n in zip(where.nonzero(as_tuple=True), where.shape, strict=True)]
    powers = [p for p in product(range(_ORDER + 1), repeat=3) if 0 < sum(p) <= _ORDER]
    return torch.stack([places[0] ** i * places[1] ** j * places[2] ** k for i, j, k in powers]).float()


def _bias(values: Tensor, shares: Tensor, gaussians: _Gaussians, basis: Tensor) -> Tensor:
    """The bias field (N,): what the brain's voxels are brighter than their tissues' means, smoothly."""
    some = slice(None, None, _VOXEL_STEP)
    tissue, seen = shares[_OUTSIDE:, some], values[some]
    precision = tissue / gaussians.std[_OUTSIDE:, None].square()
    wanted = (precision * gaussians.mean[_OUTSIDE:, None]).sum(0) / precision.sum(0).clamp_min(1e-6)
    brain = (tissue.sum(0) > 0.8) & (seen > 0.05)
    if int(brain.sum()) < 10 * len(basis):
        return torch.ones_like(values)
    weight = precision.sum(0)[brain].double()
    excess = (seen[brain].log() - wanted[brain].clamp_min(0.05).log()).clamp(-0.5, 0.5).double()
    chosen = basis[:, some][:, brain].double()
    level = (weight * excess).sum() / weight.sum()
    matrix = (chosen * weight) @ chosen.T
    matrix += torch.eye(len(chosen)).to(matrix) * weight.sum() * 1e-3
    factors = torch.linalg.solve(matrix, (chosen * weight) @ (excess - level))
    field: Tensor = (factors.float() @ basis).clamp(-_LIMIT, _LIMIT).exp()
    return field


def _around(found: Tensor) -> Tensor:
    """Sum of the six neighbours' probabilities (4, *S)."""
    total = torch.zeros_like(found)
    for axis in (1, 2, 3):
        length = found.shape[axis] - 1
        total.narrow(axis, 0, length).add_(found.narrow(axis, 1, length))
        total.narrow(axis, 1, length).add_(found.narrow(axis, 0, length))
    return total


def _bend(found: Tensor, prior: Tensor, iterations: int, stiffness: float) -> Tensor:
    """Displacement in voxels (3, *S) that carries a template (4, *S) to the tissues found (4, *S)."""
    import SimpleITK

    look = torch.tensor(_LOOK).view(4, 1, 1, 1)
    images = []
    for part in (found, prior):
        seen = (part.cpu() * look).sum(0).permute(2, 1, 0).contiguous().numpy()
        full = SimpleITK.GetImageFromArray(seen)
        images.append(SimpleITK.Shrink(SimpleITK.SmoothingRecursiveGaussian(full, 1.0), [2, 2, 2]))
    demons = SimpleITK.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(iterations)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(stiffness)
    field = SimpleITK.Resample(demons.Execute(*images), full, SimpleITK.Transform(), SimpleITK.sitkLinear)
    array = SimpleITK.GetArrayFromImage(field).astype(np.float32)
    return torch.from_numpy(array).permute(3, 2, 1, 0).contiguous()
