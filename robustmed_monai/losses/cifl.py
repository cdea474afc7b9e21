"""The contrastive objective of CIFL, one named function per quantity.

Notation of the paper: r_1, r_2 unit feature maps of two contrasts of one anatomy, s similarity of the same
channel across contrasts, G Gram matrix of the channels of one image; tau_alpha, tau_beta and tau_gamma are
called tau_a, tau_b and tau_g here. All runs in float32, also inside autocast.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import torch
from monai.utils.enums import CommonKeys as Keys
from torch import nn

from robustmed_monai.networks.cifl import check_norm, unit_maps
from robustmed_monai.utils.errors import ConfigError, ImageShapeError

Networks = Mapping[str, nn.Module]
Batch = MutableMapping[str, torch.Tensor]
Terms = dict[str, torch.Tensor]


def channel_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Similarity s[c] = <r_1[c], r_2[c]> of each channel across two images: two (B, C, N) to (B, C)."""
    return (first * second).sum(2)


def gram_matrix(first: torch.Tensor) -> torch.Tensor:
    """G = r_1 r_1^T, how much the channels of one image resemble each other: (B, C, N) to (B, C, C)."""
    # A matrix product inside autocast would run in bfloat16, whatever its operands.
    with torch.autocast(first.device.type, enabled=False):
        return first @ first.transpose(1, 2)


def attraction(similarity: torch.Tensor, tau_a: float) -> torch.Tensor:
    """-log of the numerator, per sample: s (B, C) to -log sum_c exp(s[c] / tau_a), (B,)."""
    return -torch.logsumexp(similarity / tau_a, 1)


def repulsion(similarity: torch.Tensor, gram: torch.Tensor, tau_b: float, tau_g: float) -> torch.Tensor:
    """Log of the denominator, per sample: over all s[c] / tau_b and all G[c, c'] / tau_g with c != c'.

    Args:
        similarity: s (B, C).
        gram: G (B, C, C).
        tau_b: temperature of the similarities (tau_beta).
        tau_g: temperature of the pairs of channels (tau_gamma).

    Returns:
        (B,); one logarithm around both sums, as printed.
    """
    count = gram.shape[1]
    different = ~torch.eye(count, dtype=torch.bool, device=gram.device)
    return torch.logsumexp(torch.cat([similarity / tau_b, gram[:, different] / tau_g], 1), 1)


class CIFLLoss:
    """L = mean_b (repulsion - attraction): invariant channels that differ from each other.

    As the one objective of a MultiOptimizerTrainer it takes the features of the network called "network";
    ``terms`` takes any two feature maps.

    Two things are not as printed, because the printed loss has optima that ignore the image: maps are centred
    (else constant maps are one), and their borders cropped (else the network reaches the global minimum with
    position codes that it paints where the zeros of the padding are seen).

    Args:
        tau_a: temperature of the similarities in the numerator (tau_alpha).
        tau_b: temperature of the similarities in the denominator (tau_beta).
        tau_g: temperature of the pairs of channels (tau_gamma); the smaller, the more channels differ.
        norm: axis of the L2 norm, "channel" or "voxel", see ``unit_maps``.
        center: subtract each map's mean; False as printed.
        crop: voxels cut from each border of both maps; the network's ``radius`` keeps its padding out, 0 as
            printed.
        symmetric: average the loss over both orders of the contrasts; as printed, channels are told apart
            within the first alone.

    Raises:
        ConfigError: for a temperature that is not positive, an unknown norm or a negative crop.

    Source: Chua and Dalca, *Contrast Invariant Feature Representations for Segmentation and Registration of
        Medical Images* (CIFL). It sweeps tau_g over 1, 0.1 and 0.01 and states no other temperature; tau_a =
        tau_b = 1 is where the pull on s lasts to the end.

    Example:
        >>> maps = torch.rand(2, 16, 40, 40)
        >>> sorted(CIFLLoss().terms(maps, maps))
        ['attraction', 'loss', 'repulsion', 's_same']
    """

    def __init__(
        self,
        tau_a: float = 1.0,
        tau_b: float = 1.0,
        tau_g: float = 1.0,
        norm: str = "channel",
        center: bool = True,
        crop: int = 8,
        symmetric: bool = False,
    ) -> None:
        if min(tau_a, tau_b, tau_g) <= 0:
            raise ConfigError(f"temperatures {tau_a}, {tau_b}, {tau_g}; give positive numbers.")
        if crop < 0:
            raise ConfigError(f"crop={crop}; give the number of voxels to cut from each border, 0 or more.")
        check_norm(norm)
        self.tau_a, self.tau_b, self.tau_g = tau_a, tau_b, tau_g
        self.norm = norm
        self.center = center
        self.crop = crop
        self.symmetric = symmetric

    def __call__(self, networks: Networks, batch: Batch, generator: torch.Generator) -> Terms:
        """Terms of one batch.

        Args:
            networks: "network", image to features.
            batch: "image" (2 B, 1, *spatial), first the one contrast of all anatomies, then the other, as
                ``SyntheticViews`` makes them. The features are left as "pred".
            generator: not used; nothing is drawn here.

        Returns:
            What ``terms`` returns.
        """
        features = networks["network"](batch[Keys.IMAGE])
        batch[Keys.PRED] = features.detach()
        first, second = features.chunk(2)
        return self.terms(first, second)

    def terms(self, first: torch.Tensor, second: torch.Tensor) -> Terms:
        """Terms of two feature maps of the same anatomies.

        Args:
            first: (B, C, *spatial).
            second: the same shape.

        Returns:
            "loss", its two parts "attraction" and "repulsion", and "s_same", the mean of s; scalars.

        Raises:
            ImageShapeError: when nothing is left after the crop, or shapes differ.
        """
        maps = [unit_maps(crop_border(x, self.crop), self.norm, self.center) for x in (first, second)]
        if maps[0].shape != maps[1].shape:
            raise ImageShapeError(
                f"features of {tuple(first.shape)} and {tuple(second.shape)}; make them equal."
            )
        similarity = channel_similarity(*maps)
        pull = attraction(similarity, self.tau_a).mean()
        firsts = maps if self.symmetric else maps[:1]
        push = torch.stack(
            [repulsion(similarity, gram_matrix(r), self.tau_b, self.tau_g).mean() for r in firsts]
        ).mean()
        return {
            "loss": push + pull,
            "attraction": pull,
            "repulsion": push,
            "s_same": similarity.detach().mean(),
        }


def crop_border(features: torch.Tensor, crop: int) -> torch.Tensor:
    """Cut ``crop`` voxels from each border of (B, C, *spatial).

    Raises:
        ImageShapeError: when nothing would be left.
    """
    if min(features.shape[2:]) <= 2 * crop:
        raise ImageShapeError(
            f"features of {tuple(features.shape[2:])} voxels have nothing left after a crop of {crop}; give "
            "larger images or a smaller crop."
        )
    inner = tuple(slice(crop, side - crop) for side in features.shape[2:])
    return features[(slice(None), slice(None), *inner)]
