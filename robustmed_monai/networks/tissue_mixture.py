"""Brain tissue in any contrast without training: a Gaussian mixture under a template that bends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from robustmed_monai.networks.gauss_newton import blurred, stationary_velocity
from robustmed_monai.transforms.align_to_template import AlignToTemplate
from robustmed_monai.transforms.fields import integrate, warp
from robustmed_monai.transforms.hindbrain_region import hindbrain_region
from robustmed_monai.transforms.standardised import standardised
from robustmed_monai.transforms.tissue_priors import (
    brainstem_region,
    deep_grey_region,
    tissue_priors,
    ventricle_region,
)
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

# Which part of the template each Gaussian belongs to: air, bone, muscle and fat; CSF; cortex; white matter;
# deep grey matter.
_PART = (0, 0, 0, 0, 1, 2, 3, 4)
_OUTSIDE = 4  # the first Gaussians
# Where the outside's Gaussians begin, as shares of its voxels from dark to bright, and how wide.
_QUANTILES, _WIDTH = (0.1, 0.4, 0.7, 0.93), 0.12
# The least probability whose logarithm is given.
_LEAST = 1e-6
# Squarings of the template's bending.
_SQUARINGS = 6
# The head is looked at where the template is not sure that it is outside of the skull.
_SURELY = 0.99
# Least spread of a Gaussian, of the image's range.
_LEAST_STD = 0.01
# Deep grey matter: least share of grey matter in the template, above that of the capsule between the nuclei
# (none up to the one share, all from the other).
_DEEP, _NONE, _ALL = 0.9, 0.12, 0.27
# Brainstem: share of its tissue that counts as white matter, as in atlases of regions.
_STEM = 0.95
# Rounds of the random field.
_SETTLING = 5
# Where cortex and white matter look alike, which they fully do at one mean: logarithms that white matter and
# the outside gain; the share of a voxel between cortex and fluid by which fluid then begins earlier; how much
# less fluid around a voxel (Gaussian, in voxels) than in the template speaks for white matter. Chosen on the
# four heads that tools/results_heads.py calls seen.
_WHITER, _OUTER, _FLUID, _DEPTH, _AROUND = 0.15, 2.0, 0.22, 6.0, 1.5
# What a trained network says is heard where cortex and white matter look more alike than this (T1: 0.04 or
# less, FLAIR: 0.4 or more), and how much more of it for each step beyond; logarithm that its white matter
# gains; width in voxels of the blur of the brain that its image is standardised by, as in training. Chosen on
# the same four heads.
_UNLIKE, _HEARD, _WHITER_LEARNT, _BRAIN = 0.1, 2.0, 0.8, 2.0
# A bias field is a polynomial of this order, exp(-0.7) to exp(0.7), refitted every third round.
_ORDER, _LIMIT, _EVERY, _VOXEL_STEP = 3, 0.7, 3, 7


@dataclass
class _Gaussians:
    mean: Tensor  # (8,)
    std: Tensor  # (8,)
    weight: Tensor  # (8,) within the part


@dataclass
class _Fit:
    where: Tensor  # (*S) bool: the N voxels that are looked at
    values: Tensor  # (N,) without the bias field
    gaussians: _Gaussians
    found: Tensor  # (5, *S) probabilities of the parts


class TissueMixture(nn.Module):
    """Segments brain tissues, ventricles, cerebellum and brainstem of a head in the MNI152 frame.

    It goes by the head's own contrast: the intensities are a mixture of eight Gaussians, four for all that
    lies outside of the skull, one each for CSF, cortex, white matter and deep grey matter, times a smooth
    bias field, under the template's probabilities. Expectation maximisation finds them for each head: no
    contrast is known beforehand. Those of the brain share one width, so that where two of them look alike
    the template decides. Then the template is bent to the tissues that were found (Gauss-Newton steps),
    coarsely and then finely, and after each pass the mixture is fitted again under the bent template; last
    comes a Markov random field. The more cortex and white matter look alike, as on FLAIR, the more that
    step leans towards white matter, fluid and what lies outside, against cortex, and heeds how deep a voxel
    lies below the fluid. Fluid is that of the ventricles where the bent template has theirs; in the same
    way grey and white matter are divided between cerebrum and cerebellum, and the brainstem, which is white
    matter, is told. It has no weights; the template is a buffer. A network that has learnt from painted heads
    may join: where cortex and white matter look alike, the logarithms of its probabilities are added to those
    of the template in the random field, but for deep grey matter.

    Args:
        size: side of the slices, see ``AlignToTemplate``.
        spacing: mm, see ``AlignToTemplate``.
        heights: lowest and highest slice in mm, see ``AlignToTemplate``.
        rounds: rounds of expectation maximisation before the template is bent and after each pass.
        neighbours: weight of each of the six neighbours' tissue; 0 leaves the random field out.
        bending: Gauss-Newton steps on each grid; 0 keeps the template as it is.
        grids: side of a voxel of each grid in mm, coarse to fine; each pass uses one more of them.
        white_share: how much of a voxel between grey and white matter must be white for it to count as white.
        painted: network from ``standardised`` stacks (1, 1, X, Y, S) to logits of background, CSF, grey and
            white matter, trained on images painted from labels at this spacing (that of the bundle: 2 mm), as
            ``SliceStackUNet``; None: none.

    Raises:
        ConfigError: when an argument is out of range.

    Source: Ashburner and Friston, "Unified segmentation", NeuroImage 2005; Van Leemput et al., "Automated
    model-based tissue classification of MR images of the brain", IEEE TMI 1999; for the steps see
    ``gauss_newton_step``.
    """

    def __init__(
        self,
        size: int = 112,
        spacing: float = 2.0,
        heights: Sequence[float] = (-72.0, 90.0),
        rounds: Sequence[int] = (15, 12, 14),
        neighbours: float = 0.3,
        bending: int = 10,
        grids: Sequence[float] = (8.0, 4.0),
        white_share: float = 0.47,
        painted: nn.Module | None = None,
    ) -> None:
        super().__init__()
        fits = len(grids) > 0 and len(rounds) == len(grids) + 1 and min(*rounds, *grids) > 0
        if not fits or min(neighbours, bending) < 0 or not 0 < white_share < 1:
            raise ConfigError(
                f"rounds={list(rounds)}, grids={list(grids)}, neighbours={neighbours}, bending={bending}, "
                f"white_share={white_share}; give grids above 0 mm, one number of rounds more than grids, a "
                "share between 0 and 1, and the others not negative."
            )
        self.spacing = spacing
        self.rounds, self.neighbours = [int(number) for number in rounds], neighbours
        self.bending, self.grids = bending, [float(one) for one in grids]
        self.white_share, self.painted = white_share, painted
        frame = AlignToTemplate(size, spacing, heights)
        affine = frame.affine.numpy()
        self.wide: Tensor
        self.sharp: Tensor
        deep = torch.from_numpy(deep_grey_region(frame.shape, affine))
        # A wide template first: the head is not bent yet.
        wide = tissue_priors(frame.shape, affine, 2.0, 3.0, 3.0, (0.15, 0.05, 0.02))
        stem = torch.from_numpy(brainstem_region(frame.shape, affine))
        self.register_buffer("wide", _parts(torch.from_numpy(wide), deep, stem), persistent=False)
        sharp = torch.from_numpy(tissue_priors(frame.shape, affine))
        self.register_buffer("sharp", _parts(sharp, deep, stem), persistent=False)
        self.inner: Tensor
        inner = torch.from_numpy(ventricle_region(frame.shape, affine))
        self.register_buffer("inner", inner[None], persistent=False)
        self.hindbrain: Tensor
        hindbrain = torch.from_numpy(hindbrain_region(frame.shape, affine))
        self.register_buffer("hindbrain", hindbrain, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Segment heads.

        Args:
            image: (B, 1, X, Y, S) in [0, 1], in the frame of ``AlignToTemplate`` with the same settings. A
                head of a single value is background.

        Returns:
            (B, 8, X, Y, S) logarithms of the probabilities of background, CSF around the brain, grey and
            white matter of the cerebrum, ventricles, grey and white matter of the cerebellum, and
            brainstem. A voxel has grey and white matter of one place alone.

        Raises:
            ImageShapeError: when the image has not the shape of the frame.
        """
        return torch.stack([_divided(*self._segment(head)) for head in self._heads(image)])

    def tissues(self, image: Tensor) -> Tensor:
        """Segment heads (B, 1, X, Y, S) as ``forward`` does, but for the place of grey and white matter.

        Returns:
            (B, 5, X, Y, S) logarithms of the probabilities of background, CSF around the brain, grey matter,
            white matter and ventricles.
        """
        return torch.stack([self._segment(head)[0] for head in self._heads(image)])

    def _heads(self, image: Tensor) -> Tensor:
        """Heads (B, X, Y, S) that lie in the frame."""
        plain = unit_range(image, "TissueMixture").float()
        if plain.ndim != 5 or plain.shape[1:] != (1, *self.sharp.shape[1:]):
            raise ImageShapeError(
                f"TissueMixture: images of shape {tuple(plain.shape)}; give (B, 1, "
                f"{', '.join(map(str, self.sharp.shape[1:]))}), as AlignToTemplate makes them of a volume."
            )
        return plain[:, 0]

    def _segment(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Tissues (5, *S) of a head (*S) as ``tissues`` says, and its cerebellum and brainstem (2, *S)."""
        if image.min() == image.max():
            # Under the template alone, nothing would look like an average brain.
            nothing = torch.zeros(5, *image.shape).to(image)
            nothing[0] = 1
            return nothing.clamp_min(_LEAST).log(), self.hindbrain
        fit = _fit(image, self.wide, self.rounds[0], self.white_share)
        template = bent = torch.cat([self.sharp, self.inner, self.hindbrain])
        for number in range(1, len(self.grids) + 1):
            if self.bending:
                before, after = (_tissues(part)[None, 1:] for part in (self.sharp, fit.found))
                how = self.spacing, self.grids[:number], self.bending
                velocity = stationary_velocity(before, after, *how)
                bent = warp(template[None], integrate(velocity, _SQUARINGS), padding_mode="border")[0]
            fit = _fit(image, bent[:5], self.rounds[number], self.white_share)
        inner = bent[5].clamp(0, 1)
        learnt = self._learnt(image, bent[:5], fit)
        found = _tissues(_settled(fit, bent[:5], inner, self.neighbours, self.white_share, learnt))
        fluid = found[1]
        parts = [found[0], fluid * (1 - inner), found[2], found[3], fluid * inner]
        return torch.stack(parts).clamp_min(_LEAST).log(), bent[6:]

    def _learnt(self, image: Tensor, template: Tensor, fit: _Fit) -> Tensor | None:
        """What the network adds to the logarithms of the parts (5, *S); None where it is not heard."""
        heard = _HEARD * (_alike(fit.gaussians) - _UNLIKE)
        if self.painted is None or heard <= 0:
            return None
        brain = blurred(fit.found[2:].sum(0)[None, None], _BRAIN).square()
        logits: Tensor = self.painted(standardised(image[None, None], brain))[0]
        outside, fluid, grey, white = heard * logits.float().log_softmax(0)
        white = white + heard * _WHITER_LEARNT
        either = torch.maximum(grey, white)
        deep = (2 * template[4] / template[2:].sum(0).clamp_min(1e-3)).clamp(0, 1)
        return torch.stack([outside, fluid, grey.lerp(either, deep), white.lerp(either, deep), either])


def _divided(tissues: Tensor, hindbrain: Tensor) -> Tensor:
    """Classes (8, *S) of tissues (5, *S) and of where cerebellum and brainstem lie (2, *S)."""
    cerebellum, stem = hindbrain
    rest = 1 - cerebellum - stem
    outside, fluid, grey, white, inner = tissues
    # Whole voxels: the probability of a tissue stays what it is.
    of_stem = (stem > cerebellum) & (stem > rest)
    of_cerebellum = ~of_stem & (cerebellum > rest)
    none = torch.full_like(grey, _LEAST).log()
    return torch.stack(
        [
            outside,
            fluid,
            grey.where(~of_cerebellum, none),
            white.where(~of_cerebellum & ~of_stem, none),
            inner,
            grey.where(of_cerebellum, none),
            white.where(of_cerebellum, none),
            white.where(of_stem, none),
        ]
    )


def _parts(priors: Tensor, deep: Tensor, stem: Tensor) -> Tensor:
    """A template of tissues (4, *S) with its deep grey matter (*S) strengthened, and apart: (5, *S)."""
    outside, fluid, grey, white = priors
    tissue = grey + white
    deep = deep * ((grey / (tissue + 1e-3) - _NONE) / (_ALL - _NONE)).clamp(0, 1)
    grey = torch.maximum(grey, _DEEP * deep * tissue) * (1 - _STEM * stem)
    return torch.stack([outside, fluid, grey * (1 - deep), tissue - grey, grey * deep])


def _tissues(parts: Tensor) -> Tensor:
    """Background, CSF, grey and white matter (4, ...) of the parts (5, ...)."""
    return torch.stack([parts[0], parts[1], parts[2] + parts[4], parts[3]])


def _fit(image: Tensor, prior: Tensor, rounds: int, white_share: float) -> _Fit:
    """The mixture of an image (*S) under a template (5, *S), by expectation maximisation."""
    where = prior[0] < _SURELY
    values = corrected = image[where]
    log_prior = prior[:, where].clamp_min(1e-6).log()
    basis = _polynomials(where)
    gaussians = _start(values, prior[:, where])
    for number in range(rounds):
        shares = _responsibilities(corrected, gaussians, _between(log_prior, gaussians, white_share))
        if number < rounds - 1:
            gaussians = _updated(corrected, shares)
            if number % _EVERY == _EVERY - 1:
                corrected = values / _bias(values, shares, gaussians, basis)
    found = torch.zeros_like(prior)
    found[0] = 1
    found[:, where] = _by_part(shares)
    return _Fit(where, corrected, gaussians, found)


def _settled(
    fit: _Fit, prior: Tensor, inner: Tensor, neighbours: float, white_share: float, learnt: Tensor | None
) -> Tensor:
    """Probabilities (5, *S) of the parts under a template (5, *S), a network's addition and a random field.

    The Gaussians stay: a random field that took part in finding them would draw them together.
    """
    where, gaussians, found = fit.where, fit.gaussians, fit.found.clone()
    alike = _alike(gaussians)
    expected = _between(prior[:, where].clamp_min(1e-6).log(), gaussians, white_share)
    expected[0] += _OUTER * alike
    expected[1] += _FLUID * alike * _apart(gaussians, 0, 1)
    expected[3] += _WHITER * alike
    if learnt is not None:
        expected += learnt[:, where]
    usual = _around_brain(prior, inner)
    for _ in range(_SETTLING):
        near = _around(_tissues(found))[:, where]
        # Deep grey matter is grey matter's neighbour.
        total = expected + neighbours * torch.cat([near, near[2:3]])
        total[3] += _DEPTH * alike * (usual - _around_brain(found, inner))[where]
        found[:, where] = _by_part(_responsibilities(fit.values, gaussians, total))
    return found


def _apart(gaussians: _Gaussians, one: int, other: int) -> Tensor:
    """Squared distance of two of the brain's Gaussians, in standard deviations; the brain has one width."""
    means = gaussians.mean[_OUTSIDE:]
    return ((means[one] - means[other]) / gaussians.std[-1]).square()


def _alike(gaussians: _Gaussians) -> Tensor:
    """How much cortex looks like white matter: 1 where both have one mean, 0.01 at three widths."""
    return (-0.5 * _apart(gaussians, 1, 2)).exp()


def _around_brain(parts: Tensor, inner: Tensor) -> Tensor:
    """Share (*S) of outside and of fluid beyond the ventricles around each voxel, of parts (5, *S)."""
    return blurred((parts[0] + parts[1] * (1 - inner))[None, None], _AROUND)[0, 0]


def _start(values: Tensor, prior: Tensor) -> _Gaussians:
    """Gaussians of voxels (N,) under the template alone (5, N)."""
    outside = values[prior[0] > 0.5].sort().values
    places = [int(share * (len(outside) - 1)) for share in _QUANTILES]
    weight = prior[1:].square() + 1e-8
    mean = (weight * values).sum(1) / weight.sum(1)
    std = ((weight * (values - mean[:, None]).square()).sum(1) / weight.sum(1)).sqrt()
    return _Gaussians(
        torch.cat([outside[places], mean]),
        torch.cat([torch.full_like(outside[places], _WIDTH), std]).clamp_min(_LEAST_STD),
        torch.tensor([1 / _OUTSIDE] * _OUTSIDE + [1.0] * 4).to(values),
    )


def _responsibilities(values: Tensor, gaussians: _Gaussians, expected: Tensor) -> Tensor:
    """Share (8, N) of each Gaussian in each voxel."""
    distance = (values - gaussians.mean[:, None]) / gaussians.std[:, None]
    scale = (gaussians.weight.clamp_min(1e-6).log() - gaussians.std.log())[:, None]
    return (scale - 0.5 * distance.square() + expected[list(_PART)]).softmax(0)


def _between(expected: Tensor, gaussians: _Gaussians, white_share: float) -> Tensor:
    """Logarithms (5, N) with which cortex and white matter part at a share of the way between the means."""
    # Of two Gaussians of one width; where both look alike there is nothing between them to part.
    moved = torch.zeros(5).to(expected)
    moved[3] = (0.5 - white_share) * _apart(gaussians, 1, 2)
    return expected + moved[:, None]


def _by_part(shares: Tensor) -> Tensor:
    return torch.cat([shares[:_OUTSIDE].sum(0, keepdim=True), shares[_OUTSIDE:]])


def _updated(values: Tensor, shares: Tensor) -> _Gaussians:
    count = shares.sum(1) + 1e-3
    mean = (shares * values).sum(1) / count
    variance = (shares * (values - mean[:, None]).square()).sum(1) / count
    # A tissue of its own width would take the voxels between two others, or swallow one that looks like it.
    variance[_OUTSIDE:] = variance[_OUTSIDE:-1].mean()
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
