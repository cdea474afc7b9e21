"""A U-Net that outlines what is abnormal, trained on artificial anomalies in healthy images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from monai.networks.nets import BasicUNet
from torch import nn
from torch.nn import functional as F

from robustmed_monai.transforms.blur import mean_and_spread
from robustmed_monai.utils.errors import DataError, ImageShapeError
from robustmed_monai.utils.weights import load_into


class AnomalySegmenter(nn.Module):
    """Image to anomaly map: the probability (B, 1, X, Y) of each pixel to be abnormal.

    It sees the image, the mirrored image (left and right change places, the first of the two axes), and how
    many standard deviations each pixel lies from the mean of healthy images there: images lie in one frame.
    Blocks of 2 x 2 pixels become channels before the U-Net and pixels again after it, a quarter of the time.

    Args:
        image_size: side in pixels of the images, a multiple of 32.
        features: channels of the U-Net's levels, see MONAI's ``BasicUNet``.
        sigma: standard deviation in pixels of the Gaussian that smooths the healthy mean and spread.
        floor: lowest spread, in units of the image: in air all healthy images agree.

    Raises:
        ImageShapeError: when it is applied to images of another size.
    """

    def __init__(
        self,
        image_size: int = 128,
        features: Sequence[int] = (32, 32, 64, 96, 96, 32),
        sigma: float = 2.0,
        floor: float = 0.05,
    ) -> None:
        super().__init__()
        self.image_size, self.sigma, self.floor = image_size, sigma, floor
        self.network = BasicUNet(
            spatial_dims=2,
            in_channels=12,
            out_channels=4,
            features=features,
            norm=("group", {"num_groups": 8}),
        )
        self.mean: torch.Tensor
        self.spread: torch.Tensor
        self.register_buffer("mean", torch.zeros(1, 1, image_size, image_size))
        self.register_buffer("spread", torch.ones(1, 1, image_size, image_size))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Anomaly map (B, 1, X, Y) in [0, 1], float32, of images (B, 1, X, Y) in [0, 1]."""
        if image.shape[1:] != self.mean.shape[1:]:
            raise ImageShapeError(
                f"AnomalySegmenter: takes images (B, 1, {self.image_size}, {self.image_size}), "
                f"got {tuple(image.shape)}."
            )
        # A quarter: most of it then lies in the range of the image.
        unusual = ((image - self.mean) / self.spread / 4).clamp(-2, 2)
        seen = F.pixel_unshuffle(torch.cat([image, image.flip(2), unusual], 1), 2)
        return F.pixel_shuffle(self.network(seen), 2).float().sigmoid()


@torch.no_grad()
def with_mean_and_spread(network: AnomalySegmenter, batches: Iterable[Mapping[str, Any]]) -> AnomalySegmenter:
    """Keep mean and spread of healthy images, batches with `image`, in a network; return it.

    Raises:
        DataError: when there is none.
    """
    images = [torch.as_tensor(batch["image"]).float() for batch in batches]
    if not images:
        raise DataError("AnomalySegmenter: no healthy images; give a data set with a training section.")
    mean, spread = mean_and_spread(torch.cat(images), network.sigma, network.floor)
    network.mean.copy_(mean)
    network.spread.copy_(spread)
    return network


def trained_segmenter(weights: str | os.PathLike[str] | None) -> AnomalySegmenter | None:
    """A segmenter with its weights, of the default settings; None for None.

    Raises:
        WeightsError: when the file cannot be used.
    """
    return None if weights is None else cast(AnomalySegmenter, load_into(AnomalySegmenter(), weights))
