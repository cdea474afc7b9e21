"""Heads of any contrasts registered without training: Gauss-Newton on what hardly depends on contrast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustmed_monai.networks.gauss_newton import blurred, stationary_velocity
from robustmed_monai.networks.mind import MINDSSC
from robustmed_monai.networks.tissue_mixture import TissueMixture
from robustmed_monai.transforms.fields import integrate
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

# Standard deviation of MIND-SSC's channels in heads, by which ``damping`` is measured.
_SPREAD = 0.3
# How far around a voxel displacements are taken together to tell them from chance: standard deviation in mm.
_TOGETHER = 16.0


class HeadRegistration(nn.Module):
    """Finds the diffeomorphism between two heads in the MNI152 frame; it has no weights.

    Both heads become channels that hardly depend on the contrast: MIND-SSC, and the probabilities of their
    tissues by ``TissueMixture``. A stationary velocity is then improved by Gauss-Newton steps, coarse to
    fine: each solves the least squares of a small Gaussian window for one displacement, and the velocity is
    smoothed after it. At last the velocity is shrunk where it is hardly longer than by chance.

    Args:
        size: side of the slices, see ``AlignToTemplate``.
        spacing: mm, see ``AlignToTemplate``.
        heights: lowest and highest slice in mm, see ``AlignToTemplate``.
        grids: side of a voxel of each level in mm, coarse to fine.
        rounds: Gauss-Newton steps of a level.
        tissue_weight: of the tissues beside MIND-SSC; 0 leaves them out.
        damping: added to the squared gradients; more of it makes shorter steps.
        smoothing: standard deviation, in voxels of the level, of the velocity's smoothing.
        chance: how far, in mm, noise and contrast move heads that lie on each other (root mean square); 0
            believes every displacement. Chosen with ``tools/results_head_registration.py``, see there.
        integration_steps: number of squarings of the final field.
        features: heads (B, 1, *S) to channels in place of MIND-SSC, such as ``CIFL`` in 3-D; they are scaled
            to the spread that MIND-SSC has.

    Raises:
        ConfigError: when an argument is out of range.

    Source: Heinrich et al., "MIND: Modality independent neighbourhood descriptor for multi-modal deformable
    registration", MedIA 2012 (Gauss-Newton on descriptors); Lucas and Kanade, IJCAI 1981; Vercauteren et al.,
    "Diffeomorphic demons", NeuroImage 2009 (gradients of both images, smoothed velocity); James and Stein,
    "Estimation with quadratic loss", 1961 (shrinkage).
    """

    def __init__(
        self,
        size: int = 112,
        spacing: float = 2.0,
        heights: Sequence[float] = (-72.0, 90.0),
        grids: Sequence[float] = (8.0, 4.0),
        rounds: int = 12,
        tissue_weight: float = 0.5,
        damping: float = 0.1,
        smoothing: float = 1.0,
        chance: float = 1.5,
        integration_steps: int = 7,
        features: nn.Module | None = None,
    ) -> None:
        super().__init__()
        positive = min(rounds, integration_steps) >= 1 and min(damping, smoothing, *grids) > 0
        if not grids or not positive or min(tissue_weight, chance) < 0:
            raise ConfigError(
                f"grids={list(grids)}, rounds={rounds}, tissue_weight={tissue_weight}, damping={damping}, "
                f"smoothing={smoothing}, chance={chance}, integration_steps={integration_steps}; give "
                "numbers above 0; the weight of the tissues and the chance may be 0."
            )
        self.spacing = spacing
        self.grids, self.rounds = tuple(grids), rounds
        self.tissue_weight, self.damping, self.smoothing = tissue_weight, damping, smoothing
        self.chance = chance
        self.integration_steps = integration_steps
        self.scaled = features is not None
        self.describe = MINDSSC(3, radius=1, dilation=2) if features is None else features
        self.tissues = TissueMixture(size, spacing, heights)

    def represent(self, image: Tensor) -> Tensor:
        """Channels (B, C, *S) of heads (B, 1, *S) that hardly depend on their contrast."""
        described: Tensor = self.describe(image)
        if self.scaled:
            spread = described.std(tuple(range(1, described.ndim)), keepdim=True)
            described = described * (_SPREAD / spread.clamp_min(1e-6))
        if not self.tissue_weight:
            return described
        probabilities: Tensor = self.tissues.tissues(image).exp()
        return torch.cat([described, self.tissue_weight * probabilities[:, 1:]], dim=1)

    def velocity(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Stationary velocity (B, 3, *S) in voxels between two representations (B, C, *S)."""
        how = self.grids, self.rounds, self.damping, self.smoothing
        return stationary_velocity(moving, fixed, self.spacing, *how)

    def believed(self, velocity: Tensor) -> Tensor:
        """What is more than chance of a velocity (B, 3, *S) in voxels."""
        return beyond_chance(velocity, self.chance / self.spacing, _TOGETHER / self.spacing)

    @torch.no_grad()
    def forward(self, moving: Tensor, fixed: Tensor, represented: bool = False) -> dict[str, Tensor]:
        """Register.

        Args:
            moving: (B, 1, X, Y, S) heads in [0, 1], in the frame of ``AlignToTemplate``.
            fixed: (B, 1, X, Y, S), those to carry them to.
            represented: both went through ``represent`` before.

        Returns:
            `velocity`, `ddf` and `inverse_ddf`, (B, 3, *S) in voxels; ``fields.warp(moving, ddf)`` lies on
            ``fixed``, and ``warp(fixed, inverse_ddf)`` on ``moving``.

        Raises:
            ImageShapeError: when the images differ in size, or are not those of the frame.
        """
        if moving.shape != fixed.shape or moving.ndim != 5:
            raise ImageShapeError(
                f"moving {tuple(moving.shape)} and fixed {tuple(fixed.shape)}; give two batches of the same "
                "shape (B, 1, X, Y, S), as AlignToTemplate makes them of volumes."
            )
        if not represented:
            images = [unit_range(image, "HeadRegistration").float() for image in (moving, fixed)]
            moving, fixed = (self.represent(image) for image in images)
        velocity = self.believed(self.velocity(moving, fixed))
        forth, back = (integrate(sign * velocity, self.integration_steps) for sign in (1, -1))
        return {"velocity": velocity, "ddf": forth, "inverse_ddf": back}


def beyond_chance(velocity: Tensor, chance: float, together: float) -> Tensor:
    """Shrink a velocity where it is little more than chance.

    Args:
        velocity: (B, 3, *S) in voxels.
        chance: root mean square of its length, in voxels, where nothing moved.
        together: standard deviation of the Gaussian, in voxels, within which its mean square is taken.

    Returns:
        (B, 3, *S): the velocity times 1 - chance² / (mean square around each voxel), at least 0.

    Source: James and Stein, "Estimation with quadratic loss", 1961, by neighbourhoods.

    Example:
        >>> still, moved = (torch.full((1, 3, 8, 8, 8), length / 3**0.5) for length in (0.5, 4.0))
        >>> [round(float(beyond_chance(v, 1.0, 2.0).norm(dim=1).mean()), 2) for v in (still, moved)]
        [0.0, 3.75]
    """
    square = blurred(velocity.square().sum(1, keepdim=True), together)
    return velocity * (1 - chance**2 / square.clamp_min(1e-9)).clamp_min(0)
