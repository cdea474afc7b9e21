"""Heads of any contrasts registered without training: Gauss-Newton on what hardly depends on contrast."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from torch import Tensor, nn
from torch.nn import functional as F

from robustmed_monai.networks.mind import MINDSSC
from robustmed_monai.networks.tissue_mixture import TissueMixture
from robustmed_monai.transforms.fields import integrate, warp
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

# Pairs of axes of a symmetric 3x3 matrix, and where its nine entries stand among the six.
_AXES = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
_ENTRIES = (0, 3, 4, 3, 1, 5, 4, 5, 2)
# Squarings while the velocity is sought; the field itself gets more.
_SQUARINGS = 5
# Longest step of a round in voxels of its grid.
_LONGEST = 1.0


class HeadRegistration(nn.Module):
    """Finds the diffeomorphism between two heads in the MNI152 frame; it has no weights.

    Both heads become channels that hardly depend on the contrast: MIND-SSC, and the probabilities of their
    tissues by ``TissueMixture``. A stationary velocity is then improved by Gauss-Newton steps, coarse to
    fine: each solves the least squares of a small Gaussian window for one displacement, and the velocity is
    smoothed after it.

    Args:
        size: side of the slices, see ``AlignToTemplate``.
        spacing: mm, see ``AlignToTemplate``.
        heights: lowest and highest slice in mm, see ``AlignToTemplate``.
        grids: side of a voxel of each level in mm, coarse to fine.
        rounds: Gauss-Newton steps of a level.
        tissue_weight: of the tissues beside MIND-SSC; 0 leaves them out.
        damping: added to the squared gradients; more of it makes shorter steps.
        smoothing: standard deviation, in voxels of the level, of the velocity's smoothing.
        integration_steps: number of squarings of the final field.

    Raises:
        ConfigError: when an argument is out of range.

    Source: Heinrich et al., "MIND: Modality independent neighbourhood descriptor for multi-modal deformable
    registration", MedIA 2012 (Gauss-Newton on descriptors); Lucas and Kanade, IJCAI 1981; Vercauteren et al.,
    "Diffeomorphic demons", NeuroImage 2009 (gradients of both images, smoothed velocity).
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
        integration_steps: int = 7,
    ) -> None:
        super().__init__()
        positive = min(rounds, integration_steps) >= 1 and min(damping, smoothing, *grids) > 0
        if not grids or not positive or tissue_weight < 0:
            raise ConfigError(
                f"grids={list(grids)}, rounds={rounds}, tissue_weight={tissue_weight}, damping={damping}, "
                f"smoothing={smoothing}, integration_steps={integration_steps}; give numbers above 0, but a "
                "weight of the tissues that may be 0."
            )
        self.spacing = spacing
        self.grids, self.rounds = tuple(grids), rounds
        self.tissue_weight, self.damping, self.smoothing = tissue_weight, damping, smoothing
        self.integration_steps = integration_steps
        self.describe = MINDSSC(3, radius=1, dilation=2)
        self.tissues = TissueMixture(size, spacing, heights)

    def represent(self, image: Tensor) -> Tensor:
        """Channels (B, 16, *S) of heads (B, 1, *S) that hardly depend on their contrast."""
        described: Tensor = self.describe(image)
        if not self.tissue_weight:
            return described
        probabilities: Tensor = self.tissues(image).exp()
        return torch.cat([described, self.tissue_weight * probabilities[:, 1:]], dim=1)

    def velocity(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Stationary velocity (B, 3, *S) in voxels between two representations (B, C, *S)."""
        shape = fixed.shape[2:]
        velocity = fixed.new_zeros(len(fixed), 3, *_shape(shape, self.spacing / self.grids[0]))
        for grid in self.grids:
            sides = _shape(shape, self.spacing / grid)
            velocity = _on_grid(velocity, sides)
            source, target = (_reduced(image, sides) for image in (moving, fixed))
            for _ in range(self.rounds):
                step = gauss_newton_step(source, target, integrate(velocity, _SQUARINGS), self.damping)
                velocity = _blurred(velocity + step, self.smoothing)
        return _on_grid(velocity, shape)

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
        velocity = self.velocity(moving, fixed)
        forth, back = (integrate(sign * velocity, self.integration_steps) for sign in (1, -1))
        return {"velocity": velocity, "ddf": forth, "inverse_ddf": back}


def gauss_newton_step(moving: Tensor, fixed: Tensor, ddf: Tensor, damping: float) -> Tensor:
    """One Gauss-Newton step (B, 3, *S) towards the displacement between two images (B, C, *S).

    With r = fixed - warp(moving, ddf) and J the mean of the gradients of both, it is the d that minimises
    |r - J d|^2 in a Gaussian window around each voxel, damped by ``damping`` and half of |r|^2, and no longer
    than a voxel.

    Source: Lucas and Kanade, IJCAI 1981, with the symmetric gradient of Vercauteren et al., 2009.
    """
    warped = warp(moving, ddf, padding_mode="border")
    residual = fixed - warped
    slopes = torch.stack(torch.gradient(0.5 * (fixed + warped), dim=[2, 3, 4]), 1)
    squares = [(slopes[:, a] * slopes[:, b]).sum(1) for a, b in _AXES]
    errors = [(slopes[:, a] * residual).sum(1) for a in range(3)]
    window = _blurred(torch.stack([*squares, *errors, residual.square().sum(1)], 1), 1.0)
    matrix = window[:, _ENTRIES].movedim(1, -1).unflatten(-1, (3, 3))
    weight = damping + 0.5 * window[:, 9]
    matrix = matrix + weight[..., None, None] * torch.eye(3).to(window)
    step: Tensor = torch.linalg.solve(matrix, window[:, 6:9].movedim(1, -1)).movedim(-1, 1)
    length = step.norm(dim=1, keepdim=True)
    short: Tensor = step * (_LONGEST / length.clamp_min(_LONGEST))
    return short


def _shape(shape: Sequence[int], share: float) -> list[int]:
    """Sides of a grid with this share of the voxels along each axis, whose corners are those of ``shape``."""
    return [max(8, round((side - 1) * share) + 1) for side in shape]


def _on_grid(field: Tensor, shape: Sequence[int]) -> Tensor:
    """A displacement in voxels of its own grid as one in voxels of another with the same corners."""
    factors = [(side - 1) / (before - 1) for side, before in zip(shape, field.shape[2:], strict=True)]
    return _resized(field, shape) * torch.tensor(factors).to(field).view(1, 3, 1, 1, 1)


def _reduced(image: Tensor, shape: Sequence[int]) -> Tensor:
    """An image on a coarser grid, blurred before it."""
    factor = image.shape[2] / shape[0]
    return _resized(_blurred(image, 0.45 * (factor**2 - 1) ** 0.5) if factor > 1 else image, shape)


def _resized(image: Tensor, shape: Sequence[int]) -> Tensor:
    return F.interpolate(image, size=list(shape), mode="trilinear", align_corners=True)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur along the three axes, the border going on as it is."""
    if sigma <= 0:
        return image
    kernel = gaussian_1d(torch.tensor(sigma), truncated=3.0).to(image)
    batch = image.flatten(0, 1)[:, None]
    blurred: Tensor = separable_filtering(batch, [kernel] * 3, mode="replicate")
    return blurred[:, 0].view(image.shape)
