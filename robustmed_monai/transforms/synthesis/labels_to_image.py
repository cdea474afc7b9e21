"""An image of random contrast from a label map: Gaussian intensities per label, and scanner artefacts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustmed_monai.transforms.params import Params, per_image
from robustmed_monai.transforms.synthesis.low_resolution import sample_factors, thick_slices
from robustmed_monai.transforms.synthesis.noise import (
    noise_field,
    normal_rows,
    sample_noise,
    uniform_rows,
)
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

_RADIUS = 3  # of the blur's kernel
Range = float | Sequence[float]  # one number, or the ends of a uniform distribution


@dataclass(frozen=True)
class LabelsToImage:
    """SynthMorph's image from a label map; each step can be switched off by a 0.

    A mean and a spread per label, noise within it; then blur, low resolution, bias field, clipping to [0, 1],
    stretching to [0, 1], gamma, in this order. Intensities are in units of the range [0, 1].

    Args:
        mean: (low, high) of the means of labels 1 and up; those of label 0 are uniform in 0 to ``high``.
        std: (low, high) of the standard deviations within labels 1 and up; likewise for label 0. (0, 0) makes
            labels flat.
        means: for each label a number, or (low, high), instead of ``mean``: a wanted contrast, such as that
            of a T2-weighted brain. As many as there are labels.
        zero_background: probability that label 0 is 0 throughout.
        blur: largest standard deviation in voxels of the Gaussian blur along each axis, uniform from 0.
        low_resolution: probability of thick slices along one axis, averaged and interpolated back.
        thickness: (low, high) of their thickness in voxels, at least 1.
        bias_std: the logarithm of the bias field has a standard deviation uniform between 0 and this.
        bias_scale: distance of the bias field's nodes in voxels.
        stretch: stretch the intensities of each image to [0, 1].
        gamma_std: standard deviation of the logarithm of gamma.

    Raises:
        ConfigError: when a setting is out of range.

    Source: ``labels_to_image`` with the settings of ``train_synthmorph.py`` (Hoffmann et al., "SynthMorph",
    IEEE TMI 2022), whose range is 0 to 255; thick slices as in its later version. The blur does not darken
    the border, as zero padding would.

    Example:
        >>> to_image, generator = LabelsToImage(), torch.Generator().manual_seed(0)
        >>> labels = torch.randint(0, 4, (2, 1, 32, 32), generator=generator)
        >>> image = to_image.apply(labels, to_image.sample(2, 4, (32, 32), generator))
        >>> image.shape, image.min().item(), image.max().item()
        (torch.Size([2, 1, 32, 32]), 0.0, 1.0)
    """

    mean: Sequence[float] = (25 / 255, 225 / 255)
    std: Sequence[float] = (5 / 255, 25 / 255)
    means: Sequence[Range] | None = None
    zero_background: float = 0.2
    blur: float = 1.0
    low_resolution: float = 0.0
    thickness: Sequence[float] = (1.0, 8.0)
    bias_std: float = 0.3
    bias_scale: float = 40.0
    stretch: bool = True
    gamma_std: float = 0.25

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("mean", "std", "thickness"):
            low, high = getattr(self, name)
            if not (name == "thickness") <= low <= high < math.inf:
                raise ConfigError(
                    f"LabelsToImage: {name}={(low, high)} must rise from {int(name == 'thickness')}."
                )
        for name in ("zero_background", "low_resolution"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"LabelsToImage: {name}={getattr(self, name)} is a probability, 0 to 1.")
        for name in ("blur", "bias_std", "gamma_std"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"LabelsToImage: {name}={getattr(self, name)} must not be negative.")
        if self.bias_scale <= 0:
            raise ConfigError(f"LabelsToImage: bias_scale={self.bias_scale} must be positive.")

    def sample(self, rows: int, num_labels: int, size: Sequence[int], generator: torch.Generator) -> Params:
        """Draw the contrasts and artefacts of ``rows`` images on the generator's device.

        Args:
            rows: number of images B.
            num_labels: number of labels L in the maps.
            size: spatial shape.
            generator: source of the draw.

        Raises:
            ConfigError: when ``means`` has not one entry per label.
        """
        axes = len(size)
        background = torch.rand(rows, 1, generator=generator, device=generator.device) < self.zero_background
        intensities = {
            "mean": self._sample_means(rows, num_labels, generator),
            "std": _per_label(rows, num_labels, self.std, generator),
        }
        for values in intensities.values():
            values[:, :1].masked_fill_(background, 0.0)
        params: Params = {
            **intensities,
            "blur": uniform_rows((rows, axes), 0.0, self.blur, generator),
            "bias": sample_noise(rows, 1, size, (self.bias_scale,), self.bias_std, generator),
            "gamma": normal_rows((rows,), generator).mul_(self.gamma_std).exp_(),
        }
        if self.low_resolution > 0:
            params["thickness"] = sample_factors(rows, axes, self.low_resolution, self.thickness, generator)
        if self.std[1] > 0:
            params["noise"] = normal_rows((rows, 1, *size), generator)
        return params

    def apply(self, labels: Tensor, params: Params) -> Tensor:
        """Compute the images.

        Args:
            labels: (N, 1, *spatial) integers, 0 to L - 1.
            params: of B images; B is a multiple of N. Image b shows map b modulo N, so two draws of the same
                maps are one call.

        Returns:
            (B, 1, *spatial) float32 in [0, 1].

        Raises:
            ImageShapeError: when labels and parameters do not fit.
        """
        images = _paint(labels, params)
        if self.blur > 0:
            images = blur_rows(images, params["blur"])
        if "thickness" in params:
            images = thick_slices(images, params["thickness"])
        if self.bias_std > 0:
            images.mul_(noise_field(params["bias"], images.shape[2:]).exp_())
        images.clamp_(0, 1)
        if self.stretch:
            _stretch(images)
        return images.pow_(per_image(params["gamma"], images)) if self.gamma_std > 0 else images

    def _sample_means(self, rows: int, num_labels: int, generator: torch.Generator) -> Tensor:
        if self.means is None:
            return _per_label(rows, num_labels, self.mean, generator)
        if len(self.means) != num_labels:
            raise ConfigError(
                f"LabelsToImage: means has {len(self.means)} entries, the maps have {num_labels} labels."
            )
        ends = [(m, m) if isinstance(m, int | float) else tuple(m) for m in self.means]
        low, high = torch.tensor(ends, dtype=torch.float32, device=generator.device).unbind(1)
        return low + (high - low) * uniform_rows((rows, num_labels), 0.0, 1.0, generator)


def blur_rows(images: Tensor, std: Tensor) -> Tensor:
    """Gaussian blur with a kernel of 7 voxels along each axis.

    Args:
        images: (B, C, *spatial) float.
        std: (B, d) standard deviations in voxels; 0 leaves an axis as it is.

    Returns:
        Blurred images; at the border the kernel is cut off and its weights sum to one all the same.
    """
    offsets = torch.arange(1, _RADIUS + 1, device=images.device)
    for axis in range(images.ndim - 2):
        side = images.shape[axis + 2]
        weights = torch.exp(-0.5 * (offsets / std[:, axis, None].clamp_min(1e-3)) ** 2)
        total = images.new_ones(len(images), side)
        blurred = images.clone()
        for offset in range(1, min(_RADIUS, side - 1) + 1):
            weight = weights[:, offset - 1]
            for to, start in ((0, offset), (offset, 0)):
                length = side - offset
                blurred.narrow(axis + 2, to, length).addcmul_(
                    images.narrow(axis + 2, start, length), per_image(weight, images)
                )
                total.narrow(1, to, length).add_(weight[:, None])
        shape = [side if axis == k else 1 for k in range(images.ndim - 2)]
        images = blurred.div_(total.view(len(images), 1, *shape))
    return images


def _stretch(images: Tensor) -> Tensor:
    """Map the intensities of each image to [0, 1], in place; an image flat to 1/1000 becomes 0, nearly."""
    low, high = torch.aminmax(images.flatten(1), dim=1)
    span = (high - low).clamp_min(1e-3)
    return images.sub_(per_image(low, images)).div_(per_image(span, images))


def _per_label(rows: int, num_labels: int, ends: Sequence[float], generator: torch.Generator) -> Tensor:
    values = uniform_rows((rows, num_labels), 0.0, 1.0, generator)
    values[:, 1:].mul_(ends[1] - ends[0]).add_(ends[0])
    values[:, :1].mul_(ends[1])
    return values


def _paint(labels: Tensor, params: Params) -> Tensor:
    """mean[label] + std[label] * noise."""
    mean = params["mean"]
    rows, num_labels = mean.shape
    if labels.ndim not in (4, 5) or labels.shape[1] != 1 or rows % labels.shape[0]:
        raise ImageShapeError(
            f"labels_to_image: labels of shape {tuple(labels.shape)} and parameters of {rows} images; labels "
            "are (N, 1, *spatial) with 2 or 3 axes, N a divisor of the number of images."
        )
    # The numbers of all images lie in one row: beyond its own, a label would take the next image's contrast.
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_labels:
        raise ImageShapeError(
            f"labels_to_image: labels {int(labels.min())} to {int(labels.max())} for contrasts of labels 0 "
            f"to {num_labels - 1}; give as many means as there are labels."
        )
    shape = (rows, 1, *labels.shape[2:])
    index = labels.to(torch.int32).repeat(rows // len(labels), *[1] * (labels.ndim - 1))
    offsets = torch.arange(0, rows * num_labels, num_labels, dtype=torch.int32, device=labels.device)
    index = index.add_(offsets.view(-1, *[1] * (labels.ndim - 1))).flatten()
    images: Tensor = mean.flatten().index_select(0, index).view(shape)
    if "noise" in params:
        images.addcmul_(params["std"].flatten().index_select(0, index).view(shape), params["noise"])
    return images
