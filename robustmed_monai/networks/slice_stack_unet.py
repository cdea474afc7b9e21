"""A U-Net on slices with their neighbours above and below, applied to stacks of any number of slices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from robustmed_monai.utils.errors import ImageShapeError


class SliceStackUNet(nn.Module):
    """MONAI's ``BasicUNet`` in two dimensions on each slice of a stack and its neighbours.

    The outermost slices are their own neighbours.

    Args:
        neighbours: slices above and below that are seen.
        num_classes: labels are 0 to ``num_classes - 1``.
        features: channels of the U-Net's levels, see ``BasicUNet``.
        batch: slices at once where nothing is learnt.

    Raises:
        ImageShapeError: when it is applied to anything but stacks of one channel.

    Example:
        >>> network = SliceStackUNet(1, features=(4, 4, 4, 4, 4, 4)).eval()
        >>> network(torch.rand(2, 1, 32, 48, 3)).shape
        torch.Size([2, 4, 32, 48, 3])
    """

    def __init__(
        self,
        neighbours: int = 2,
        num_classes: int = 4,
        features: Sequence[int] = (16, 16, 32, 32, 48, 16),
        batch: int = 16,
    ) -> None:
        super().__init__()
        self.neighbours, self.batch = neighbours, batch
        act = ("LeakyReLU", {"negative_slope": 0.1, "inplace": True})
        self.network = BasicUNet(2, 2 * neighbours + 1, num_classes, features, act=act, norm="batch")

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, num_classes, X, Y, S) of stacks (B, 1, X, Y, S), as ``standardised`` gives them."""
        if image.ndim != 5 or image.shape[1] != 1:
            raise ImageShapeError(f"SliceStackUNet: takes stacks (B, 1, X, Y, S), got {tuple(image.shape)}.")
        last = image.shape[-1] - 1
        beside = torch.arange(-self.neighbours, self.neighbours + 1, device=image.device)
        places = (torch.arange(last + 1, device=image.device)[:, None] + beside).clamp(0, last)
        # (B, X, Y, S, K) to (B * S, K, X, Y)
        seen = image[:, 0][..., places].permute(0, 3, 4, 1, 2).flatten(0, 1)
        parts = [seen] if self.training else seen.split(self.batch)
        found = torch.cat([self.network(part) for part in parts])
        stacks: Tensor = found.unflatten(0, (len(image), last + 1))
        return stacks.permute(0, 2, 3, 4, 1)
