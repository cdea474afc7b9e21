"""Objective of registration networks: likeness of the moved image and smoothness of the field."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import torch
from monai.losses.image_dissimilarity import LocalNormalizedCrossCorrelationLoss
from torch import nn
from torch.nn import functional as F

from robustmed_monai.transforms.fields import folding, warp
from robustmed_monai.utils.errors import ConfigError

SIMILARITIES = ("mse", "lncc")
COMPARED = ("features", "target", "label")
# Windows whose variance is below this share of the image's are taken for flat: they say nothing.
_FLAT = 1e-3


def mean_squared_difference(moved: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """Mean squared difference over all values, a scalar."""
    return (moved.float() - fixed.float()).square().mean()


def local_cross_correlation(moved: torch.Tensor, fixed: torch.Tensor, kernel_size: int = 9) -> torch.Tensor:
    """1 - squared local normalised cross-correlation, a scalar in [0, 1]; 0 where one is affine in the other.

    MONAI's loss on channels of zero mean and unit variance, with a lower bound on the variance of a window
    that is above float32's rounding. As it stands, its bound of 1e-5 is below the rounding of a flat bright
    window and lets the quotient grow to 1e10.

    Args:
        moved: (B, C, *S).
        fixed: (B, C, *S).
        kernel_size: side of the windows in voxels, odd.

    Example:
        >>> x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> round(local_cross_correlation(x, 5 - 2 * x).item(), 4)
        0.0
    """
    axes = moved.ndim - 2
    bound = _FLAT * kernel_size**axes
    loss = LocalNormalizedCrossCorrelationLoss(axes, kernel_size, smooth_nr=0.0, smooth_dr=bound)
    similarity: torch.Tensor = loss(_of_unit_variance(moved), _of_unit_variance(fixed))
    return 1 + similarity


def smoothness(ddf: torch.Tensor) -> torch.Tensor:
    """Mean squared forward difference of a field (B, d, *S) over components, places and axes, a scalar.

    MONAI's DiffusionLoss takes central differences, which do not see a checkerboard.

    Example:
        >>> x, y = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        >>> checkers = ((x + y) % 2).expand(1, 2, 4, 4)
        >>> smoothness(checkers)
        tensor(1.)
    """
    axes = range(2, ddf.ndim)
    return torch.stack([ddf.float().diff(dim=axis).square().mean() for axis in axes]).mean()


def averaged(images: torch.Tensor, side: int) -> torch.Tensor:
    """Mean of the voxels around each within a square or cube of an odd side, the border's of those inside.

    Args:
        images: (B, C, *S), two or three spatial axes.
        side: in voxels; 1 changes nothing.
    """
    if side == 1:
        return images
    pool = F.avg_pool2d if images.ndim == 4 else F.avg_pool3d
    mean: torch.Tensor = pool(images, side, 1, side // 2, count_include_pad=False)
    return mean


def _of_unit_variance(images: torch.Tensor) -> torch.Tensor:
    values = images.float()
    axes = list(range(2, values.ndim))
    values = values - values.mean(axes, keepdim=True)
    # An image without contrast stays 0.
    return values / values.square().mean(axes, keepdim=True).clamp_min(1e-12).sqrt()


class RegistrationLoss:
    """similarity + weight * smoothness, as an objective of a MultiOptimizerTrainer.

    Args:
        similarity: "mse" or "lncc".
        compare: what is moved and compared: "features", what the network sees (the images where it has no
            features); "target", the images as they were before a PairTransform; or "label", whatever
            PreparePair put there.
        weight: weight of the smoothness.
        kernel_size: window of "lncc" in voxels.
        blur: side of the square over which both are averaged before one is moved, odd. Features are full of
            detail that does not match between subjects. Interpolation averages it away, so that fields of
            half a voxel make them alike where nothing was found: averaging all before takes that gain away.
        represented: the batch holds features instead of images.
        network: name of the network among those of the trainer.

    Raises:
        ConfigError: for a setting out of range.
    """

    def __init__(
        self,
        similarity: str = "mse",
        compare: str = "features",
        weight: float = 0.1,
        kernel_size: int = 9,
        blur: int = 1,
        represented: bool = False,
        network: str = "network",
    ) -> None:
        if similarity not in SIMILARITIES or compare not in COMPARED:
            raise ConfigError(
                f"similarity={similarity!r}, compare={compare!r}; choose one of {list(SIMILARITIES)} and of "
                f"{list(COMPARED)}."
            )
        if weight < 0 or kernel_size < 3 or kernel_size % 2 == 0 or blur < 1 or blur % 2 == 0:
            raise ConfigError(
                f"weight={weight}, kernel_size={kernel_size}, blur={blur}; give a weight >= 0, an odd window "
                ">= 3 and an odd blur >= 1."
            )
        self.similarity = similarity
        self.compare = compare
        self.weight = weight
        self.kernel_size = kernel_size
        self.blur = blur
        self.represented = represented
        self.network = network

    def __call__(
        self,
        networks: Mapping[str, nn.Module],
        batch: MutableMapping[str, torch.Tensor],
        generator: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """Return "loss" and its terms "similarity", "smoothness" (unweighted) and "folds" (share of voxels).

        Args:
            networks: name to RegistrationNet.
            batch: `image` (B, 2 C, *S): moving and fixed; `target` or `label` alike when they are compared.
                The displacement is left in it as `pred`.
            generator: not used.
        """
        moving, fixed = batch["image"].chunk(2, dim=1)
        found = networks[self.network](moving, fixed, inverse=False, represented=self.represented)
        if self.compare == "features":
            first, second = found["moving_features"], found["fixed_features"]
        else:
            first, second = batch[self.compare].chunk(2, dim=1)
        with torch.autocast(moving.device.type, enabled=False):
            first, second = (averaged(x.float(), self.blur) for x in (first, second))
            similarity = self._compare(warp(first, found["ddf"]), second)
            smooth = smoothness(found["ddf"])
        batch["pred"] = found["ddf"].detach()
        return {
            "loss": similarity + self.weight * smooth,
            "similarity": similarity,
            "smoothness": smooth,
            "folds": folding(found["ddf"].detach()).mean(),
        }

    def _compare(self, moved: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        if self.similarity == "mse":
            return mean_squared_difference(moved, fixed)
        return local_cross_correlation(moved, fixed, self.kernel_size)
