"""Gates: what could warn of an image before a model fails on it, each a function of images in [0, 1]."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from robustmed_monai.apps.stress.data import StressData
from robustmed_monai.inferers.probe import load_heads
from robustmed_monai.inferers.risc import RotationCorrectionInferer
from robustmed_monai.inferers.unoranic import RestorationInferer
from robustmed_monai.metrics.conformal import conformal_threshold, images_needed
from robustmed_monai.networks.risc import load_risc
from robustmed_monai.networks.unoranic_pca import unoranic_network
from robustmed_monai.transforms.ood_statistics import (
    Statistics,
    appearance_distance,
    is_unlike,
    training_statistics,
)
from robustmed_monai.transforms.volume_slices import resize_to_square
from robustmed_monai.utils.errors import DataError
from robustmed_monai.utils.weights import load_info, load_into

# Images (B, C, X, Y[, Z]) in [0, 1] to (B,) bool, True where the gate warns.
Gate = Callable[[Tensor], Tensor]

_SIDE = 128  # images of a reference are looked at in at most this size
_SHARE = 0.05  # of healthy images that the p-value may warn of
_AT_MOST = 2000  # images of a reference


def reference_images(data: StressData) -> Tensor:
    """Images of a set as the gates see them, (N, C, S, S); of volumes the middle slices.

    Args:
        data: images like those that the model was trained on, such as the validation section.
    """
    step = max(1, -(-len(data) // _AT_MOST))
    return torch.cat([_pictures(data.views(i).images, middle=True) for i in range(0, len(data), step)])


def familiarity_gate(statistics: Statistics) -> Gate:
    """Warns where an image is unlike the training data, see ``transforms.ood_statistics``.

    Args:
        statistics: ``training_statistics(reference_images(data))``.
    """
    return _Familiarity(statistics)


def p_value_gate(reference: Tensor, share: float = _SHARE) -> Gate:
    """Warns where the conformal p-value of an image's appearance is at most ``share``.

    Args:
        reference: (N, C, S, S) of ``reference_images``; a half gives the statistics, the other calibrates.
        share: of images like these that are warned of, at most.

    Raises:
        DataError: for fewer images than the share needs.
    """
    needed = 2 * max(images_needed(share), 20)
    if len(reference) < needed:
        raise DataError(f"reference: {len(reference)} images; a p-value of {share:g} needs {needed}.")
    statistics = training_statistics(reference[::2])
    healthy = appearance_distance(reference[1::2], statistics).numpy()
    return _PValue(statistics, conformal_threshold(healthy, share))


def rotation_gate(weights: str | os.PathLike[str], min_confidence: float = 0.9) -> Gate:
    """Warns where RISC's RotNet finds an image turned, or is not sure.

    Args:
        weights: of ``bundles/risc``.
        min_confidence: below it RotNet is not sure.
    """
    inferer = RotationCorrectionInferer(load_risc(weights).rotnet, axes="XY", outputs="logits")
    return _Rotation(inferer, min_confidence)


def corruption_gate(weights: str | os.PathLike[str], limit: float = 0.5) -> Gate:
    """Warns where unORANIC's corruption score is above ``limit``.

    Args:
        weights: of ``bundles/unoranic``, with a head for corruption.
        limit: probability of being corrupted.
    """
    return _Corruption(load_unoranic(weights), RestorationInferer(load_heads(weights)), limit)


def load_unoranic(weights: str | os.PathLike[str]) -> torch.nn.Module:
    """UnORANIC's network with its weights."""
    info = load_info(weights)
    network = unoranic_network(info, info.get("in_channels", 1), info.get("image_size", 28))
    return load_into(network, weights).eval()


class _Familiarity:
    def __init__(self, statistics: Statistics) -> None:
        self.statistics = statistics

    def __call__(self, images: Tensor) -> Tensor:
        return _by_image(images, lambda pictures: is_unlike(pictures, self.statistics))


class _PValue:
    def __init__(self, statistics: Statistics, threshold: float) -> None:
        self.statistics, self.threshold = statistics, threshold

    def __call__(self, images: Tensor) -> Tensor:
        return _by_image(
            images, lambda pictures: appearance_distance(pictures, self.statistics) >= self.threshold
        )


class _Rotation:
    def __init__(self, inferer: RotationCorrectionInferer, min_confidence: float) -> None:
        self.inferer, self.min_confidence = inferer, min_confidence

    def __call__(self, images: Tensor) -> Tensor:
        def look(pictures: Tensor) -> Tensor:
            side = max(pictures.shape[2:])
            square = pictures if pictures.shape[2] == pictures.shape[3] else resize_to_square(pictures, side)
            confidence, index = self.inferer.posterior(square).max(1)
            return (index != 0) | (confidence < self.min_confidence)

        return _by_image(images, look)


class _Corruption:
    def __init__(self, network: torch.nn.Module, inferer: RestorationInferer, limit: float) -> None:
        self.network, self.inferer, self.limit = network, inferer, limit

    def __call__(self, images: Tensor) -> Tensor:
        return _by_image(
            images, lambda pictures: self.inferer(pictures, self.network)["corruption_score"] > self.limit
        )


def _by_image(images: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
    """What a gate says of pictures; of a volume what it says of most of its middle slices."""
    if images.ndim == 4:
        return look(_pictures(images))
    said = [look(_pictures(image[None], middle=True)).double().mean() > 0.5 for image in images]
    return torch.stack(said)


def _pictures(images: Tensor, middle: bool = False) -> Tensor:
    if images.ndim == 5:
        third = images.shape[4] // 3
        kept = images[..., third : images.shape[4] - third] if middle else images
        images = kept.movedim(4, 1).flatten(0, 1)
    return resize_to_square(images, _SIDE) if max(images.shape[2:]) > _SIDE else images
