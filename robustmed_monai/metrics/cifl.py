"""Do features follow the anatomy and not the contrast? Five figures, each (B,), of maps (B, C, *spatial).

Cosines run over the voxels of each centred channel, whatever the network's own normalisation, away from the
border, where zero padding shows, and inside a mask where one is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.networks.utils import eval_mode
from torch import nn

from robustmed_monai.losses.cifl import channel_similarity, crop_border, gram_matrix
from robustmed_monai.metrics.result import Result
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


def invariance_figures(
    features: torch.Tensor, mask: torch.Tensor, crop: int = 8, kind: str = "shapes"
) -> dict[str, torch.Tensor]:
    """All five figures of a batch, each (B,), named ``<kind>_<figure>``.

    Args:
        features: (3 B, C, *spatial) of B images, of them in another contrast, and of them inverted.
        mask: (B, 1, *spatial), not 0 where to compare.
        crop: voxels left out at each border.
        kind: what the batch shows.
    """
    first, other, inverted = features.chunk(3)
    figures = {
        "s_same": s_same(first, other, mask, crop),
        "s_inverted": s_inverted(first, inverted, mask, crop),
        "s_other": s_other(first, mask, crop),
        "overlap": channel_overlap(first, mask, crop),
        "rank": effective_rank(first, mask, crop),
    }
    return {f"{kind}_{name}": values.cpu() for name, values in figures.items()}


def mean_figures(batches: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float]:
    """Means over all images, and ``<kind>_margin``, the mean of s_same and s_inverted less s_other."""
    names = dict.fromkeys(name for batch in batches for name in batch)
    means = {name: float(torch.cat([b[name] for b in batches if name in b]).mean()) for name in names}
    for kind in [name.removesuffix("_s_same") for name in means if name.endswith("_s_same")]:
        same, inverted, other = (means[f"{kind}_s_{k}"] for k in ("same", "inverted", "other"))
        means[f"{kind}_margin"] = (same + inverted) / 2 - other
    return means


def measure_features(
    network: nn.Module,
    batches: Sequence[Mapping[str, Any]],
    crop: int = 8,
    device: torch.device | str = "cpu",
) -> Result:
    """Figures of features on the batches of ``data.invariance_views``; one channel has no overlap.

    No figure has an interval, as the images of a batch are compared with each other.

    Args:
        network: image (B, 1, *spatial) to features.
        batches: views to measure on.
        crop: voxels left out at each border.
        device: where the network runs.
    """
    found = []
    with torch.no_grad(), eval_mode(network.to(device)):
        for batch in batches:
            features = network(batch["image"].to(device))
            found.append(invariance_figures(features, batch["mask"].to(device), crop, batch["kind"]))
    return Result(mean_figures(found))


def _units(features: torch.Tensor, mask: torch.Tensor | None, crop: int) -> torch.Tensor:
    inside = None if mask is None else crop_border(mask, crop)
    return unit_maps(crop_border(features, crop), mask=inside)
