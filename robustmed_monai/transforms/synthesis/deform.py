"""Smooth invertible deformation: a random stationary velocity, integrated, and an optional affine map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from robustmed_monai.transforms.fields import compose, integrate
from robustmed_monai.transforms.params import Params
from robustmed_monai.transforms.synthesis.label_shapes import natural_scale
from robustmed_monai.transforms.synthesis.noise import enlarge, noise_field, sample_noise, uniform_rows
from robustmed_monai.utils.errors import ConfigError


@dataclass(frozen=True)
class DiffeomorphicDeform:
    """Random diffeomorphism by scaling and squaring at half resolution, after an optional affine map.

    Args:
        std: the velocity has per scale a standard deviation uniform between 0 and this, in voxels; 0 switches
            the velocity off; None for 3/16 k with k of ``natural_scale`` (6 voxels at 192 x 160).
        scales: distances of the velocity grids' nodes in voxels; None for (k / 2, k).
        steps: squarings.
        rotate: largest rotation in degrees in each plane, either way.
        shift: largest shift along each axis as a share of the side, either way.
        zoom: largest change of scale along each axis: a factor uniform in 1 - zoom to 1 + zoom.
        shear: largest shear of each axis along another, either way.

    Raises:
        ConfigError: when a setting is out of range.

    Source: step 1 and 2 of ``labels_to_image`` (Hoffmann et al., "SynthMorph", IEEE TMI 2022).

    Example:
        >>> deform, generator = DiffeomorphicDeform(), torch.Generator().manual_seed(0)
        >>> deform.apply(deform.sample(2, (48, 40), generator), (48, 40)).shape
        torch.Size([2, 2, 48, 40])
    """

    std: float | None = None
    scales: Sequence[float] | None = None
    steps: int = 5
    rotate: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0

    def __post_init__(self) -> None:
        """Check the settings."""
        ranges = (self.std or 0.0, self.rotate, self.shift, self.zoom, self.shear)
        if min(ranges) < 0 or not all(map(math.isfinite, ranges)) or self.zoom >= 1 or self.steps < 0:
            raise ConfigError(
                f"{self}: ranges are finite and not negative, zoom is below 1, steps is not negative."
            )

    @property
    def affine(self) -> bool:
        """Whether there is an affine part."""
        return max(self.rotate, self.shift, self.zoom, self.shear) > 0

    def sample(self, rows: int, size: Sequence[int], generator: torch.Generator) -> Params:
        """Draw ``rows`` deformations of a spatial shape on the generator's device."""
        k = natural_scale(size)
        std = k * 3 / 16 if self.std is None else self.std
        half = [scale / 2 for scale in self.scales or (k / 2, k)]
        grids = sample_noise(rows, len(size), half_size(size), half, std / 2, generator)
        params: Params = {"velocity": grids}
        if self.affine:
            params["matrix"], params["shift"] = self._sample_affine(rows, size, generator)
        return params

    def apply(self, params: Params, size: Sequence[int], inverse: bool = False) -> Tensor:
        """Compute the displacement: (B, d, *size) in voxels, for ``fields.warp``.

        Args:
            params: what ``sample`` gave.
            size: spatial shape.
            inverse: give the field that undoes it.
        """
        smooth = self._smooth(params, size, inverse)
        if not self.affine:
            return smooth
        matrix, shift = params["matrix"], params["shift"]
        if not inverse:
            # x -> M (x + u(x)) + t
            return smooth + _affine_field(smooth, matrix, shift)
        back = torch.linalg.inv(matrix)
        affine = _affine_field(torch.zeros_like(smooth), back, -(back @ shift[..., None])[..., 0])
        return compose(smooth, affine)

    def _smooth(self, params: Params, size: Sequence[int], inverse: bool) -> Tensor:
        half = half_size(size)
        velocity = noise_field(params["velocity"], half)
        if self.std == 0:
            return velocity.new_zeros(*velocity.shape[:2], *size)
        ddf = enlarge(integrate(-velocity if inverse else velocity, self.steps), size)
        factors = [(full - 1) / max(small - 1, 1) for full, small in zip(size, half, strict=True)]
        return ddf.mul_(torch.tensor(factors, device=ddf.device).view(-1, *[1] * len(size)))

    def _sample_affine(
        self, rows: int, size: Sequence[int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        axes = len(size)
        planes = list(combinations(range(axes), 2))
        angles = uniform_rows((rows, len(planes)), -1, 1, generator) * math.radians(self.rotate)
        zooms = 1 + self.zoom * uniform_rows((rows, axes), -1, 1, generator)
        shears = self.shear * uniform_rows((rows, axes, axes), -1, 1, generator)
        sides = torch.tensor(size, dtype=torch.float32, device=generator.device)
        shift = self.shift * sides * uniform_rows((rows, axes), -1, 1, generator)
        eye = torch.eye(axes, device=generator.device)
        matrix = torch.diag_embed(zooms) @ (eye + shears * (1 - eye))
        for (i, j), angle in zip(planes, angles.unbind(1), strict=True):
            turn = eye.repeat(rows, 1, 1)
            turn[:, i, i] = turn[:, j, j] = angle.cos()
            turn[:, i, j], turn[:, j, i] = -angle.sin(), angle.sin()
            matrix = turn @ matrix
        return matrix, shift


def half_size(size: Sequence[int]) -> list[int]:
    """Shape at which velocities are integrated."""
    return [(side + 1) // 2 for side in size]


def _affine_field(ddf: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """(M - 1) (x + ddf(x) - centre) + shift for every voxel x."""
    axes = ddf.shape[1]
    sides = ddf.shape[2:]
    places = torch.stack(
        torch.meshgrid(
            *[torch.arange(side, device=ddf.device) - (side - 1) / 2 for side in sides], indexing="ij"
        )
    )
    change = matrix - torch.eye(axes, device=ddf.device)
    moved = (change @ (places + ddf).flatten(2)).view_as(ddf)
    return moved + shift.view(*shift.shape, *[1] * axes)
