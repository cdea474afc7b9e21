"""Networks of the published methods, one file each."""

from robustmed_monai.networks.reversed_autoencoder import ReversedAutoEncoder, published_channels

__all__ = ["ReversedAutoEncoder", "published_channels"]
