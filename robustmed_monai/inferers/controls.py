"""Untrained baselines of anomaly detection: what a method must beat to mean anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.inferers.inferer import Inferer
from torch import nn

from robustmed_monai.transforms.blur import gaussian_blur, mean_and_spread
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import DataError

Scores = dict[str, torch.Tensor]


def intensity(image: torch.Tensor) -> Scores:
    """The image (B, C, X, Y) is its own "anomaly_map": bright is abnormal."""
    return {"anomaly_map": image.mean(1, keepdim=True)}


def no_anomaly(image: torch.Tensor) -> Scores:
    """Nothing is abnormal anywhere: an "anomaly_map" of zeros, the figures of chance."""
    return {"anomaly_map": torch.zeros_like(image[:, :1])}


def head_area(image: torch.Tensor, threshold: float = 0.1) -> Scores:
    """All pixels above ``threshold`` are abnormal, so that the image score is the area of the head."""
    return {"anomaly_map": (image.mean(1, keepdim=True) > threshold).float()}


class MeanImageControl(nn.Module):
    """The pseudo-healthy image of everyone is the mean of the training images.

    Args:
        batches: training images, each batch with `image` (B, C, X, Y) in [0, 1].

    Raises:
        DataError: when there is none.
    """

    def __init__(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
        super().__init__()
        images = _all_images(batches, "mean image")
        self.mean: torch.Tensor
        self.register_buffer("mean", images.mean(0, keepdim=True, dtype=torch.float64).float())

    def forward(self, image: torch.Tensor) -> Scores:
        """Return "pred" (the mean image) and "anomaly_map" = |x - mean| of images in [0, 1]."""
        image = unit_range(image, "MeanImageControl")
        pred = self.mean.to(image.device).expand_as(image)
        return {"pred": pred, "anomaly_map": (image - pred).abs().mean(1, keepdim=True)}


class ZScoreControl(nn.Module):
    """How far each pixel lies from the training images' mean there, in their standard deviations.

    Args:
        batches: training images, each batch with `image` (B, C, X, Y) in [0, 1].
        sigma: standard deviation in pixels of the Gaussian that smooths mean and spread, and the map.
        floor: lowest spread, in units of the image: in air all training images agree.

    Raises:
        DataError: when there is no image.
    """

    def __init__(
        self, batches: Iterable[Mapping[str, torch.Tensor]], sigma: float = 2.0, floor: float = 0.05
    ) -> None:
        super().__init__()
        images = _all_images(batches, "z-score")
        self.sigma = sigma
        self.mean: torch.Tensor
        self.spread: torch.Tensor
        mean, spread = mean_and_spread(images, sigma, floor)
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, image: torch.Tensor) -> Scores:
        """Return "anomaly_map" of images in [0, 1]."""
        image = unit_range(image, "ZScoreControl")
        score = ((image - self.mean.to(image.device)) / self.spread.to(image.device)).abs()
        return {"anomaly_map": gaussian_blur(score.mean(1, keepdim=True), self.sigma)}


class PCAControl(nn.Module):
    """The pseudo-healthy image is the projection onto principal components of the training images.

    Args:
        batches: training images, each batch with `image` (B, C, X, Y) in [0, 1].
        components: number of components; no more than there are images.
        sigma: standard deviation in pixels of the Gaussian that smooths the map.

    Raises:
        DataError: when there is no image.
    """

    def __init__(
        self, batches: Iterable[Mapping[str, torch.Tensor]], components: int = 32, sigma: float = 2.0
    ) -> None:
        super().__init__()
        images = _all_images(batches, "PCA residual")
        self.sigma = sigma
        self.mean: torch.Tensor
        self.axes: torch.Tensor
        self.register_buffer("mean", images.mean(0, keepdim=True))
        centred = (images - self.mean).flatten(1)
        # Of few images with many pixels: the axes follow from the images' inner products.
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        kept = (values.flip(0) > 1e-6 * values.max()).nonzero().flatten()[:components]
        self.register_buffer("axes", nn.functional.normalize(vectors.flip(1)[:, kept].T @ centred, dim=1))

    def forward(self, image: torch.Tensor) -> Scores:
        """Return "pred", the projection of images in [0, 1], and "anomaly_map", the smoothed |x - pred|."""
        image = unit_range(image, "PCAControl")
        mean, axes = self.mean.to(image.device), self.axes.to(image.device)
        codes = (image - mean).flatten(1) @ axes.T
        pred = (codes @ axes).view_as(image) + mean
        return {
            "pred": pred,
            "anomaly_map": gaussian_blur((image - pred).abs().mean(1, keepdim=True), self.sigma),
        }


class ResizedInferer(Inferer):
    """Applies the inferer of a network that was trained on images of another size.

    Args:
        inferer: called with images and the network; returns a dictionary of images.
        image_size: side in pixels that it is given.
        sigma: standard deviation, in pixels of the image, of the Gaussian that smooths "anomaly_map"; 0
            leaves it as it is.
    """

    def __init__(self, inferer: Callable[..., Scores], image_size: int, sigma: float = 0.0) -> None:
        super().__init__()
        self.inferer = inferer
        self.image_size = image_size
        self.sigma = sigma

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Scores:
        """Bring images (B, C, X, Y) in [0, 1] to the size, and what comes out back to theirs."""
        image = unit_range(torch.as_tensor(inputs), "ResizedInferer").float()
        found = self.inferer(_resized(image, (self.image_size, self.image_size)), network, *args, **kwargs)
        resized = {key: _resized(value, image.shape[-2:]) for key, value in found.items()}
        if self.sigma:
            resized["anomaly_map"] = gaussian_blur(resized["anomaly_map"], self.sigma)
        return resized


def _resized(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return nn.functional.interpolate(image, tuple(size), mode="bilinear", align_corners=False, antialias=True)


def _all_images(batches: Iterable[Mapping[str, torch.Tensor]], name: str) -> torch.Tensor:
    images = [batch["image"].float() for batch in batches]
    if not images:
        raise DataError(f"{name}: no training images; give a data set with a training section.")
    return torch.cat(images)


def brain_intensity(batch: Mapping[str, torch.Tensor], clip: float = 1.5) -> Scores:
    """Mean z-score of the `brain` as "score_elbo"; "map_intensity" is the `image` above the background."""
    image, brain = batch["image"], batch["brain"]
    inside = brain.flatten(1).sum(1).clamp(min=1)
    score = (image * brain).flatten(1).sum(1) / inside
    return {"score_elbo": score, "map_intensity": (image + clip).clamp(min=0)}


def slice_position(batch: Mapping[str, torch.Tensor]) -> Scores:
    """Nearness of a slice to the middle of its volume, by `position`, as "score_elbo"."""
    return {"score_elbo": -(batch["position"] - 0.5).abs()}


def brain_area(batch: Mapping[str, torch.Tensor]) -> Scores:
    """Share of the slice that is `brain` as "score_elbo"."""
    return {"score_elbo": batch["brain"].flatten(1).mean(1)}
