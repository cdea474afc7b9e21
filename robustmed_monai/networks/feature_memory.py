"""Memory of healthy features: an image is abnormal where its features resemble none seen at that place.

The method is PatchCore (Roth et al., CVPR 2022) with SPADE's place (Cohen and Hoshen, 2020): features of a
fixed network at several scales, a coreset of those of healthy images, and the distance to the nearest of it.
Images of one anatomy lie in one frame, so each place keeps its own memory and looks into its neighbours'.
What has two like sides is compared with its other side, too, which was seen by the same scanner. A segmenter
may outline what is found: the memory alone is as coarse as its cells.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from robustmed_monai.networks.anomaly_segmenter import AnomalySegmenter
from robustmed_monai.networks.efficientnet_lite import EfficientNetLite0, is_installed
from robustmed_monai.networks.ra import ReversedAutoEncoder
from robustmed_monai.transforms.blur import gaussian_blur
from robustmed_monai.utils.eight_bits import LARGEST, row_scales
from robustmed_monai.utils.errors import ConfigError, ImageShapeError, WeightsError
from robustmed_monai.utils.weights import load_into

logger = logging.getLogger(__name__)

# A vector that no feature comes near, in the place of those that a small set of images does not have.
FAR = 100.0
# Standard deviation in pixels of the Gaussian before grey values are taken: fine edges differ anyway.
GREY_SIGMA = 2.0
# And in pixels, of the other side's outline: no head is quite symmetric.
OTHER_SIDE_SIGMA = 2.0


class FeatureMemory(nn.Module):
    """Image to anomaly map: the distance of its features to those of healthy images at the same place.

    Feature maps are averaged over 3 x 3, brought to one grid, and each made of unit length; joined, they are
    one vector per cell, where asked with four smoothed grey values. A cell's value is the mean distance to
    the ``neighbours`` nearest vectors of the memory within ``reach`` cells. Dividing it by the distance that
    is usual there between healthy images was tried and is worse: it raises the air around heads of another
    scanner.

    Args:
        backbone: has ``features(images) -> list of (B, C_k, X_k, Y_k)``; it is never trained.
        image_size: side in pixels that images are brought to before the backbone.
        in_channels: channels of the images.
        grid: cells along a side.
        per_cell: vectors that the memory keeps of each cell.
        components: numbers that are kept of a vector, its principal components.
        neighbours: how many nearest vectors count.
        reach: cells to each side that are searched.
        sigma: standard deviation in pixels of the Gaussian that smooths the map.
        intensity: weight of a cell's grey values beside its features; 0 leaves them out. Features of an
            ImageNet backbone hardly tell how bright a region is, but grey values differ between scanners.
        other_side: w of the map (1 - w) M + w S, with M the distance to the memory and S that to the nearest
            place, within ``reach`` cells, of the mirrored image (left and right change places, the first of
            the two axes); 0 leaves the other side out. A product of powers is as good, but 0 for whatever is
            alike on both sides.
        outline: w of the map D + w P, with D the distance so far and P the segmenter's probability, see
            ``outlined``; 0 leaves it out. A product is worse: images are told apart less well,
            and fewer highest points lie in lesions.
        segmenter: network that outlines anomalies, of images of ``image_size``; it is never trained here.

    Raises:
        ConfigError: for a negative ``intensity`` or ``outline``, an ``other_side`` outside of [0, 1), or an
            ``outline`` without a segmenter.
    """

    def __init__(
        self,
        backbone: nn.Module,
        image_size: int = 128,
        in_channels: int = 1,
        grid: int = 32,
        per_cell: int = 48,
        components: int = 64,
        neighbours: int = 3,
        reach: int = 1,
        sigma: float = 1.0,
        intensity: float = 0.0,
        other_side: float = 0.0,
        outline: float = 0.0,
        segmenter: AnomalySegmenter | None = None,
    ) -> None:
        super().__init__()
        if intensity < 0:
            raise ConfigError(f"intensity={intensity}: give 0 or a number above it.")
        if not 0 <= other_side < 1:
            raise ConfigError(f"other_side={other_side}: give a number from 0 to below 1.")
        if outline < 0 or (outline and segmenter is None):
            found = f"outline={outline}" + (" without a segmenter" if segmenter is None else "")
            raise ConfigError(f"{found}: give 0, or a number above it and a trained segmenter.")
        self.intensity, self.other_side, self.outline = intensity, other_side, outline
        self.segmenter = None if segmenter is None else segmenter.requires_grad_(False).eval()
        self.backbone = backbone.requires_grad_(False).eval()
        self.image_size, self.grid = image_size, grid
        self.neighbours, self.reach, self.sigma = neighbours, reach, sigma
        size = self.features(torch.zeros(1, in_channels, image_size, image_size)).shape[1]
        kept = min(components, size)
        self.center: torch.Tensor
        self.components: torch.Tensor
        self.vectors: torch.Tensor
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("components", torch.zeros(size, kept))
        # Whole numbers and one step for each vector: half the size of half precision, and distances stay.
        self.steps: torch.Tensor
        self.register_buffer("vectors", torch.zeros(grid * grid, per_cell, kept, dtype=torch.int8))
        self.register_buffer("steps", torch.ones(grid * grid, per_cell, 1, dtype=torch.float16))
        self.register_load_state_dict_post_hook(_check_loaded)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> FeatureMemory:
        """Set the mode of all but the networks within, which are never trained."""
        super().train(mode)
        for frozen in (self.backbone, self.segmenter):
            if frozen is not None:
                frozen.eval()
        return self

    @torch.no_grad()
    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Vectors (B, D, grid, grid) of images (B, C, X, Y) in [0, 1]: features of length 1, grey values."""
        if image.ndim != 4:
            raise ImageShapeError(f"feature memory: takes images (B, C, X, Y), got {tuple(image.shape)}.")
        image = _resized(image, (self.image_size, self.image_size))
        vectors = [self._on_grid(maps) for maps in cast(Any, self.backbone).features(image)]
        joined: torch.Tensor = torch.cat(vectors, 1) / len(vectors) ** 0.5
        return torch.cat([joined, self.intensity * self._grey_values(image)], 1) if self.intensity else joined

    def _grey_values(self, image: torch.Tensor) -> torch.Tensor:
        """Means (B, 4 C, grid, grid) of the quarters of each cell, halved: root mean square, not sum."""
        smooth = gaussian_blur(image.float(), GREY_SIGMA)
        return F.pixel_unshuffle(F.adaptive_avg_pool2d(smooth, 2 * self.grid), 2) / 2

    def _on_grid(self, features: torch.Tensor) -> torch.Tensor:
        smooth = F.avg_pool2d(features.float(), 3, stride=1, padding=1, count_include_pad=False)
        placed = F.interpolate(smooth, (self.grid, self.grid), mode="bilinear", align_corners=False)
        return F.normalize(placed, dim=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Anomaly map (B, 1, X, Y), >= 0, of images (B, C, X, Y) in [0, 1]."""
        vectors = self.project(self.features(image))
        distance = self.distances(vectors)
        if self.other_side:
            sides = self.between_sides(vectors, self.project(self.features(image.flip(2))))
            distance = (1 - self.other_side) * distance + self.other_side * sides
        cells = distance.T.reshape(-1, 1, self.grid, self.grid)
        placed = F.interpolate(cells, image.shape[-2:], mode="bilinear", align_corners=False)
        found = gaussian_blur(placed, self.sigma)
        return found + self.outline * self.outlined(image) if self.outline else found

    @torch.no_grad()
    def outlined(self, image: torch.Tensor) -> torch.Tensor:
        """Probability (B, 1, X, Y) of each pixel to be abnormal while the other side is not.

        The segmenter sees the image and the mirrored image, and the mean counts. What it outlines on both
        sides is mostly anatomy.
        """
        segmenter = cast(AnomalySegmenter, self.segmenter)
        shown = _resized(image, (self.image_size, self.image_size))
        probability = (segmenter(shown) + segmenter(shown.flip(2)).flip(2)) / 2
        one_sided = probability * (1 - gaussian_blur(probability.flip(2), OTHER_SIDE_SIGMA))
        return _resized(one_sided, image.shape[-2:])

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Principal components (cells, B, K) of features (B, D, grid, grid)."""
        by_cell = features.flatten(2).permute(2, 0, 1)
        return (by_cell - self.center) @ self.components

    def distances(self, vectors: torch.Tensor) -> torch.Tensor:
        """Mean distance (cells, B) of vectors (cells, B, K) to the nearest ones of the memory."""
        memory = self.remembered()
        nearest = []
        for place in self._neighbours(vectors.device):
            found = squared_distances(vectors, memory[place])
            nearest.append(found.topk(min(self.neighbours, found.shape[-1]), largest=False).values)
        joined = torch.cat(nearest, -1)
        return joined.topk(min(self.neighbours, joined.shape[-1]), largest=False).values.sqrt().mean(-1)

    def between_sides(self, vectors: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
        """Distance (cells, B) of vectors (cells, B, K) to the nearest of the mirrored image around a cell.

        The features of the mirrored image, not the mirrored features: a network knows left from right.
        """
        near = [(vectors - mirrored[place]).square().sum(-1) for place in self._neighbours(vectors.device)]
        return torch.stack(near).amin(0).sqrt()

    def _neighbours(self, device: torch.device) -> Iterator[torch.Tensor]:
        """Cells (cells,) that lie at each of the steps within reach; at the border, the border itself."""
        index = torch.arange(self.grid, device=device)
        for right in range(-self.reach, self.reach + 1):
            for down in range(-self.reach, self.reach + 1):
                rows, columns = ((index + step).clamp(0, self.grid - 1) for step in (right, down))
                yield (rows[:, None] * self.grid + columns).flatten()

    @torch.no_grad()
    def remember(self, features: torch.Tensor) -> None:
        """Replace the memory by a coreset of healthy images' features.

        Args:
            features: (N, D, grid, grid), from ``features``.
        """
        self._set_components(features)
        projected = self.project(features)
        images, size = projected.shape[1:]
        kept = min(self.vectors.shape[1], images)
        chosen = coreset(projected, kept)
        vectors = torch.full(self.vectors.shape, FAR, device=projected.device)
        vectors[:, :kept] = projected.gather(1, chosen[..., None].expand(-1, -1, size))
        cells, count = vectors.shape[:2]
        self.steps.copy_(row_scales(vectors.flatten(0, 1)).view(cells, count, 1))
        self.vectors.copy_((vectors / self.steps.float()).round().clamp(-LARGEST, LARGEST))

    def remembered(self) -> torch.Tensor:
        """The vectors (cells, per_cell, K) of the memory."""
        return self.vectors.float() * self.steps.float()

    def _set_components(self, features: torch.Tensor) -> None:
        step = max(1, features.numel() // features.shape[1] // 100_000)
        sample = features.movedim(1, -1).reshape(-1, features.shape[1])[::step].double()
        self.center.copy_(sample.mean(0))
        centred = sample - sample.mean(0)
        axes = torch.linalg.eigh(centred.T @ centred / len(sample)).eigenvectors.flip(1)
        self.components.copy_(axes[:, : self.components.shape[1]])


def _resized(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Images (B, C, X, Y) at another size, or as they are."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, tuple(size), mode="bilinear", align_corners=False)


def _check_loaded(memory: nn.Module, _: Any) -> None:
    """MONAI's ``copy_model_state`` leaves out tensors of another size: the components of other features."""
    own = cast(FeatureMemory, memory)
    if own.vectors.any() and not own.components.any():
        raise WeightsError(
            "feature memory: these weights were made with the features of another backbone than this "
            "network's, or with another `intensity`; take its own: "
            "monai.bundle.load('feature_memory', workflow_type='inference', "
            "model_file='models/efficientnet_lite0.pt') where the extra `features` is installed."
        )


def squared_distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Squared distances (cells, A, B) between vectors (cells, A, K) and (cells, B, K)."""
    lengths = first.square().sum(-1)[..., None] + second.square().sum(-1)[:, None]
    return torch.baddbmm(lengths, first, second.transpose(1, 2), alpha=-2).clamp_min(0)


def coreset(vectors: torch.Tensor, count: int) -> torch.Tensor:
    """Choose vectors that leave none far away: the next is always the one farthest from those chosen.

    Args:
        vectors: (cells, N, K); each cell is on its own.
        count: vectors to choose of each cell, at most N.

    Returns:
        Indices (cells, count); the first is nearest to the mean.

    Source: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022 (k-center greedy).

    Example:
        >>> coreset(torch.tensor([[[0.0], [0.1], [5.0]]]), 2)
        tensor([[1, 2]])
    """
    newest = (vectors - vectors.mean(1, keepdim=True)).square().sum(-1).argmin(1)
    distance = torch.full(vectors.shape[:2], float("inf"), device=vectors.device)
    chosen = []
    for _ in range(count):
        chosen.append(newest)
        vector = vectors.gather(1, newest[:, None, None].expand(-1, 1, vectors.shape[2]))
        distance = torch.minimum(distance, squared_distances(vectors, vector)[..., 0])
        # Never twice the same, even where all are alike.
        distance.scatter_(1, newest[:, None], -1.0)
        newest = distance.argmax(1)
    return torch.stack(chosen, 1)


class RAFeatures(nn.Module):
    """The encoder of the compact RA as a source of features, at strides 4, 8 and 16.

    Args:
        weights: weights file of that RA; None leaves them to those of the memory that is loaded.
    """

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        network = ReversedAutoEncoder(1, 128, (8, 16, 32, 64, 64), 128, "batch")
        if weights is not None:
            load_into(network, weights)
        self.stem, self.stages = network.encoder.stem, network.encoder.stages[:3]

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The embeddings 1, 2 and 3 of images (B, 1, X, Y) in [0, 1]."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


def backbone(name: str, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """A source of features.

    Args:
        name: "efficientnet_lite0" (ImageNet weights of the extra `features`) or "ra" (the encoder of the
            shipped RA, no extra).
        weights: weights file of that RA, see ``RAFeatures``.

    Raises:
        ConfigError: for another name.
        WeightsError: when the extra is not installed.
    """
    if name == "efficientnet_lite0":
        return EfficientNetLite0()
    if name == "ra":
        return RAFeatures(weights)
    raise ConfigError(f"features={name!r} is unknown; use 'efficientnet_lite0' or 'ra'.")


def memory_network(info: Mapping[str, Any], **settings: Any) -> FeatureMemory:
    """The network that weights were made with, without these weights.

    Args:
        info: of the weights: `features`, and what else they name of `intensity`, `other_side` and `outline`.
        settings: others of ``FeatureMemory``, such as ``reach``.

    Raises:
        ConfigError: where the info names no known features.
        WeightsError: when the backbone needs an extra that is not installed.
    """
    weights: dict[str, Any] = {
        key: float(info.get(key, 0.0)) for key in ("intensity", "other_side", "outline")
    }
    segmenter = AnomalySegmenter() if weights["outline"] else None
    return FeatureMemory(backbone(str(info.get("features"))), segmenter=segmenter, **weights, **settings)


def shipped_memory(models: str | os.PathLike[str]) -> str:
    """The best memory of a folder that can be used here: that on EfficientNet-Lite0 needs the extra.

    Args:
        models: folder with ``efficientnet_lite0.pt`` and ``model.pt``, which is on RA's encoder.
    """
    name = "efficientnet_lite0" if is_installed() else "model"
    if name == "model":
        logger.info("features of RA's encoder; pip install 'robustmed_monai[features]' for better ones")
    return str(Path(models) / f"{name}.pt")
