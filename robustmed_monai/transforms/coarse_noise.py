"""Coarse noise on the head, and the clean image beside it: the task of a denoising auto-encoder."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from robustmed_monai.transforms.adapters import Batch, BatchTransform
from robustmed_monai.transforms.params import Params, Shape
from robustmed_monai.transforms.unit_range import unit_range
from robustmed_monai.utils.errors import ConfigError


class BatchCoarseNoise(BatchTransform):
    """Adds smooth blobs of noise to the head in `image`; the image without them becomes `label`.

    White noise of ``cells`` x ``cells`` values is enlarged bilinearly to the image and shifted around its
    border by a random number of pixels, so that its grid is nowhere the same.

    Args:
        std: standard deviation of the white noise, in units of the image.
        cells: values of the noise along a side.

    Raises:
        ConfigError: for a number that is not above 0.

    Source: Kascenas et al., "Denoising Autoencoders for Unsupervised Anomaly Detection in Brain MRI", MIDL
    2022: 16 cells, standard deviation 0.2.

    Example:
        >>> image = torch.ones(2, 1, 32, 32)
        >>> noisy = BatchCoarseNoise()({"image": image}, torch.Generator().manual_seed(0))
        >>> torch.equal(noisy["label"], image), torch.equal(noisy["image"], image)
        (True, False)
    """

    def __init__(self, std: float = 0.2, cells: int = 16) -> None:
        if std <= 0 or cells < 1:
            raise ConfigError(f"std={std}, cells={cells}: both must be above 0.")
        self.std = std
        self.cells = cells

    def sample(self, shape: Shape, generator: torch.Generator) -> Params:
        """Draw `noise` (B, C, cells, cells) and `shift` (B, 2), the share of each side it is moved by."""
        noise = torch.randn(*shape[:2], self.cells, self.cells, generator=generator)
        return {"noise": noise, "shift": torch.rand(shape[0], 2, generator=generator)}

    def apply(self, batch: Batch, params: Params) -> Batch:
        """Return the batch with a noisy `image` (B, C, X, Y) and the clean one as `label`; air stays 0."""
        image = unit_range(batch["image"], "BatchCoarseNoise")
        sides = image.shape[-2:]
        noise = F.interpolate(params["noise"] * self.std, sides, mode="bilinear", align_corners=False)
        moved = [
            blob.roll([int(s * side) for s, side in zip(shift, sides, strict=True)], (-2, -1))
            for blob, shift in zip(noise, params["shift"], strict=True)
        ]
        head = (image > 0).any(1, keepdim=True)
        return {**batch, "image": image + torch.stack(moved) * head, "label": image}
