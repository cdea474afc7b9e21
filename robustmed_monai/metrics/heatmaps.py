"""Scores of heat maps: do they turn with the image, and do they show what the classifier looks at."""

from __future__ import annotations

import torch
from monai.networks.utils import eval_mode
from torch import nn

from robustmed_monai.transforms.rotation import circular_mask, rotate
from robustmed_monai.utils.errors import DataError


def rotation_consistency(maps: torch.Tensor, num_rotations: int = 4, mode: str = "isotropic") -> torch.Tensor:
    """Correlation of a heat map of the turned image, turned back, with that of the upright image.

    Args:
        maps: (K, N, 1, S, S): ``maps[k, n]`` is the map of image n turned by rotation k, in that frame.
        num_rotations: K.
        mode: see ``rotate``.

    Returns:
        (N,) mean Pearson correlation over the K - 1 turned copies, in [-1, 1]; NaN where a map is flat. With
        eight rotations all maps are filtered and masked alike and compared within the mask.

    Raises:
        DataError: when the first axis is not K.
    """
    if len(maps) != num_rotations:
        raise DataError(f"maps of {len(maps)} rotations; give those of all {num_rotations}.")
    back = torch.stack([rotate(maps[k], -k, num_rotations, mode) for k in range(num_rotations)])
    weight = torch.ones(maps.shape[-2:])
    if num_rotations == 8:
        weight = (circular_mask(maps.shape[-1]) > 0.5).float()
    flat = back.flatten(2)[..., weight.flatten() > 0].double()
    centred = flat - flat.mean(2, keepdim=True)
    norms = centred.norm(dim=2)
    cosine: torch.Tensor = (centred[1:] * centred[:1]).sum(2) / (norms[1:] * norms[:1])
    return cosine.mean(0)


def deletion_insertion_auc(
    network: nn.Module,
    images: torch.Tensor,
    maps: torch.Tensor,
    class_idx: torch.Tensor,
    steps: int = 16,
    batch_size: int = 256,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Areas under the class probability while the hottest pixels are taken away, and while they are put back.

    Pixels are replaced by the image's own mean, so that nothing but information is lost.

    Args:
        network: image to logits.
        images: (B, C, X, Y) in [0, 1].
        maps: heat maps (B, 1, X, Y).
        class_idx: (B,) the class whose probability is followed.
        steps: steps from no pixel to all pixels.
        batch_size: images that go through the network at once.

    Returns:
        Deletion (B,), low for a good map, and insertion (B,), high for a good map; both in [0, 1].

    Source: Petsiuk et al., RISE, BMVC 2018.
    """
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = torch.zeros_like(order).scatter(1, order, torch.arange(order.shape[1]).expand_as(order))
    rank = rank.reshape(maps.shape)
    empty = images.mean((2, 3), keepdim=True).expand_as(images)
    pixels = order.shape[1]
    curves = []
    for background, foreground in ((images, empty), (empty, images)):
        values = []
        for step in range(steps + 1):
            changed = torch.where(rank < step * pixels / steps, foreground, background)
            values.append(_probability(network, changed, class_idx, batch_size))
        curves.append(torch.trapezoid(torch.stack(values), dx=1 / steps, dim=0))
    return curves[0], curves[1]


def _probability(
    network: nn.Module, images: torch.Tensor, class_idx: torch.Tensor, batch_size: int
) -> torch.Tensor:
    with torch.no_grad(), eval_mode(network):
        parts = [network(part).float().softmax(1) for part in images.split(batch_size)]
    return torch.cat(parts).gather(1, class_idx[:, None].to(images.device))[:, 0]
