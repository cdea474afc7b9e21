"""Do features follow the anatomy and not the contrast? Five figures, each (B,), of maps (B, C, *spatial).

Cosines run over the voxels of each centred channel, whatever the network's own normalisation, away from the
border, where zero padding shows, and inside a mask where one is given.
"""

from __future__ import annotations

import torch

from robustmed_monai.losses.cifl import channel_similarity, crop_border, gram_matrix
from robustmed_monai.networks.cifl import unit_maps


def s_same(
    features: torch.Tensor, other_contrast: torch.Tensor, mask: torch.Tensor | None = None, crop: int = 8
) -> torch.Tensor:
    """Mean cosine over the channels between two contrasts of the same anatomy; 1 is invariant.

    Args:
        features: (B, C, *spatial) of the images.
        other_contrast: features of the same anatomies in another contrast.
        mask: (B, 1, *spatial), not 0 where to compare; None compares everywhere.
        crop: voxels left out at each border.

    Example:
        >>> maps = torch.rand(2, 4, 32, 32)
        >>> s_same(maps, 3 * maps + 1).round(decimals=2)
        tensor([1., 1.])
    """
    return channel_similarity(_units(features, mask, crop), _units(other_contrast, mask, crop)).mean(1)


def s_inverted(
    features: torch.Tensor, inverted: torch.Tensor, mask: torch.Tensor | None = None, crop: int = 8
) -> torch.Tensor:
    """``s_same`` between features of images x and of their inverses 1 - x: the hardest change of contrast."""
    return s_same(features, inverted, mask, crop)


def s_other(features: torch.Tensor, mask: torch.Tensor | None = None, crop: int = 8) -> torch.Tensor:
    """Mean cosine between each image and the next of the batch, another anatomy.

    1 says that the features do not look at the image at all. With masks, voxels count that lie in both.
    """
    if mask is None:
        return s_same(features, features.roll(-1, 0), None, crop)
    return s_same(features, features.roll(-1, 0), (mask != 0) & (mask.roll(-1, 0) != 0), crop)


def channel_overlap(features: torch.Tensor, mask: torch.Tensor | None = None, crop: int = 8) -> torch.Tensor:
    """Mean |G| over pairs of different channels: 0 for orthogonal channels, 1 when all are one."""
    gram = gram_matrix(_units(features, mask, crop))
    different = ~torch.eye(gram.shape[1], dtype=torch.bool, device=gram.device)
    return gram[:, different].abs().mean(1)


def effective_rank(features: torch.Tensor, mask: torch.Tensor | None = None, crop: int = 8) -> torch.Tensor:
    """How many channels there really are, from 1 to C: exp of the entropy of G's normalised spectrum.

    Source: Roy and Vetterli, *The effective rank*, EUSIPCO 2007.

    Example:
        >>> one = torch.rand(1, 1, 32, 32)
        >>> effective_rank(one.expand(1, 5, 32, 32)).round(decimals=2)
        tensor([1.])
    """
    spectrum = torch.linalg.eigvalsh(gram_matrix(_units(features, mask, crop))).clamp(min=0)
    share = spectrum / spectrum.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    rank: torch.Tensor = torch.special.entr(share).sum(1).exp()
    return rank


def _units(features: torch.Tensor, mask: torch.Tensor | None, crop: int) -> torch.Tensor:
    inside = None if mask is None else crop_border(mask, crop)
    return unit_maps(crop_border(features, crop), mask=inside)
