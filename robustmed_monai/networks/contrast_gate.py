"""An image beside its contrast-invariant features, used only where its contrast is one that is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustmed_monai.utils.errors import ConfigError


class ImageAndFeatures(nn.Module):
    """Image (B, 1, *spatial) to the image and its features, (B, 1 + C, *spatial).

    Args:
        features: image to features (B, C, *spatial), such as ``CIFL``.
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, image: Tensor) -> Tensor:
        """The image in front of its features."""
        return torch.cat([image, self.features(image)], 1)


class ContrastGate(nn.Module):
    """Segment with the image where its contrast is known, and by the features alone elsewhere.

    In training every second image of a batch is masked (its channel is 0), so that one network learns both
    ways. Afterwards each image is segmented in both ways: where they agree, the network knows the contrast
    and the image's own answer, which is the sharper one, is taken; where they do not, that of the features,
    which do not change with the contrast.

    Args:
        network: (B, 1 + C, *spatial), what ``ImageAndFeatures`` gives, to logits (B, K, *spatial).
        agreement: least share, in [0, 1], of the voxels that either way calls tissue on which both give the
            same class. On validation subjects of OASIS it is 0.71 to 0.85 on T1, and at most 0.44 inverted
            or painted like T2.

    Raises:
        ConfigError: when ``agreement`` is out of range; in training, for a batch of one image.

    Example:
        >>> gate = ContrastGate(nn.Conv2d(3, 2, 1)).eval()
        >>> gate(torch.rand(4, 3, 8, 8)).shape
        torch.Size([4, 2, 8, 8])
    """

    def __init__(self, network: nn.Module, agreement: float = 0.6) -> None:
        super().__init__()
        if not 0 <= agreement <= 1:
            raise ConfigError(f"agreement is {agreement}; choose a share in [0, 1].")
        self.network = network
        self.agreement = agreement

    def forward(self, seen: Tensor) -> Tensor:
        """Logits (B, K, *spatial) of images and features (B, 1 + C, *spatial)."""
        if self.training:
            if len(seen) == 1:
                raise ConfigError(
                    "ContrastGate: in batches of one image none is ever masked, and the features alone are "
                    "not learned; train with a batch_size of 2 or more."
                )
            mixed = seen.clone()
            mixed[1::2, 0] = 0
            learnt: Tensor = self.network(mixed)
            return learnt
        with_image: Tensor = self.network(seen)
        without: Tensor = self.network(torch.cat([torch.zeros_like(seen[:, :1]), seen[:, 1:]], 1))
        known = agreement(with_image.argmax(1), without.argmax(1)) >= self.agreement
        return torch.where(known.reshape(-1, *[1] * (seen.ndim - 1)), with_image, without)


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Share (B,) of the voxels above 0 in either of two label maps (B, *spatial) at which both are the same.

    Two empty maps agree.
    """
    one, other = first.flatten(1), second.flatten(1)
    tissue = (one > 0) | (other > 0)
    same, count = ((one == other) & tissue).sum(1), tissue.sum(1)
    share = same / count.clamp(min=1)
    return torch.where(count > 0, share, torch.ones_like(share))
