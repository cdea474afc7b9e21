"""MIND-SSC: a hand-made description of local self-similarity that does not depend on contrast."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import nn
from torch.nn import functional as F

from robustmed_monai.utils.errors import ConfigError, ImageShapeError


class MINDSSC(nn.Module):
    """Modality independent neighbourhood descriptor of the self-similarity context, batched.

    For each voxel, patches around two of its neighbours are compared; pairs of opposite neighbours are left
    out: 12 channels in 3-D, 4 in 2-D. A module without parameters, to be put wherever an image goes.

    Args:
        spatial_dims: 2 or 3.
        radius: radius of the patches in voxels.
        dilation: distance of the neighbours in voxels.

    Source: Heinrich et al., "Towards realtime multimodal fusion for image-guided interventions using
    self-similarities", MICCAI 2013. The lower and upper bound of the local variance, 0.001 and 1000 times its
    mean, are those of the authors' later work.

    Example:
        >>> image = torch.rand(2, 1, 20, 24)
        >>> MINDSSC(2)(image).shape, torch.allclose(MINDSSC(2)(image), MINDSSC(2)(1 - image), atol=1e-5)
        (torch.Size([2, 4, 20, 24]), True)
    """

    def __init__(self, spatial_dims: int = 2, radius: int = 1, dilation: int = 2) -> None:
        super().__init__()
        if spatial_dims not in (2, 3) or radius < 1 or dilation < 1:
            raise ConfigError(
                f"spatial_dims={spatial_dims}, radius={radius}, dilation={dilation}; give 2 or 3 dimensions, "
                "radius and dilation of at least 1."
            )
        self.spatial_dims = spatial_dims
        self.radius = radius
        self.dilation = dilation
        neighbours = [(axis, sign) for axis in range(spatial_dims) for sign in (-1, 1)]
        self.pairs = [(a, b) for a, b in combinations(neighbours, 2) if a[0] != b[0]]

    @property
    def out_channels(self) -> int:
        """Number of channels: 4 or 12."""
        return len(self.pairs)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Describe images.

        Args:
            image: (B, 1, *S).

        Returns:
            (B, 4 or 12, *S) float32 in (0, 1]; the most similar pair of a voxel has 1.
        """
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != 1:
            raise ImageShapeError(
                f"image {tuple(image.shape)}; give (B, 1, *S) with {self.spatial_dims} spatial dimensions."
            )
        distances = self._distances(image.float())
        distances = distances - distances.amin(1, keepdim=True)
        variance = distances.mean(1, keepdim=True)
        mean = variance.mean(list(range(1, variance.ndim)), keepdim=True).clamp_min(1e-12)
        return torch.exp(-distances / torch.clamp(variance, 0.001 * mean, 1000 * mean))

    def _distances(self, image: torch.Tensor) -> torch.Tensor:
        """Mean squared difference of the patches around the neighbours of each pair."""
        margin, step = self.dilation + self.radius, self.dilation
        padded = F.pad(image, (margin,) * 2 * self.spatial_dims, mode="replicate")
        length = [size + 2 * self.radius for size in image.shape[2:]]

        def shifted(neighbour: tuple[int, int]) -> torch.Tensor:
            axis, sign = neighbour
            start = [step + (sign * step if i == axis else 0) for i in range(self.spatial_dims)]
            place = [slice(s, s + n) for s, n in zip(start, length, strict=True)]
            return padded[(slice(None), slice(None), *place)]

        squares = torch.cat([(shifted(a) - shifted(b)).square() for a, b in self.pairs], dim=1)
        pool = F.avg_pool2d if self.spatial_dims == 2 else F.avg_pool3d
        return pool(squares, 2 * self.radius + 1, stride=1)
